"""Reads a YAML 1.2 file as DVC reads it. The only reader of YAML."""

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from stages.lib.errors import UserError


class _Yaml12Loader(yaml.SafeLoader):
    """YAML 1.2's core schema, as DVC reads and writes it.

    PyYAML's own YAML 1.1 reads `1e-05`, which DVC writes for 0.00001, as a string, and an augmentation named `no` as
    False.
    """

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012  (PyYAML's interface)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [key.value for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise UserError(f"{key}: given twice in one section, near line {node.start_mark.line + 1}; keep one")
        return super().construct_mapping(node, deep)


for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+0123456789."),
    ),
):
    _Yaml12Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), _first)


def _read_integer(_: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    try:
        return int(node.value, 0 if node.value[:2] in ("0o", "0x") else 10)
    except ValueError as error:
        raise UserError(f"line {node.start_mark.line + 1}: expected an integer; got {node.value!r}") from error


_Yaml12Loader.add_constructor("tag:yaml.org,2002:int", _read_integer)


def read_yaml(path: Path) -> Any:
    """Reads the content of a YAML 1.2 file.

    Raises:
        UserError: if the file is missing or no YAML, or gives a key twice in one mapping; the message names the file.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_Yaml12Loader)  # noqa: S506  (derives from SafeLoader)
    except FileNotFoundError:
        raise UserError(f"{path}: not found; run this from the top of the repository") from None
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: no UTF-8, or `!!float word`
        raise UserError(f"{path}: no valid YAML: {error}") from error
