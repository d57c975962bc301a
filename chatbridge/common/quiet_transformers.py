"""Reading of files whose peculiarities are known and handled, without transformers' warnings about them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_transformers(is_known: bool) -> Iterator[None]:
    """Hide warnings of transformers in the block if what they are about is known; errors are still shown."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    if is_known:
        logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
