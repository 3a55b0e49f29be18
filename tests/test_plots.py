import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest
from matplotlib.figure import Figure

from stages.lib.pictures.style import write_figure

ROOT = Path(__file__).parents[1]


def draw(end: float = 2.0) -> Figure:
    figure, axes = plt.subplots(figsize=(2, 1))
    axes.plot([0, 1, end], label="Schürze")
    axes.legend()
    return figure


def test_a_written_figure_is_closed(tmp_path: Path) -> None:
    figure = draw()
    write_figure(tmp_path / "x.png", figure)

    assert not plt.fignum_exists(figure.number)


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


def test_the_file_does_not_name_the_program_that_drew_it(tmp_path: Path) -> None:
    write_figure(tmp_path / "x.png", draw())

    assert b"atplotlib" not in (tmp_path / "x.png").read_bytes()


def test_a_figure_that_cannot_be_drawn_leaves_the_old_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, figure = tmp_path / "x.png", draw()
    path.write_bytes(b"old")

    def fail(target: Path, **_: Any) -> None:
        target.write_bytes(b"half")
        raise RuntimeError("no")

    monkeypatch.setattr(figure, "savefig", fail)
    with pytest.raises(RuntimeError, match="no"):
        write_figure(path, figure)
    plt.close(figure)

    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


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
