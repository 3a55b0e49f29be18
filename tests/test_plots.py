import hashlib
import os
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from stages.lib.pictures.style import write_figure

ROOT = Path(__file__).parents[1]


def draw(end: float = 2.0) -> Figure:
    figure, axes = plt.subplots(figsize=(2, 1))
    axes.plot([0, 1, end], label="Schürze")
    axes.legend()
    return figure


def test_one_picture_gives_the_same_bytes_and_another_others(tmp_path: Path) -> None:
    for name, end in (("a", 2.0), ("b", 2.0), ("c", 3.0)):
        write_figure(tmp_path / f"{name}.png", draw(end))

    a, b, c = ((tmp_path / f"{name}.png").read_bytes() for name in "abc")
    assert a == b
    assert a != c


def test_the_bytes_do_not_depend_on_the_process(tmp_path: Path) -> None:
    write_figure(tmp_path / "here.png", draw())
    code = (
        "import sys; from pathlib import Path; from tests.test_plots import draw, write_figure; "
        "write_figure(Path(sys.argv[1]), draw())"
    )
    environment = os.environ | {"PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo", "DISPLAY": ""}

    subprocess.run([sys.executable, "-c", code, str(tmp_path / "there.png")], cwd=ROOT, env=environment, check=True)

    here, there = (hashlib.sha256((tmp_path / f"{name}.png").read_bytes()) for name in ("here", "there"))
    assert here.hexdigest() == there.hexdigest()


def test_no_screen_is_used_even_where_the_environment_asks_for_one() -> None:
    code = "import matplotlib, stages.lib.pictures.style; print(matplotlib.get_backend())"

    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | {"MPLBACKEND": "template"},
        capture_output=True,
        text=True,
        check=True,
    )

    assert result.stdout.strip().lower() == "agg"
