"""Silences native code, whose messages no log level of Python stops. No TensorFlow."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_stderr(show_on_failure: bool = True) -> Iterator[None]:
    """Keeps what is written to stderr within the block off the screen, native code included.

    Args:
        show_on_failure: whether it is shown after all if the block raises.
    """
    sys.stderr.flush()
    screen = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            if show_on_failure:
                held.seek(0)
                os.write(screen, held.read())
            raise
        finally:
            os.dup2(screen, 2)
            os.close(screen)
