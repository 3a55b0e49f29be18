"""What is on a photo, or in a drawing? Shows the shipped model at work on a page of this machine.

Run as `python -m stages.tools.demo`, open the address that it prints, and end it with Ctrl-C. A tool, not a stage: it
writes no file, keeps no picture, and answers nobody but browsers on this machine.

Reads:
    data/ship/model.tflite, or another with --model, and the .json that describes it (`stages.tools.predict`).
    data/prepare/test.npz, where it is: an image of each class to try.

Serves, on 127.0.0.1 alone:
    GET /                    the page, of stages/tools/demo_page/
    GET /examples/LABEL.png  an image of the test set
    POST /predictions        an image file to JSON: `predictions`, likeliest first, as `class` and `probability`;
                             `is_sure`, null where the model does not know; `energy_score`; `seen`, the picture that
                             the network saw, as a PNG in a data URL; `milliseconds` that the network took; or `error`
"""

import argparse
import base64
import io
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from flask import Flask, Response, abort, render_template, request
from PIL import Image
from werkzeug.exceptions import HTTPException
from werkzeug.serving import make_server

from stages.lib.errors import UserError
from stages.lib.litert.runtime import predict_logits
from stages.lib.sources.decode import decode_picture
from stages.lib.sources.fit import find_enough_px, prepare_picture
from stages.lib.storage.files import read_split
from stages.tools.predict import MODEL, answer, check_given, escape, print_out, read_card, read_classifier

TEST = Path("data/prepare/test.npz")
PAGE = Path(__file__).with_name("demo_page")
HOST = "127.0.0.1"
MAX_UPLOAD_BYTES = 30_000_000
"""Larger than photos of telephones are."""

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def read_examples(path: Path) -> dict[int, bytes]:
    """Reads the first image of each class as PNG, by label; none where the file is missing."""
    if not path.is_file():
        return {}
    images, labels = read_split(path)
    found, indices = np.unique(labels, return_index=True)
    return {int(label): encode_png(images[index]) for label, index in zip(found, indices, strict=True)}


def encode_png(image: np.ndarray) -> bytes:
    """Writes a (height, width) or (height, width, 3) uint8 image as PNG."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def predict(interpreter: Interpreter, card: Mapping[str, Any], content: bytes) -> dict[str, Any]:
    """Classifies an image file; returns the answer that the module's docstring describes.

    Raises:
        UserError: if it is no image, or shows nothing.
    """
    size_px, fit = card["image_size_px"], card["fit"]
    picture = decode_picture(io.BytesIO(content), find_enough_px(size_px, fit))
    image = prepare_picture(picture, size_px, card["channels"], fit, card["background"])
    started = time.perf_counter()
    logits = predict_logits(interpreter, image[np.newaxis])
    seconds = time.perf_counter() - started
    return {
        **answer(logits[0], card),
        "seen": f"data:image/png;base64,{base64.b64encode(encode_png(image)).decode()}",
        "milliseconds": round(1000 * seconds, 3),
    }


def build_app(
    interpreter: Interpreter, card: Mapping[str, Any], examples: Mapping[int, bytes], hosts: Sequence[str]
) -> Flask:
    """Builds the application.

    Args:
        interpreter: of the model, ready for one image at a time.
        card: what `read_card` returns, with `name`.
        examples: a PNG for each label that has one.
        hosts: the names under which browsers of this machine reach the application.
    """
    app = Flask(__name__, static_folder=PAGE, static_url_path="/page", template_folder=PAGE)
    app.config["MAX_CONTENT_LENGTH"] = MAX_UPLOAD_BYTES
    origins = [f"http://{host}" for host in hosts]
    lock = threading.Lock()  # the interpreter does one thing at a time

    @app.before_request
    def refuse_others() -> None:
        # A name of another site that leads here, or a page of another site that asks from this machine's browser.
        if request.host not in hosts or request.headers.get("Origin", f"http://{request.host}") not in origins:
            abort(403)

    @app.after_request
    def add_headers(response: Response) -> Response:
        response.headers.update(HEADERS)
        return response

    @app.get("/")
    def show_page() -> str:
        names = {label: card["class_names"][label] for label in examples if label < len(card["class_names"])}
        return render_template("index.html", card=card, examples=names, max_bytes=MAX_UPLOAD_BYTES)

    @app.get("/examples/<int:label>.png")
    def show_example(label: int) -> Response:
        if label not in examples:
            abort(404)
        return Response(examples[label], mimetype="image/png")

    @app.post("/predictions")
    def answer_picture() -> tuple[dict[str, Any], int]:
        content = request.get_data()
        with lock:
            try:
                return predict(interpreter, card, content), 200
            except UserError as error:
                return {"error": str(error)}, 422

    @app.errorhandler(HTTPException)
    def describe(error: HTTPException) -> tuple[dict[str, Any], int]:
        if error.code == 413:
            return {"error": f"expected a file of at most {MAX_UPLOAD_BYTES // 1_000_000} MB; make it smaller"}, 413
        return {"error": f"{error.code}: {error.name}"}, error.code or 500

    return app


def list_hosts(port: int) -> list[str]:
    """Lists the names under which browsers of this machine reach a port; they leave out HTTP's own, which is 80."""
    return [name if port == 80 else f"{name}:{port}" for name in (HOST, "localhost")]


def listen(port: str) -> socket.socket:
    """Opens a port of 127.0.0.1.

    Raises:
        UserError: if there is none of this number, it is taken, or it may not be opened.
    """
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65535):
        raise UserError(f"--port: expected a whole number from 0 to 65535, got {port!r}; 0 takes any that is free")
    try:
        return socket.create_server((HOST, int(port)))
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else error
        raise UserError(f"--port {port}: {reason}; give another from 1024 on, or 0 for any that is free") from error


def main() -> None:
    """Runs the tool."""
    parser = argparse.ArgumentParser(
        "python -m stages.tools.demo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--port", default="8000", help="default %(default)s; 0: any that is free")
    parser.add_argument("--model", metavar="PATH", type=check_given, default=MODEL, help="default %(default)s")
    arguments = parser.parse_args()

    model = Path(arguments.model)
    with listen(arguments.port) as opened:
        card = {"name": str(model), **read_card(model, name=str, precision=str, test_accuracy=float)}
        interpreter = read_classifier(model, card, batch_size=1)
        port = opened.getsockname()[1]
        app = build_app(interpreter, card, examples=read_examples(TEST), hosts=list_hosts(port))
        logging.getLogger("werkzeug").setLevel(logging.ERROR)  # faults, not requests
        server = make_server(HOST, port, app, threaded=True, fd=opened.fileno())
        shown = escape(", ".join(card[key] for key in ("name", "precision") if key in card))
        try:
            print_out(f"http://{HOST}:{port} shows {shown}; Ctrl-C ends it\n")
        except UserError as error:  # the page answers all the same
            print(f"error: {error}", file=sys.stderr)
        server.serve_forever()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it, and nothing is lost
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {escape(str(error))}")
