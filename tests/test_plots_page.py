"""The page of `dvc plots show` and `dvc plots diff`, in a real browser without a network."""

import hashlib
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import list_violations, open_browser, open_page
from pipeline import ROOT, dvc, run, run_commands
from playwright.sync_api import Browser, Locator, Page, expect

from stages.lib.storage.files import read_csv, write_csv

AXES = {
    "Accuracy against flash": ["kB of flash on a Cortex-M4", "test accuracy (%)"],
    "Accuracy against size": ["kB, gzipped", "test accuracy (%)"],
    "Accuracy of every candidate": ["accuracy (%)"],
    "Learning curves of all candidates": ["accuracy (%)", "epoch"],
    "Confusion matrix of the finished model (test images)": ["actual class", "predicted class"],
    "How familiar test images and digits look to the shipped file": ["pictures (%)", "the higher, the more familiar"],
    "Accuracy after pruning": ["weights that are zero (%)"],
    "Where the zeros are": ["step (%): zeros in the pruned kernels, or cost saved"],
    "Accuracy after shrinking": ["million MACs an image"],
    "Cost of each layer of tiny": [],
    "Cost of each layer of thin": [],
}
"""The titles of the axes of each plot that is drawn at once, by the plot's title, in order."""

TRAININGS = [f"Learning curve of {model}-{regime}-42" for model in ("tiny", "thin") for regime in ("none", "strong")]
TRAININGS += ["Learning curve of the finished model, seed 42"]
CHANGED = [
    "Accuracy against flash",
    "Accuracy against size",
    "Accuracy of every candidate",
    "Learning curves of all candidates",
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def shown(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of the page of `dvc plots show`, in a folder that is nowhere near the pipeline."""
    folder = tmp_path_factory.mktemp("shown") / "deep/er"
    dvc(finished, "plots", "show", "--out", str(folder))
    return (folder / "index.html").as_uri()


@pytest.fixture(scope="module")
def compared(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of the page of `dvc plots diff`: the last commit and a workspace whose accuracies are others."""
    folder = Path(shutil.copytree(finished, tmp_path_factory.mktemp("compared") / "copy", symlinks=True))
    for name, column in (
        ("frontier/frontier", "test_accuracy"),
        ("compare/files", "test_accuracy"),
        ("compare/curves", "accuracy"),
    ):
        rows = read_csv(folder / f"data/{name}.csv")
        write_csv(folder / f"data/{name}.csv", [row | {column: float(row[column]) / 2} for row in rows])
    dvc(folder, "plots", "diff", "HEAD", "--out", "page")
    return (folder / "page/index.html").as_uri()


def find_plot(page: Page, title: str) -> Locator:
    return page.locator(f"figure:has(> :is(h2, h3):text-is('{title}')) svg")


def list_axis_titles(page: Page, title: str) -> list[str]:
    return sorted(set(find_plot(page, title).locator(".role-axis-title text").all_text_contents()))


def count_marks(page: Page, title: str) -> int:
    return find_plot(page, title).locator(".role-mark path[d]:not([d=''])").count()


# What is there


@pytest.fixture(scope="module")
def page(browser: Browser, shown: str) -> Iterator[Page]:
    """The page of `dvc plots show`, to look at."""
    with open_page(browser, shown, offline=True) as page:
        yield page


def test_the_important_stands_first_and_what_concerns_one_model_last(page: Page) -> None:
    wide = [title for title in AXES if not title.startswith("Cost")]
    headings = page.locator("h2, summary").all_text_contents()
    assert headings == [*wide, "Distortions", "Cost of each layer", "Every training"]


@pytest.mark.parametrize("title", AXES)
def test_a_plot_is_drawn_with_the_titles_of_its_axes(page: Page, title: str) -> None:
    expect(find_plot(page, title)).to_be_visible()
    assert list_axis_titles(page, title) == AXES[title]
    assert count_marks(page, title) >= 3


def test_a_plot_has_a_caption_that_a_screen_reader_reads_too(page: Page) -> None:
    captions = page.locator("main > figure:has(svg) > figcaption").all_text_contents()
    graphics = page.locator("main > figure [role=graphics-document]").all()
    assert len(captions) == 9
    assert [graphic.get_attribute("aria-label") for graphic in graphics] == captions


def test_the_picture_is_loaded_and_named(page: Page) -> None:
    picture = page.get_by_role("img", name="Distortions, workspace")
    assert picture.evaluate("image => image.naturalWidth") > 100


def test_trainings_are_folded_and_drawn_when_they_are_asked_for(browser: Browser, shown: str) -> None:
    with open_page(browser, shown, offline=True) as page:
        expect(find_plot(page, "Cost of each layer of tiny")).to_be_visible()
        assert find_plot(page, TRAININGS[0]).count() == 0

        page.get_by_text("Every training").click()

        for title in TRAININGS:
            expect(find_plot(page, title)).to_be_visible()
            assert list_axis_titles(page, title) == ["accuracy (%)", "epoch", "learning rate", "loss (nats)"]
            assert count_marks(page, title) >= 3


def test_a_plot_that_is_asked_for_alone_is_drawn_at_once(browser: Browser, finished: Path, tmp_path: Path) -> None:
    dvc(finished, "plots", "show", "--out", str(tmp_path), "data/train/tiny-none/42/history.csv")

    with open_page(browser, (tmp_path / "index.html").as_uri(), offline=True) as page:
        expect(find_plot(page, TRAININGS[0])).to_be_visible()
        assert page.locator("figure").count() == 1


# Two revisions


def test_the_commands_of_the_readme_write_both_pages(copy: Path) -> None:
    run_commands(copy, "plots")
    assert [(copy / f"dvc_plots/{name}").exists() for name in ("index.html", "diff/index.html")] == [True, True]
    assert "dvc_plots" not in run(copy, "git", "status", "--short")


def test_a_difference_shows_both_revisions(browser: Browser, compared: str) -> None:
    with open_page(browser, compared, offline=True) as page:
        for title in CHANGED:
            expect(find_plot(page, title)).to_contain_text("workspace")
            expect(find_plot(page, title)).to_contain_text("HEAD")
        page.get_by_text("Every training").click()
        for title in (*AXES, *TRAININGS):
            expect(find_plot(page, title)).to_be_visible()


# Who reads it, and on what


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(browser: Browser, shown: str, scheme: str) -> None:
    with open_page(browser, shown, offline=True, color_scheme=scheme) as page:
        page.get_by_text("Every training").click()
        expect(find_plot(page, TRAININGS[-1])).to_be_visible()

        assert list_violations(page) == []


def test_labels_have_the_colour_of_the_text_in_the_dark(browser: Browser, shown: str) -> None:
    with open_page(browser, shown, offline=True, color_scheme="dark") as page:
        label = find_plot(page, "Accuracy against size").locator(".role-axis-label text").first

        assert label.evaluate("text => getComputedStyle(text).fill") == "rgb(232, 234, 237)"
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(16, 19, 23)"


@pytest.mark.parametrize("width", [360, 800])
def test_a_narrow_screen_need_not_be_moved_sideways(browser: Browser, shown: str, width: int) -> None:
    with open_page(browser, shown, offline=True, viewport={"width": width, "height": 800}) as page:
        for title in AXES:
            expect(find_plot(page, title)).to_be_visible()
            assert find_plot(page, title).evaluate("plot => plot.getBoundingClientRect().right") <= width

        assert page.evaluate("document.documentElement.scrollWidth") <= width


# What it is made of


@pytest.mark.parametrize("name", ["vega", "vega-lite", "vega-embed"])
def test_scripts_are_the_published_files_that_the_page_names(name: str) -> None:
    page = (ROOT / ".dvc/plots_page.html").read_text()
    (script,) = re.findall(rf'^<script id="{name}">\n(.*?)</script>$', page, re.DOTALL | re.MULTILINE)
    (named,) = re.findall(rf"^ +{name} [\d.]+ +([0-9a-f]{{64}})$", page, re.MULTILINE)
    assert hashlib.sha256(script.encode()).hexdigest() == named


def test_dvc_finds_one_place_for_the_plots_and_none_for_scripts_of_its_own() -> None:
    page = (ROOT / ".dvc/plots_page.html").read_text()
    assert (page.count("{plot_divs}"), page.count("{refresh_tag}"), page.count("{scripts}")) == (1, 1, 0)
