"""Keeps passwords out of all that is printed: those of URLs, and those that settings hold."""

import re
from collections.abc import Iterable
from urllib.parse import quote, quote_plus

ENCODED = "/ @ : # % ? written as %2F %40 %3A %23 %25 %3F"
"""What a URL needs in a name or password, for messages."""


def hide(text: str, secrets: Iterable[str] = ()) -> str:
    """Hides the user and password of URLs in a text, and these secrets, as they are and as URLs and Python spell them.

    Up to the last `@`: a password may hold one that should have been written as %40.

    >>> hide("no answer of https://ann:p@ss/word@host/data, said b'p@ss/word'", ["p@ss/word"])
    "no answer of https://***@host/data, said b'***'"
    """
    for secret in filter(None, secrets):
        spellings = {secret, quote(secret, safe=""), quote(secret), quote_plus(secret), repr(secret)[1:-1]}
        for spelling in sorted(spellings | {ascii(secret)[1:-1]}, key=len, reverse=True):
            text = text.replace(spelling, "***")
    return re.sub("://.*@", "://***@", text, flags=re.DOTALL)
