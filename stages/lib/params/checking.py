"""What all sections of params.yaml are made of, and the one message for a value that does not belong there.

A section is a frozen pydantic model: types are strict (nothing is coerced, but an integer may stand for a float), and
keys are known. A range is a `Field`; where a value depends on another one, a validator raises `refusal`.
"""

import difflib
import json
from collections.abc import Iterable
from types import NoneType
from typing import Any, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from stages.lib.errors import UserError


class Section(BaseModel):
    """One mapping of params.yaml."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


def list_keys(section: type[Section]) -> list[str]:
    """Lists the keys of a section as they stand in params.yaml."""
    return [field.alias or name for name, field in section.model_fields.items()]


def refusal(expected: str, got: object) -> UserError:
    """Builds the error that a validator raises for a value that is not what was expected."""
    return UserError(f"expected {expected}; got {got!r}")


def describe_known(name: object, known: Iterable[str]) -> str:
    """Lists the known names, after the nearest to `name` if one is near."""
    close = difflib.get_close_matches(str(name), list(known), n=1)
    return (f"did you mean {close[0]!r}? " if close else "") + f"known: {', '.join(known)}"


def find_name(name: str, known: Iterable[str], where: str) -> str:
    """Returns `name` if it is one of `known`.

    Raises:
        UserError: if not; the message names `where`, the known names and the nearest of them.
    """
    if name not in known:
        raise UserError(f"{where}: unknown name {name!r}; {describe_known(name, known)}")
    return name


def check(section: type[Section], content: Any, where: str = "") -> Any:
    """Checks the content of a section, or of the whole file, whose keys begin with `where`; returns the section.

    Raises:
        UserError: if anything is wrong; the message names the key, what was expected, what was found, and the nearest
            known name where one is near.
    """
    try:
        return section.model_validate(content)
    except ValidationError as error:
        errors = error.errors(include_url=False)
        # A misspelt key is both unknown and missing: the first says more.
        first = min(errors, key=lambda one: one["type"] not in ("extra_forbidden", "invalid_key"))
        remedy = _quote(content, first) if first["type"] == "string_type" else ""
        raise UserError(_describe(section, first, where) + remedy) from None


def _describe(section: type[Section], error: ErrorDetails, where: str) -> str:
    """Describes one error of pydantic as `key: expected ...; got ...`."""
    is_unknown = error["type"] in ("extra_forbidden", "invalid_key")
    names = [str(part) for part in error["loc"] if is_unknown or isinstance(part, str)]  # without indices of lists
    key = ".".join([where, *names] if where else names)
    got = f"{len(error['input'])} entries" if error["type"] == "too_long" else repr(error["input"])
    field = _find(section, error["loc"][:-1] if is_unknown else error["loc"])
    if is_unknown:
        return f"{key}: unknown key; {describe_known(names[-1], list_keys(_drop_none(field.annotation)))}"
    if error["type"] == "missing":
        return f"{key}: missing; add it (the committed params.yaml shows each key's meaning)"
    if error["type"] == "model_type":
        keys = ", ".join(list_keys(_drop_none(field.annotation)))
        return f"{key or 'the file'}: expected a section with {keys}; got {got}"
    if error["type"] == "value_error":  # of a validator; one of the whole file names the key itself
        return f"{key}: {error['ctx']['error']}" if key else str(error["ctx"]["error"])
    if error["type"] == "literal_error":
        return f"{key}: unknown value {got}; {describe_known(error['input'], [*map(str, get_args(field.annotation))])}"
    return f"{key}: expected {field.description or _describe_range(field)}; got {got}"


def _quote(value: Any, error: ErrorDetails) -> str:
    """Says how a number is written where a text is expected: in quotes, as is all of the list that holds it."""
    for part in error["loc"]:
        value = value[part] if isinstance(value, dict) else value
    entries = value if isinstance(value, list) else [value]
    if not all(isinstance(entry, str | int | float) for entry in entries):
        return ""
    texts = [entry if isinstance(entry, str) else json.dumps(entry) for entry in entries]
    written = texts if isinstance(value, list) else texts[0]
    return f"; write {json.dumps(written, ensure_ascii=False, separators=(',', ':'))}"


def _find(section: type[Section], path: tuple[int | str, ...]) -> Any:
    """Finds the field at the end of a path of keys, names of the user's own choice and indices of lists."""
    field = FieldInfo(annotation=section)
    for part in path:
        inner: Any = _drop_none(field.annotation)
        if isinstance(inner, type) and issubclass(inner, Section):
            field = dict(zip(list_keys(inner), inner.model_fields.values(), strict=True))[str(part)]
        else:
            field = FieldInfo.from_annotation(get_args(inner)[1 if get_origin(inner) is dict else 0])
    return field


def _drop_none(annotation: Any) -> Any:
    """Drops None from the types that a value may have."""
    others = [of for of in get_args(annotation) if of is not NoneType]
    return others[0] if NoneType in get_args(annotation) else annotation


def _describe_range(field: FieldInfo) -> str:
    if field.annotation is bool:
        return "true or false"
    bounds = {type(bound): bound for bound in field.metadata}
    if field.annotation is int:
        return f"an integer from {bounds[Ge].ge} to {bounds[Le].le}"
    low = f"[{bounds[Ge].ge}" if Ge in bounds else f"({bounds[Gt].gt}"
    high = f"{bounds[Le].le}]" if Le in bounds else f"{bounds[Lt].lt})"
    return f"a number in {low}, {high}"
