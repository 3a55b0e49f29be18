"""The page, in a real browser, as the stage wrote it on a crumb; and the files that the stage reads and writes."""

import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from browser import list_violations, open_browser, open_page
from pipeline import edit_params, run
from playwright.sync_api import Browser, Page

from stages.lib.params.load import load_params
from stages.lib.report.answers import Layer
from stages.lib.report.tables import list_grids
from stages.lib.results.published import DATASET_PAPER, STUDY
from stages.lib.results.rows import CLASS_SCORES
from stages.lib.storage.files import read_csv, read_json
from stages.report import READS, Findings, answer_all, read_findings, write_page

HOSTILE = '<img src=x onerror="alert(1)"></script>{{ 7 * 7 }}'
OPEN_ALL = "document.querySelectorAll('details').forEach(one => one.open = true)"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def report(finished: Path) -> Path:
    return finished / "data/report/index.html"


@pytest.fixture
def found(finished: Path, monkeypatch: pytest.MonkeyPatch) -> Findings:
    monkeypatch.chdir(finished)
    return read_findings(load_params(reads=READS))


@pytest.fixture
def page(browser: Browser, report: Path) -> Iterator[Page]:
    with open_page(browser, report.as_uri(), offline=True) as page:
        yield page


def read_column(page: Page, caption: str, column: int) -> list[str]:
    table = page.locator("table", has=page.locator("caption", has_text=caption))
    return table.locator(f"tbody tr > :nth-child({column})").all_inner_texts()


def test_answer_shows_the_numbers_of_the_files(page: Page, finished: Path) -> None:
    model = read_json(finished / "data/ship/model.json")
    timing = read_json(finished / f"data/timing/c/{model['source']}/{model['name']}.json")
    shown = {
        name: page.locator("dl div", has_text=name).locator("strong").inner_text()
        for name in ("Test accuracy", "Weakest class", "Flash", "Time for an image")
    }
    assert shown == {
        "Test accuracy": f"{100 * model['test_accuracy']:.2f} %",
        "Weakest class": f"{100 * min(row['recall'] for row in model['classes']):.2f} %",
        "Flash": f"{model['device']['flash_bytes'] / 1000:,.0f} kB",
        "Time for an image": f"{timing['c']['median_ms']:.3f} ms",
    }
    assert page.locator(".eyebrow").inner_text().endswith(f": {model['name']}, {model['precision']}")


def test_page_says_first_what_the_model_does_and_cites_study_and_data(page: Page) -> None:
    title = "Tells which of 10 classes a grey picture of 28 x 28 pixels shows"
    assert (page.title(), page.locator("h1").inner_text()) == (f"{title}: the report", title)
    assert "probability for each of 10 classes: T-shirt/top, " in page.locator("h1 + p").inner_text()
    cited = page.locator("header .sources").inner_text()
    assert STUDY in cited
    assert DATASET_PAPER in cited


def test_recall_of_every_class_is_that_of_the_shipped_file(page: Page, finished: Path) -> None:
    classes = read_json(finished / "data/ship/model.json")["classes"]
    caption = "The shipped file by class"
    assert read_column(page, caption, 1) == [row["class"] for row in classes]
    assert read_column(page, caption, 2) == [
        f"{100 * row['recall']:.2f} % ({100 * row['recall_low']:.1f} to {100 * row['recall_high']:.1f})"
        for row in classes
    ]


def test_every_candidate_has_its_row_and_the_chosen_one_stands_out(page: Page, finished: Path) -> None:
    rows = read_csv(finished / "data/compare/candidates.csv")
    shown = dict(zip(*(read_column(page, "Every candidate", column) for column in (1, 3)), strict=True))
    assert shown == {
        f"{row['model']}-{row['augmentation']}": "{:.2f} % ({:.1f} to {:.1f})".format(
            *(100 * float(row[f"test_accuracy{end}"]) for end in ("", "_low", "_high"))
        )
        for row in rows
    }
    for place, name in enumerate(CLASS_SCORES, start=5):
        percents = [f"{100 * float(row[name]):.2f} %" for row in rows]
        assert sorted(read_column(page, "Every candidate", place)) == sorted(percents)
    choice = read_json(finished / "data/select_model/choice.json")
    marked = page.locator("#choice tr.marked th").all_inner_texts()
    assert marked == [f"{choice['model']}-{choice['augmentation']}"]


def test_every_file_in_c_has_its_costs_and_the_shipped_one_stands_out(page: Page, finished: Path) -> None:
    files = [row for row in read_csv(finished / "data/frontier/frontier.csv") if row["flash_bytes"]]
    page.evaluate(OPEN_ALL)
    caption = "Every int8 file in C"
    assert read_column(page, caption, 1) == [row["name"] for row in files]
    assert read_column(page, caption, 4) == [f"{int(row['flash_bytes']) / 1000:,.0f} kB" for row in files]
    assert read_column(page, caption, 6) == [f"{int(row['executed_macs']):,}" for row in files]
    assert read_column(page, caption, 7) == [f"{int(row['instructions']):,}" for row in files]
    shipped = read_json(finished / "data/ship/model.json")
    marked = page.locator("#device tr.marked th").all_inner_texts()
    assert set(marked) == {shipped["name"]}
    costs = [shipped["device"][key] for key in ("flash_bytes", "ram_bytes", "instructions_cortex_m4")]
    row = next(row for row in files if row["name"] == shipped["name"])
    assert costs == [int(row[column]) for column in ("flash_bytes", "ram_bytes", "instructions")]


def test_duplicates_and_what_they_are_worth_have_their_rows(page: Page, finished: Path) -> None:
    audit = read_json(finished / "data/audit/metrics.json")
    caption = "Pairs of duplicates"
    counts = [row for kind in audit["duplicates"].values() for row in kind.values()]
    assert read_column(page, caption, 1)[:4] == [
        *("files: train", "files: train and t10k", "files: t10k"),
        "splits: train",
    ]
    for column, kind in ((2, "exact"), (3, "near"), (4, "two_labels")):
        assert read_column(page, caption, column) == [str(row[kind]) for row in counts]
    caption, parts = "has a duplicate in training", audit["test_accuracy"]
    assert read_column(page, caption, 1) == [name.replace("_", " ") for name in parts]
    assert read_column(page, caption, 2) == [str(part["images"]) for part in parts.values()]
    assert read_column(page, caption, 3) == [
        "{:.2f} % ({:.1f} to {:.1f})".format(*(100 * part[f"accuracy{end}"] for end in ("", "_low", "_high")))
        for part in parts.values()
    ]


def test_every_sparsity_says_how_long_it_was_trained(browser: Browser, copy: Path) -> None:
    edit_params(copy, prune={"epochs": [1, 3]})
    run(copy, sys.executable, "-m", "stages.report")
    with open_page(browser, (copy / "data/report/index.html").as_uri(), offline=True) as page:
        shown = dict(zip(*(read_column(page, "Every step of pruning", column) for column in (1, 3)), strict=True))
    ladders = ("lamp", "magnitude-0.5-cost")
    of_steps = {f"{ladder}-{step}": epochs for ladder in ladders for step, epochs in ((0.5, "1"), (0.75, "3"))}
    assert shown == {"finished": ""} | of_steps


def test_every_paired_test_has_its_row(page: Page, finished: Path) -> None:
    rows = read_csv(finished / "data/frontier/comparisons.csv")
    families: dict[str, list[tuple[str, ...]]] = {}
    for row in rows:
        families.setdefault(row["family"], []).append((row["name"], row["reference"], row["verdict"]))
    page.evaluate(OPEN_ALL)
    for family, expected in families.items():
        caption = f"Paired tests: {family}"
        tables = page.locator("table").filter(has=page.get_by_text(caption, exact=True))
        shown = [tables.locator(f"tbody tr > :nth-child({column})").all_inner_texts() for column in (1, 2, 5)]
        assert list(zip(*shown, strict=True)) == expected


def test_every_file_has_balanced_accuracy_and_macro_f1_beside_its_accuracy(page: Page, finished: Path) -> None:
    rows = read_csv(finished / "data/frontier/frontier.csv")
    page.evaluate(OPEN_ALL)
    for place, name in ((5, "test_balanced_accuracy"), (6, "test_macro_f1")):
        expected = [f"{100 * float(row[name]):.2f} %" if row[name] else "" for row in rows]
        assert read_column(page, "Every file, and published results", place) == expected
    shipped = read_json(finished / "data/ship/model.json")
    said = page.locator("#classes .answer").inner_text().replace("\u00a0", " ")
    assert f"a macro-F1, their mean F1, of {100 * shipped['test_macro_f1']:.2f} %." in said


def test_page_card_and_tables_of_other_data_have_no_word_of_the_studys(copy: Path) -> None:
    names = [f"flower {letter}" for letter in "ABCDEFGHIJ"]
    dataset = {"name": "flowers", "source": "../flowers", "files": None, "class_names": names}
    edit_params(copy, dataset=dataset | {"channels": 3, "fit": "crop"}, ship={"metric": "macro_f1"})
    for stage in ("frontier", "ship", "verify", "compare", "report"):
        run(copy, sys.executable, "-m", f"stages.{stage}")

    page = re.sub('src="data:[^"]*"', "", (copy / "data/report/index.html").read_text())
    texts = {"index.html": page}
    paths = ("report/answers.json", "ship/model_card.md", "ship/model.json", "compare/headline.md", "compare/grid.md")
    texts |= {path: (copy / "data" / path).read_text() for path in paths}
    assert "published" not in {row["kind"] for row in read_csv(copy / "data/compare/files.csv")}
    words = "fashion|mnist|garment|cloth|shirt|shoe|grey picture|light on black|study|published|Elgamiel|Zalando"
    assert {path: re.findall(f".*(?:{words}).*", text, re.IGNORECASE) for path, text in texts.items()} == {
        path: [] for path in texts
    }
    shipped = read_json(copy / "data/ship/model.json")
    assert "<h1>Tells which of 10 classes a colour picture of 28 x 28 pixels shows</h1>" in page
    assert (
        "In goes a colour picture of 28 x 28 pixels. Out comes a probability for each of 10 classes: flower A" in page
    )
    assert (
        f"It was chosen by its macro-F1 on validation images, {100 * shipped['val_macro_f1']:.2f} %;"
        in texts["report/answers.json"]
    )
    assert "colour picture of 28 x 28 pixels shows: flower A, " in texts["ship/model_card.md"]


def test_studys_choice_shows_no_cost_of_this_runs_model(found: Findings) -> None:
    with_third = replace(found, costs={**found.costs, "third": found.costs["tiny"]})

    page = write_page(with_third, answer_all(with_third))

    (row,) = re.findall("<tr><th[^>]*>third-strong, the study.*?</tr>", page, re.DOTALL)
    assert re.findall(">([^<>]*)</td>", row) == ["89.58 % (89.0 to 90.2)", *[""] * 5]


def test_names_are_text_whatever_they_hold(browser: Browser, found: Findings, tmp_path: Path) -> None:
    hide = {"Bag": HOSTILE}
    classes = [{**row, "class": hide.get(row["class"], row["class"])} for row in found.shipped["classes"]]
    shipped = {**found.shipped, "classes": classes, "class_names": [row["class"] for row in classes], "name": HOSTILE}
    confusion = {(hide.get(a, a), hide.get(b, b)): count for (a, b), count in found.confusion.items()}
    layers = {model: [replace(layer, layer=HOSTILE) for layer in rows] for model, rows in found.layers.items()}
    name = found.shipped["name"]
    comparisons = [replace(row, name=row.name.replace(name, HOSTILE)) for row in found.comparisons]
    hostile = replace(found, shipped=shipped, confusion=confusion, layers=layers, comparisons=comparisons)
    (tmp_path / "page.html").write_text(write_page(hostile, answer_all(hostile)))

    with open_page(browser, (tmp_path / "page.html").as_uri(), offline=True) as page:
        page.evaluate(OPEN_ALL)
        assert page.locator("img[src=x]").count() == 0
        assert page.locator(".eyebrow").inner_text().endswith(f": {HOSTILE}, {shipped['precision']}")
        assert HOSTILE in read_column(page, "The shipped file by class", 1)
        assert page.locator("#classes svg text", has_text="<img").count() == 1


def test_page_asks_for_nothing_but_itself(page: Page) -> None:
    page.evaluate(OPEN_ALL)
    asked = page.evaluate("performance.getEntriesByType('resource').map(entry => entry.name)")
    assert [url for url in asked if not url.startswith("data:")] == []


def test_page_answers_every_question_of_its_list(page: Page, finished: Path) -> None:
    answers = read_json(finished / "data/report/answers.json")
    questions = page.locator("nav a").all_inner_texts()
    assert page.locator("main h2").all_inner_texts() == questions
    assert list(answers)[1:] == questions[:-1]
    shown = page.locator("p.answer").all_inner_texts()
    for answer, text in zip(answers.values(), shown, strict=False):
        assert text.replace("\u00a0", " ").startswith(answer)


def test_sources_that_a_section_names_exist_and_are_declared(page: Page, finished: Path) -> None:
    stage = yaml.safe_load((finished / "dvc.yaml").read_text())["stages"]["report"]
    for pattern in set(page.locator(".sources code").all_inner_texts()):
        assert list(finished.glob(pattern)), pattern
        assert any(pattern.startswith(dependency) for dependency in [*stage["deps"], "params.yaml"]), pattern


def test_without_what_is_not_declared_the_page_is_the_same(finished: Path, tmp_path: Path) -> None:
    stage = yaml.safe_load((finished / "dvc.yaml").read_text())["stages"]["report"]
    shutil.copytree(finished / "stages", tmp_path / "stages")
    shutil.copy(finished / "params.yaml", tmp_path)
    for dependency in stage["deps"]:
        path = tmp_path / dependency
        if dependency.startswith("data/"):
            path.parent.mkdir(parents=True, exist_ok=True)
            copy = shutil.copytree if (finished / dependency).is_dir() else shutil.copy
            copy(finished / dependency, path)

    run(tmp_path, sys.executable, "-m", "stages.report")

    for name in ("answers.json", "index.html"):
        assert (tmp_path / "data/report" / name).read_bytes() == (finished / "data/report" / name).read_bytes()


def test_click_sorts_numbers_by_value_and_turns_round(page: Page) -> None:
    head = page.locator("#choice th", has_text="MACs")
    head.locator("button").click()
    falling = [int(text.replace(",", "")) for text in read_column(page, "Every candidate", 9)]
    assert falling == sorted(falling, reverse=True)
    assert len(set(falling)) > 1
    assert head.get_attribute("aria-sort") == "descending"
    head.locator("button").click()
    assert [int(text.replace(",", "")) for text in read_column(page, "Every candidate", 9)] == sorted(falling)
    assert head.get_attribute("aria-sort") == "ascending"


def test_keyboard_sorts_text(page: Page) -> None:
    page.locator("#choice th button").first.focus()
    page.keyboard.press("Enter")
    names = read_column(page, "Every candidate", 1)
    assert names == sorted(names)
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    sorts = [head.get_attribute("aria-sort") for head in page.locator("#choice th[scope=col]").all()]
    assert sorts[:3] == ["none", "descending", "none"]


def test_cells_without_a_value_come_last_in_both_directions(page: Page) -> None:
    button = page.locator("#frontier table").first.locator("th button", has_text="gzipped")
    for _ in range(2):
        button.click()
        shown = read_column(page, "The front by gzipped size", 6)
        values = [text for text in shown if text]
        assert values
        assert shown[: len(values)] == values


def read_tip(page: Page) -> str:
    tip = page.locator(".tip")
    tip.wait_for(state="visible")
    return tip.inner_text()


def test_mark_under_the_pointer_shows_its_numbers(page: Page, finished: Path) -> None:
    classes = read_json(finished / "data/ship/model.json")["classes"]
    best = max(classes, key=lambda row: row["recall"])
    page.locator("#classes svg [aria-roledescription=bar]").nth(classes.index(best)).hover()
    assert f"class: {best['class']}\nfound (%): {100 * best['recall']:.1f}" in read_tip(page)
    page.mouse.move(0, 0)
    assert not page.locator(".tip").is_visible()


def test_keys_step_through_the_marks_of_a_chart(page: Page) -> None:
    chart = page.locator("#frontier svg.chart").first
    chart.focus()
    tips = []
    for key in ("ArrowRight", "ArrowRight", "ArrowLeft"):
        page.keyboard.press(key)
        tips.append(read_tip(page))
    assert tips[0] == tips[2] != tips[1]
    assert not [tip for tip in tips if re.search("undefined|null", tip)]
    page.keyboard.press("Escape")
    assert not page.locator(".tip").is_visible()


def test_every_picture_and_chart_has_a_text_alternative(page: Page) -> None:
    pictures = [picture.get_attribute("alt") for picture in page.locator("img").all()]
    charts = [chart.get_attribute("aria-label") for chart in page.locator("svg").all()]
    assert len(pictures) >= 4
    assert len(charts) >= 10
    assert [text for text in pictures + charts if not text or len(text) < 20] == []
    assert [text for text in charts if not re.search(r"\d", str(text))] == []
    assert page.locator("svg:not([role=img])").count() == 0


def test_charts_and_tables_are_there_without_javascript(browser: Browser, report: Path) -> None:
    with open_page(browser, report.as_uri(), offline=True, java_script_enabled=False) as page:
        assert page.locator("svg.chart [aria-roledescription=point]").count() > 50
        assert page.locator("#choice table").first.locator("tbody tr").count() == 4
        assert page.locator("th button").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_violation(browser: Browser, report: Path, scheme: str) -> None:
    with open_page(browser, report.as_uri(), offline=True, color_scheme=scheme) as page:
        page.evaluate(OPEN_ALL)
        assert list_violations(page) == []


def test_dark_screens_get_dark_paper_and_light_ink(browser: Browser, report: Path) -> None:
    colors = {}
    for scheme in ("light", "dark"):
        with open_page(browser, report.as_uri(), offline=True, color_scheme=scheme) as page:
            style = "getComputedStyle(document.body)"
            found = [page.evaluate(f"{style}.{name}") for name in ("backgroundColor", "color")]
            colors[scheme] = [sum(map(int, re.findall(r"\d+", color)[:3])) / 3 for color in found]
    assert colors["light"][0] > 240 > 60 > colors["light"][1]
    assert colors["dark"][1] > 200 > 60 > colors["dark"][0]


@pytest.mark.parametrize("width", [390, 1280])
def test_page_never_scrolls_sideways(browser: Browser, report: Path, width: int) -> None:
    with open_page(browser, report.as_uri(), offline=True, viewport={"width": width, "height": 900}) as page:
        page.evaluate(OPEN_ALL)
        assert page.evaluate("document.documentElement.scrollWidth") == width


def test_texts_of_charts_are_readable_on_a_phone(browser: Browser, report: Path) -> None:
    with open_page(browser, report.as_uri(), offline=True, viewport={"width": 390, "height": 900}) as page:
        scale = "svg => svg.getBoundingClientRect().width / svg.viewBox.baseVal.width"
        for chart in page.locator("svg.chart").all():
            assert chart.evaluate(scale) > 0.9


def test_paper_shows_what_is_folded_and_no_controls(page: Page) -> None:
    assert page.pdf(prefer_css_page_size=True, print_background=True).startswith(b"%PDF")
    page.emulate_media(media="print", color_scheme="dark")
    assert page.locator("#curves details table").is_visible()
    assert not page.locator("nav").is_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


def test_folded_parts_open_for_the_time_of_printing(page: Page) -> None:
    folded = page.locator("details:not([open])")
    num_folded = folded.count()
    assert num_folded > 3
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert folded.count() == 0
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert folded.count() == num_folded


def test_second_run_writes_the_same_bytes(copy: Path) -> None:
    written = {name: (copy / "data/report" / name).read_bytes() for name in ("answers.json", "index.html")}
    shutil.rmtree(copy / "data/report")
    run(copy, sys.executable, "-m", "stages.report")
    assert {path.name: path.read_bytes() for path in (copy / "data/report").iterdir()} == written


def test_without_any_times_the_answers_stay_and_the_page_says_so(copy: Path) -> None:
    answers = (copy / "data/report/answers.json").read_bytes()
    shutil.rmtree(copy / "data/timing")
    (copy / "data/recorded_times.json").unlink()
    for stage in ("frontier", "ship", "verify", "compare", "report"):
        run(copy, sys.executable, "-m", f"stages.{stage}")
    page = (copy / "data/report/index.html").read_text()
    assert (copy / "data/report/answers.json").read_bytes() == answers
    assert "<strong>not measured here</strong>" in page
    assert "Its time in LiteRT was not measured here." in page
    assert not re.search(r"\d ms\b", page)


def test_missing_picture_ends_the_stage_with_one_line(copy: Path) -> None:
    (copy / "data/preview/none.png").unlink()
    page = (copy / "data/report/index.html").read_bytes()
    printed = run(copy, sys.executable, "-m", "stages.report", status=1)
    assert printed.startswith("error: data/preview/none.png: expected a picture")
    assert printed.count("\n") == 1
    assert (copy / "data/report/index.html").read_bytes() == page


def test_model_without_convolutions_has_no_receptive_field(found: Findings) -> None:
    flat = Layer("dense1", "dense", "8", 28.0, None, 1, 2, 1, 2, 1, 1.0, 1.0)
    assert {row["model"] for row in list_grids({**found.layers, "flat": [flat]})} == {"tiny", "thin"}

    flattened = replace(found, layers={model: [flat] for model in found.layers})
    assert "No model of this run has a convolution" in write_page(flattened, answer_all(flattened))
