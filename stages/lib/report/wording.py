"""What page and card call the data of a run: the one place that decides which words fit these. No TensorFlow."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stages.lib.results.published import is_of_study


@dataclass(frozen=True)
class Wording:
    """How sentences speak of the data of a run."""

    is_of_study: bool  # whether the study, its numbers and what else was published stand beside ours
    is_colour: bool  # whether images are red, green and blue
    is_trimmed: bool  # whether they were made to show one thing, light on black
    picture: str  # what the network is given: "grey picture of 28 x 28 pixels"
    pixels: str  # the same of its pixels: "28 x 28 pixels of grey"
    shown: str  # what is known of what it shows; "" or ", light on black"


def describe_data(shipped: Mapping[str, Any]) -> Wording:
    """Describes the data on which the shipped file was trained; `shipped` is data/ship/model.json."""
    size = f"{shipped['image_size_px']} x {shipped['image_size_px']} pixels"
    is_colour, is_trimmed = shipped["channels"] == 3, shipped["fit"] == "garment"
    return Wording(
        is_of_study=is_of_study(shipped["dataset"], shipped["class_names"]),
        is_colour=is_colour,
        is_trimmed=is_trimmed,
        picture=f"{'colour' if is_colour else 'grey'} picture of {size}",
        pixels=f"{size} {'in colour' if is_colour else 'of grey'}",
        shown=", light on black" if is_trimmed else "",
    )
