"""Sections of params.yaml, as tests need them."""

from typing import Any, TypeVar

from stages.lib.params.checking import Section
from stages.lib.params.sections import AugmentationParams

S = TypeVar("S", bound=Section)


def replace(section: S, **changes: Any) -> S:
    """Returns a copy of a section with other values, which nothing checks."""
    return section.model_copy(update=changes)


def augmentation(**limits: Any) -> AugmentationParams:
    """Is an augmentation with these limits, and no others."""
    nothing = dict.fromkeys(set(AugmentationParams.model_fields) - {"horizontal_flip"}, 0)
    return AugmentationParams.model_validate(nothing | {"horizontal_flip": False} | limits)
