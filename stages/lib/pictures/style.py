"""The look that all pictures share, and the one way to write them. Figures come in, files go out."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # pictures are files: no screen is needed

import matplotlib.pyplot as plt
from cycler import cycler
from matplotlib.figure import Figure

from stages.lib.storage.files import replacing

COLORS = ("#4477AA", "#EE6677", "#228833", "#AA3377", "#CCBB44", "#66CCEE", "#BBBBBB")
"""The bright scheme of Paul Tol, which people with color blindness can tell apart."""

plt.rcParams.update(
    {
        "axes.prop_cycle": cycler(color=COLORS),
        "axes.spines.right": False,
        "axes.spines.top": False,
        "figure.constrained_layout.use": True,
        "figure.dpi": 110,
        "font.size": 9,
    }
)


def write_figure(path: Path, figure: Figure) -> None:
    """Writes `figure` as a PNG whose bytes depend on the picture alone, and closes it."""
    with replacing(path) as temporary:
        figure.savefig(temporary, metadata={"Software": None})
    plt.close(figure)
