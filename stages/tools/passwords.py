"""Keeps passwords out of all that is printed: those of URLs, and those that settings hold."""

import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote, quote_plus

ENCODED = "/ @ : # % ? written as %2F %40 %3A %23 %25 %3F"
"""What a URL needs in a name or password, for messages."""

SECRET = "pass|pwd|secret|token|odbc|authorization|cookie|account_key|api_key|connection_string"  # noqa: S105  (names)
"""Names of settings that hold what nobody may see; letters may be large."""


def hide(text: str, secrets: Iterable[str] = ()) -> str:
    """Hides the user and password of URLs in a text, and these secrets, as they are and as URLs and Python spell them.

    Up to the last `@` before a space: a password may hold one that should have been written as %40. Of what stands
    behind a `?`, values whose name tells that they are secret.

    >>> hide("no answer of https://ann:p@ss/word@host/data, said b'p@ss/word'", ["p@ss/word"])
    "no answer of https://***@host/data, said b'***'"
    >>> hide("s3://bucket/a?token=x&size=2 is not ann@host's")
    "s3://bucket/a?token=***&size=2 is not ann@host's"
    """
    for secret in filter(None, secrets):
        spellings = {secret, quote(secret, safe=""), quote(secret), quote_plus(secret), repr(secret)[1:-1]}
        for spelling in sorted(spellings | {ascii(secret)[1:-1]}, key=len, reverse=True):
            text = text.replace(spelling, "***")
    text = re.sub(r"://\S*@", "://***@", text)
    return re.sub(rf"([?&][^=&\s]*(?:{SECRET})[^=&\s]*=)[^&\s]*", r"\1***", text, flags=re.IGNORECASE)


def list_secrets(settings: Mapping[str, Any]) -> list[str]:
    """Lists what settings hold, at any depth, under names that tell that nobody may see it.

    >>> list_secrets({"user": "ann", "client_kwargs": {"headers": {"X-Token": "x"}}, "password": "p"})
    ['x', 'p']
    """
    secrets = []
    for name, value in settings.items():
        if isinstance(value, Mapping):
            secrets += list_secrets(value)
        elif isinstance(value, str) and re.search(SECRET, name, flags=re.IGNORECASE):
            secrets.append(value)
    return secrets
