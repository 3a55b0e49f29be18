"""The page of `python -m stages.tools.demo`: a real server, and a real browser without a network."""

import base64
import http.client
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from boxes import draw_box, make_model, ship
from browser import list_violations, open_browser, open_page
from PIL import Image
from playwright.sync_api import Browser, Page, Route, expect

from stages.lib.errors import UserError
from stages.lib.storage.files import write_arrays
from stages.tools.demo import HEADERS, MAX_UPLOAD_BYTES, build_app, list_hosts, listen, predict
from stages.tools.predict import read_card, read_classifier

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline's folder with a model that knows boxes: tall is a trouser, wide a sneaker, square a bag."""
    folder = tmp_path_factory.mktemp("demo")
    ship(folder / "data/ship/model.tflite", make_model())
    images = np.zeros((3, 28, 28), np.uint8)
    images[0, 10:18] = images[1, :, 10:18] = images[2, 10:18, :20] = 255
    write_arrays(folder / "data/prepare/test.npz", images=images, labels=np.array([1, 0, 1], np.uint8))
    return folder


@contextmanager
def start(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Starts a server, and ends it with the block."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    pipe = subprocess.PIPE
    command = [sys.executable, "-m", "stages.tools.demo", *arguments]
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def read_url(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().split()[0]


def refuse(folder: Path, *arguments: str) -> str:
    """Runs a server that cannot start; returns the one line that it said."""
    with start(folder, *arguments) as process:
        printed, said = process.communicate(timeout=60)
    assert (process.returncode, printed, said.count("\n")) == (1, "", 1)
    return said


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    with start(folder, "--port", "0") as process:
        yield read_url(process)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as browser:
        yield browser


@pytest.fixture
def page(browser: Browser, url: str) -> Iterator[Page]:
    with open_page(browser, url) as page:
        yield page


def choose(page: Page, content: bytes) -> None:
    page.get_by_label("choose one").set_input_files({"name": "x.png", "mimeType": "image/png", "buffer": content})


def draw_line(page: Page, *points: tuple[float, float]) -> None:
    """Draws with the mouse; points are fractions of the canvas."""
    canvas = page.get_by_role("img", name="Area to draw in")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    assert box is not None
    for index, (x, y) in enumerate(points):
        page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"], steps=4)
        if index == 0:
            page.mouse.down()
    page.mouse.up()


def ask(url: str, content: bytes, **headers: str) -> tuple[int, dict[str, Any]]:
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=30)
    connection.request("POST", "/predictions", content, headers)
    response = connection.getresponse()
    answer = json.loads(response.read())
    connection.close()
    return response.status, answer


# Pictures in, answers out


def test_a_chosen_photo_is_answered_by_the_model_that_is_named(page: Page) -> None:
    choose(page, draw_box(60, 200))

    expect(page.get_by_role("listitem")).to_have_count(3)
    expect(page.get_by_role("listitem").first).to_contain_text("Trouser")
    shares = [float(re.findall(r"([\d.]+) %", text)[0]) for text in page.get_by_role("listitem").all_text_contents()]
    assert shares == sorted(shares, reverse=True)
    seen = page.get_by_role("img", name="The picture that the network saw")
    assert seen.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [28, 28]
    assert re.search(r"It took \d+\.\d\d ms", page.locator("figcaption").inner_text())
    assert re.search(r"boxes\s+\(float32\).* 94\.05 %", page.locator("header").inner_text(), re.DOTALL)
    expect(page.get_by_text("The model is unsure.")).to_be_hidden()


@pytest.mark.parametrize(("fit", "corner"), [("garment", 0), ("pad", 30), ("stretch", 245)])
def test_the_network_sees_a_picture_as_its_card_says(folder: Path, tmp_path: Path, fit: str, corner: int) -> None:
    content = (folder / "data/ship/model.tflite").read_bytes()
    card = read_card(ship(tmp_path / "model.tflite", content, fit=fit, background=30))
    interpreter = read_classifier(tmp_path / "model.tflite", card, batch_size=1)

    seen = predict(interpreter, card, draw_box(60, 200))["seen"]

    with Image.open(io.BytesIO(base64.b64decode(seen.partition(",")[2]))) as image:
        assert (image.size, image.getpixel((0, 0))) == ((28, 28), corner)


@pytest.mark.parametrize(("min_confidence", "is_sure", "is_said"), [(2.0, False, True), (None, None, False)])
def test_the_page_says_where_the_model_is_unsure(
    tmp_path: Path, browser: Browser, min_confidence: float | None, is_sure: bool | None, is_said: bool
) -> None:
    model, content = tmp_path / "data/ship/model.tflite", make_model()
    ship(model, content, **({"sha256": "0" * 64} if min_confidence is None else {"min_confidence": min_confidence}))
    other = tmp_path / "other.tflite"
    other.write_bytes(content)
    used = ["--model", str(other)] if min_confidence is None else []
    with start(tmp_path, "--port", "0", *used) as process:
        url = read_url(process)
        with open_page(browser, url) as page:
            choose(page, draw_box(60, 200))

            expect(page.get_by_role("listitem")).to_have_count(3)
            assert page.get_by_text("The model is unsure.").is_visible() is is_said
            assert ("was not fitted" in page.locator("header").inner_text()) is (min_confidence is None)
        assert ask(url, draw_box(60, 200))[1]["is_sure"] is is_sure


def test_a_dropped_photo_is_answered(page: Page) -> None:
    page.evaluate(
        """content => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([Uint8Array.from(content)], "x.png", { type: "image/png" }));
            document.querySelector("#drop").dispatchEvent(
                new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true }));
        }""",
        list(draw_box(180, 60)),
    )

    expect(page.get_by_role("listitem").first).to_contain_text("Sneaker")


def test_a_drawing_is_answered_and_drawn_on(page: Page) -> None:
    tall = [(0.4, 0.1), (0.6, 0.1), (0.5, 0.1), (0.5, 0.9), (0.4, 0.9), (0.6, 0.9)]  # an I with serifs
    draw_line(page, *tall)
    expect(page.get_by_role("listitem").first).to_contain_text("Trouser")

    page.get_by_role("button", name="Clear").click()
    page.get_by_label("Brush").fill("30")
    draw_line(page, *((y, x) for x, y in tall))

    expect(page.get_by_role("listitem").first).to_contain_text("Sneaker")


def test_a_finger_draws(browser: Browser, url: str) -> None:
    with open_page(browser, url, has_touch=True, viewport={"width": 360, "height": 740}) as page:
        page.get_by_role("img", name="Area to draw in").tap()

        expect(page.get_by_role("listitem").first).to_contain_text("Bag")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_an_image_of_each_class_of_the_test_set_is_there_to_click(page: Page) -> None:
    examples = page.locator("[data-example]")
    assert examples.all_inner_texts() == ["Trouser", "Sneaker"]

    examples.last.click()

    expect(page.get_by_role("listitem").first).to_contain_text("Sneaker")


def test_the_last_stroke_is_answered_however_late_the_answer_to_an_earlier_one(page: Page, url: str) -> None:
    held: list[Route] = []
    page.route("**/predictions", lambda route: held.append(route), times=1)
    for place in (0.2, 0.5, 0.8):
        draw_line(page, (place, 0.1), (place, 0.9))
    drawn = page.evaluate("document.querySelector('canvas').toDataURL('image/png')").partition(",")[2]
    last = ask(url, base64.b64decode(drawn))[1]["seen"]
    seen = page.get_by_role("img", name="The picture that the network saw")
    expect(seen).to_have_attribute("src", last)

    with page.expect_response("**/predictions"):
        held[0].continue_()

    page.wait_for_load_state("networkidle")
    expect(seen).to_have_attribute("src", last)


def test_an_example_that_comes_late_does_not_replace_a_later_answer(page: Page) -> None:
    held: list[Route] = []
    page.route("**/examples/*", lambda route: held.append(route), times=1)
    page.get_by_role("button", name="Trouser").click()
    choose(page, draw_box(180, 60))
    expect(page.get_by_role("listitem").first).to_contain_text("Sneaker")

    with page.expect_response("**/predictions"):
        held[0].continue_()

    page.wait_for_load_state("networkidle")
    expect(page.get_by_role("listitem").first).to_contain_text("Sneaker")


# Refusals


def test_a_refusal_is_shown_in_the_place_of_the_answer(browser: Browser, url: str) -> None:
    with open_page(browser, url, expected=["422"]) as page:
        choose(page, draw_box(60, 200))
        expect(page.get_by_role("listitem")).to_have_count(3)

        choose(page, b"no picture")

        expect(page.get_by_role("alert")).to_contain_text("expected an image")
        expect(page.get_by_role("listitem")).to_have_count(0)


def test_a_file_that_is_too_large_is_refused_before_it_is_sent(page: Page) -> None:
    page.evaluate("document.body.dataset.maxBytes = 100")
    choose(page, draw_box(60, 200))

    expect(page.get_by_role("alert")).to_contain_text("Expected a file of at most")


def test_a_server_that_is_gone_is_named(browser: Browser, folder: Path) -> None:
    with start(folder, "--port", "0") as process:
        url = read_url(process)
        with open_page(browser, url, expected=["ERR_CONNECTION_REFUSED"]) as page:
            process.kill()
            process.wait()
            page.get_by_role("button", name="Sneaker").click()

            expect(page.get_by_role("alert")).to_contain_text("does not answer; start it again")


def test_a_body_that_is_too_large_is_refused_unread(url: str) -> None:
    status, answer = ask(url, b"", **{"Content-Length": str(MAX_UPLOAD_BYTES + 1)})
    assert (status, answer) == (413, {"error": "expected a file of at most 30 MB; make it smaller"})


@pytest.mark.parametrize("header", ["Host", "Origin"])
def test_other_sites_get_no_answer(url: str, header: str) -> None:
    value = {"Host": "other.example", "Origin": "https://other.example"}[header]
    assert ask(url, draw_box(60, 200), **{header: value}) == (403, {"error": "403: Forbidden"})


def test_pages_load_nothing_from_elsewhere(page: Page, url: str) -> None:
    response = page.request.get(url)
    assert {name: response.headers[name.lower()] for name in HEADERS} == HEADERS
    assert "default-src 'none'" in HEADERS["Content-Security-Policy"]


# Who uses it


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(browser: Browser, url: str, scheme: str) -> None:
    with open_page(browser, url, color_scheme=scheme) as page:
        choose(page, draw_box(60, 200))
        expect(page.get_by_role("listitem")).to_have_count(3)
        assert list_violations(page) == []


def test_the_keyboard_reaches_everything(page: Page) -> None:
    reached = []
    for _ in range(5):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.innerText"))
    page.keyboard.press("Enter")

    assert reached == ["file", "brush", "clear", "Trouser", "Sneaker"]
    expect(page.get_by_role("listitem").first).to_contain_text("Sneaker")


# The process


def test_ctrl_c_ends_it_quietly_and_nothing_was_kept(folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    with start(folder, "--port", "0") as process:
        url = read_url(process)
        assert ask(url, draw_box(60, 200))[0] == 200
        process.send_signal(signal.SIGINT)
        printed, said = process.communicate(timeout=20)

    assert (process.returncode, printed, said) == (-signal.SIGINT, "", "")
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_a_port_that_is_taken_is_one_line(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert refuse(folder, "--port", port) == (
            f"error: --port {port}: Address already in use; give another from 1024 on, or 0 for any that is free\n"
        )


def test_a_port_that_may_not_be_opened_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse_port(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")  # not by its number: the superuser may open all

    monkeypatch.setattr(socket, "create_server", refuse_port)

    with pytest.raises(UserError, match=r"^--port 80: Permission denied; give another from 1024 on, or 0 for any"):
        listen("80")


@pytest.mark.parametrize("port", ["65536", "99999", "-1", "x", "", "8000.0", "\u0663"])
def test_what_is_no_port_is_refused_without_a_model(port: str) -> None:
    with pytest.raises(UserError) as caught:
        listen(port)

    assert str(caught.value) == (
        f"--port: expected a whole number from 0 to 65535, got {port!r}; 0 takes any that is free"
    )


def test_what_is_no_port_is_one_line_even_where_a_model_is_missing(tmp_path: Path) -> None:
    assert refuse(tmp_path, "--port", "x").startswith("error: --port: expected a whole number from 0 to 65535, got 'x'")


def test_a_card_that_lacks_what_is_shown_is_refused(folder: Path, tmp_path: Path) -> None:
    content = (folder / "data/ship/model.tflite").read_bytes()
    model = ship(tmp_path / "model.tflite", content, test_accuracy="high")

    said = refuse(folder, "--model", str(model))

    assert "model.json: expected test_accuracy of type float, got 'high'; put its own model.json beside it" in said


def test_a_model_without_a_card_of_its_own_is_shown_by_its_path_and_without_an_accuracy(
    folder: Path, tmp_path: Path
) -> None:
    content = (folder / "data/ship/model.tflite").read_bytes()
    ship(tmp_path / "data/ship/model.tflite", content, sha256="0" * 64)
    (tmp_path / "int8.tflite").write_bytes(content)

    with start(tmp_path, "--port", "0", "--model", "int8.tflite") as process:
        url = read_url(process)
        connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=30)
        connection.request("GET", "/")
        page = connection.getresponse().read().decode()
        connection.close()
        assert ask(url, draw_box(60, 200))[1]["predictions"][0]["class"] == "Trouser"

    assert "<strong>int8.tflite</strong> names the likeliest of its 4 classes" in page
    assert "test images" not in page


def test_without_test_images_there_is_nothing_to_click(browser: Browser, folder: Path, tmp_path: Path) -> None:
    model = str(folder / "data/ship/model.tflite")
    with start(tmp_path, "--port", "0", "--model", model) as process, open_page(browser, read_url(process)) as page:
        assert "From the test set" not in page.locator("main").inner_text()


@pytest.mark.parametrize(("port", "host"), [(80, "localhost"), (80, "127.0.0.1:80"), (8000, "localhost:8000")])
def test_browsers_may_leave_out_the_port_of_http(folder: Path, port: int, host: str) -> None:
    model = folder / "data/ship/model.tflite"
    card = read_card(model)
    app = build_app(read_classifier(model, card, batch_size=1), card, examples={}, hosts=list_hosts(port))

    assert app.test_client().get("/", headers={"Host": host}).status_code == 200
    assert app.test_client().get("/", headers={"Host": "localhost:81"}).status_code == 403
