"""Whether torchcodec and the FFmpeg libraries it needs are installed, for tests that decode with it."""

from __future__ import annotations

import importlib
from functools import cache

import pytest


@cache
def unloadable() -> str | None:
    """Why torchcodec cannot decode here; None when it can."""
    try:
        importlib.import_module("torchcodec.decoders").Demuxer("/no/such/file")
    except ModuleNotFoundError:
        return "torchcodec is not installed: pip install -e '.[torchcodec]'"
    except RuntimeError as error:
        if "Could not load libtorchcodec" in str(error):
            return "torchcodec finds no FFmpeg libraries: apt-get install ffmpeg"
    return None


def needs_torchcodec() -> pytest.MarkDecorator:
    return pytest.mark.skipif(unloadable() is not None, reason=unloadable() or "")


TORCHCODEC = pytest.param("torchcodec", marks=needs_torchcodec())  # a backend that some machines lack
