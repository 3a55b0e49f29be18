"""The page of `python -m stages.tools.demo`: a real server, and a real browser without a network."""

import base64
import hashlib
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
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import list_violations, open_browser, open_page
from PIL import Image
from playwright.sync_api import Browser, Page, Route, expect

from stages.lib.storage.files import write_arrays
from stages.tools.demo import HEADERS, MAX_UPLOAD_BYTES, build_app, list_hosts, read_model

ROOT = Path(__file__).parents[1]
CLASSES = ["Trouser", "Sneaker", "Bag", "Coat"]
CARD = {"class_names": CLASSES, "image_size_px": 28, "name": "boxes", "precision": "float32", "test_accuracy": 0.9405}
START = [sys.executable, "-m", "stages.tools.demo"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline's folder with a model that knows boxes: tall is a trouser, wide a sneaker, square a bag."""
    from stages.lib.network.keras2 import keras, tf

    kernel = np.zeros((28, 28, 4), np.float32)
    kernel[[0, -1], 11:17, 0] = kernel[11:17, [0, -1], 1] = 1
    kernel[[0, -1], 11:17, 2] = kernel[11:17, [0, -1], 2] = 0.7
    dense = keras.layers.Dense(4)
    model = keras.Sequential([keras.Input((28, 28, 1)), keras.layers.Flatten(), dense])
    dense.set_weights([kernel.reshape(784, 4), np.array([0, 0, 1, -9], np.float32)])
    content = tf.lite.TFLiteConverter.from_keras_model(model).convert()
    folder = tmp_path_factory.mktemp("demo")
    (folder / "data/ship").mkdir(parents=True)
    (folder / "data/ship/model.tflite").write_bytes(content)
    write_card(folder / "data/ship/model.json", sha256=hashlib.sha256(content).hexdigest())
    images = np.zeros((3, 28, 28), np.uint8)
    images[0, 10:18] = images[1, :, 10:18] = images[2, 10:18, :20] = 255
    write_arrays(folder / "data/prepare/test.npz", images=images, labels=np.array([1, 0, 1], np.uint8))
    return folder


def write_card(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(CARD | changes))


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    pipe = subprocess.PIPE
    return subprocess.Popen([*START, *arguments], cwd=folder, env=environment, stdout=pipe, stderr=pipe, text=True)


def run(folder: Path, *arguments: str) -> tuple[int, str]:
    """Runs a server that cannot start; returns its status and what it said."""
    with start(folder, *arguments) as process:
        printed, said = process.communicate(timeout=60)
    assert printed == ""
    return process.returncode, said


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    with start(folder, "--port", "0") as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().split()[0]
        finally:
            process.kill()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as browser:
        yield browser


@pytest.fixture
def page(browser: Browser, url: str) -> Iterator[Page]:
    with open_page(browser, url) as page:
        yield page


def draw_box(width: int, height: int) -> bytes:
    """Draws a dark red box on cream, 200 x 300, as PNG."""
    photo = np.full((300, 200, 3), (250, 245, 235), np.uint8)
    photo[150 - height // 2 : 150 + height // 2, 100 - width // 2 : 100 + width // 2] = (120, 10, 20)
    file = io.BytesIO()
    Image.fromarray(photo).save(file, "PNG")
    return file.getvalue()


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


def test_a_chosen_photo_is_answered(page: Page) -> None:
    choose(page, draw_box(60, 200))

    expect(page.get_by_role("listitem")).to_have_count(3)
    expect(page.get_by_role("listitem").first).to_contain_text("Trouser")
    shares = [float(re.findall(r"([\d.]+) %", text)[0]) for text in page.get_by_role("listitem").all_text_contents()]
    widths = [bar.evaluate("bar => bar.style.width") for bar in page.locator(".bar div").all()]
    assert shares == sorted(shares, reverse=True)
    assert widths == [f"{share:.4g}%" for share in shares]


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


def test_the_picture_that_the_network_saw_and_its_time_are_shown(page: Page) -> None:
    choose(page, draw_box(60, 200))

    seen = page.get_by_role("img", name="The picture that the network saw")
    expect(seen).to_be_visible()
    assert seen.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [28, 28]
    assert re.search(r"It took \d+\.\d\d ms", page.locator("figcaption").inner_text())


def test_the_model_is_named_with_its_accuracy(page: Page) -> None:
    assert re.search(r"boxes\s+\(float32\).* 94\.05 %", page.locator("header").inner_text(), re.DOTALL)


# Refusals


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no picture", "expected an image in one of AVIF, BMP"),
        (b"", "found an empty file"),
        (draw_box(0, 0), "found nothing that stands out"),
    ],
    ids=["text", "empty", "wall"],
)
def test_what_is_no_picture_of_anything_is_refused_in_the_page(url: str, content: bytes, message: str) -> None:
    status, answer = ask(url, content)
    assert status == 422
    assert message in answer["error"]


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
        assert process.stdout is not None
        url = process.stdout.readline().split()[0]
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
        assert process.stdout is not None
        url = process.stdout.readline().split()[0]
        assert ask(url, draw_box(60, 200))[0] == 200
        process.send_signal(signal.SIGINT)
        printed, said = process.communicate(timeout=20)

    assert (process.returncode, printed, said) == (-signal.SIGINT, "", "")
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_a_port_that_is_taken_is_one_line(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert run(folder, "--port", port) == (
            1,
            f"error: --port {port}: Address already in use; give another, or 0 for any that is free\n",
        )


def test_without_a_model_the_ways_to_get_it_are_named(tmp_path: Path) -> None:
    assert run(tmp_path) == (
        1,
        "error: data/ship/model.tflite: not found; run `dvc pull` to fetch it or `dvc repro ship` to make it\n",
    )


def test_a_card_that_lacks_what_is_shown_is_refused(folder: Path, tmp_path: Path) -> None:
    content = (folder / "data/ship/model.tflite").read_bytes()
    (tmp_path / "model.tflite").write_bytes(content)
    write_card(tmp_path / "model.json", sha256=hashlib.sha256(content).hexdigest(), test_accuracy="high")

    status, said = run(folder, "--model", str(tmp_path / "model.tflite"))

    assert (status, said.count("\n")) == (1, 1)
    assert "model.json: expected test_accuracy of type float, got 'high'; run `dvc pull`" in said


def test_without_test_images_there_is_nothing_to_click(folder: Path, tmp_path: Path) -> None:
    with start(tmp_path, "--port", "0", "--model", str(folder / "data/ship/model.tflite")) as process:
        assert process.stdout is not None
        try:
            connection = http.client.HTTPConnection(process.stdout.readline().split()[0].removeprefix("http://"))
            connection.request("GET", "/")
            shown = connection.getresponse().read().decode()
            connection.close()
        finally:
            process.kill()

    assert "From the test set" not in shown


@pytest.mark.parametrize(("port", "host"), [(80, "localhost"), (80, "127.0.0.1:80"), (8000, "localhost:8000")])
def test_browsers_may_leave_out_the_port_of_http(folder: Path, port: int, host: str) -> None:
    app = build_app(read_model(folder / "data/ship/model.tflite"), {}, list_hosts(port))

    assert app.test_client().get("/", headers={"Host": host}).status_code == 200
    assert app.test_client().get("/", headers={"Host": "localhost:81"}).status_code == 403


def test_tensorflow_is_not_loaded() -> None:
    code = "import sys, stages.tools.demo; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
