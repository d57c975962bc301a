"""Settings that a training program pickled beside its tensors, read as plain values.

Multimodal-GPT's files hold `tuning_config`, an object of mmengine. torch's reader of plain tensors refuses such an
object, because reading it would run code of its class. Here every class of a known library of settings is replaced by
one that only keeps what it is given; the library need not be installed, and none of its code runs. Files with any other
class are refused as before.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

LIBRARIES = ("mmengine", "mmcv", "addict", "argparse")  # of settings; mmengine's are made of addict's
_MAPPINGS = ("ConfigDict", "Dict")  # their classes that are dictionaries


class Kept:
    """What an object of such a library was made of: the arguments of its class, and its state."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.content: Any = kwargs or args

    def __setstate__(self, state: Any) -> None:
        self.content = state


def _mapping() -> type:
    """A class whose objects are plain ordered dictionaries, the only ones that torch's reader fills."""

    class Mapping:
        def __new__(cls, *args: Any) -> Any:
            return OrderedDict(args[0]) if args and isinstance(args[0], dict) else OrderedDict()

    return Mapping


@contextmanager
def plain_settings(path: Path) -> Iterator[None]:
    """In the block, torch.load(weights_only=True) reads the settings of this file, beside its tensors, as plain values.

    path   in the format of torch since 1.6; nothing changes for other files
    """
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
    except Exception:  # not a file of this format, or damaged, which torch.load reports
        names = []
    known = [name for name in names if name.partition(".")[0] in LIBRARIES]
    stand_ins: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
        (_mapping() if name.rpartition(".")[2] in _MAPPINGS else type("Settings", (Kept,), {}), name) for name in known
    ]
    with torch.serialization.safe_globals(stand_ins):
        yield


def settings_of(content: Any, key: str) -> dict[str, Any]:
    """The innermost of the dictionaries within pickled settings that has `key`; {} where there is none."""
    if isinstance(content, dict):
        if key in content:
            return dict(content)
        inner: Any = content.values()
    elif isinstance(content, (list, tuple)):
        inner = content
    else:
        inner = [content.content] if isinstance(content, Kept) else []
    return next((found for one in inner if (found := settings_of(one, key))), {})
