"""The look that all pictures share, and the one way to write them. Figures come in, files go out."""

import re
import sys
import warnings
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # pictures are files: no screen is needed

import matplotlib.pyplot as plt
from cycler import cycler
from matplotlib import font_manager
from matplotlib.figure import Figure

from stages.lib.storage.files import replacing

COLORS = ("#4477AA", "#EE6677", "#228833", "#AA3377", "#CCBB44", "#66CCEE", "#BBBBBB")
"""The bright scheme of Paul Tol, which people with color blindness can tell apart."""

MISSING = "Glyph .* missing from"
"""How a warning of matplotlib starts about a letter that no font has."""

OTHER_FONTS = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Zen Hei", "PingFang SC", "Hiragino Sans", "Microsoft YaHei"),
    *("Noto Sans Devanagari", "Noto Sans Thai", "Arial Unicode MS", "Unifont"),
)
"""Fonts with letters that DejaVu Sans lacks, which comes with matplotlib; those of them that are installed are used."""

plt.rcParams.update(
    {
        "axes.prop_cycle": cycler(color=COLORS),
        "axes.spines.right": False,
        "axes.spines.top": False,
        "figure.constrained_layout.use": True,
        "figure.dpi": 110,
        "font.family": ["DejaVu Sans", *(font for font in OTHER_FONTS if font in font_manager.get_font_names())],
        "font.size": 9,
        "text.parse_math": False,  # names are what they are: `$5_$10` is no formula
    }
)


def write_figure(path: Path, figure: Figure) -> None:
    """Writes `figure` as a PNG whose bytes depend on the picture alone, and closes it.

    Letters that no font has are drawn as boxes; a line on stderr says so.
    """
    with replacing(path) as temporary, warnings.catch_warnings(record=True) as caught:
        warnings.filterwarnings("always", message=MISSING)
        figure.savefig(temporary, metadata={"Software": None})
    plt.close(figure)
    if any(re.match(MISSING, str(warning.message)) for warning in caught):
        print(f"{path}: letters that no font here has are boxes; install one that has, such as Noto", file=sys.stderr)
