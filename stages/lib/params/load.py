"""Reads params.yaml strictly: every value is checked before any stage does work."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stages.lib.errors import UserError
from stages.lib.params.checking import Section, check
from stages.lib.params.sections import Params
from stages.lib.params.yaml_1_2 import read_yaml


def load_params(path: Path = Path("params.yaml"), reads: Sequence[str] | None = None) -> Params:
    """Reads and checks the whole of params.yaml, of the section `search` only that there is one.

    Args:
        path: of the file.
        reads: dotted keys that the caller reads; the others are left out of what is returned, so that reading one is
            an `AttributeError`. A stage names here the keys that `dvc.yaml` gives as its `params`. None: all.

    Raises:
        UserError: if anything is wrong; the message names the key, what was expected, what was found, and the nearest
            known name where one is near.
    """
    content = read_yaml(path)
    try:
        params = check_content(content)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return params if reads is None else keep_only(params, reads)


def check_content(content: Any) -> Params:
    """Checks the content of params.yaml.

    Raises:
        UserError: if anything is wrong; the message begins with the key.
    """
    params: Params = check(Params, content)
    return params


def keep_only(section: Any, reads: Sequence[str]) -> Any:
    """Returns a copy of a section that has the values of the dotted keys `reads` alone."""
    if "" in reads or not isinstance(section, Section):
        return section
    inner: dict[str, list[str]] = {}
    for key in reads:
        name, _, rest = key.partition(".")
        inner.setdefault(name, []).append(rest)
    return type(section).model_construct(
        **{name: keep_only(getattr(section, name), rest) for name, rest in inner.items()}
    )
