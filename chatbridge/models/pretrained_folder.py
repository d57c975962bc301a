"""Models of transformers from their folder, also when a wrapper put a prefix before all names of the files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from chatbridge.models.weight_files import prefixes_of

Read = tuple[Any, dict[str, list[str]]]


def read_folder(kind: Any, folder: Path, **settings: Any) -> tuple[Any, dict[str, list[str]], str]:
    """The model, names by kind (missing, unexpected, mismatched), and the prefix that was removed ("": none).

    kind     a class with `from_pretrained`
    raises   what transformers and safetensors raise
    """
    model, found = _read(kind, folder, settings)
    for prefix in prefixes_of(found["unexpected"]) if found["missing"] else ():
        again = {f"^{re.escape(prefix)}": ""}
        other, rest = _read(kind, folder, {**settings, "key_mapping": again})
        if len(rest["missing"]) < len(found["missing"]):
            return other, rest, prefix
    return model, found, ""


def removed(prefix: str) -> str:
    """For people, behind the number of tensors."""
    return f", prefix {prefix!r} of all names removed" if prefix else ""


def _read(kind: Any, folder: Path, settings: dict[str, Any]) -> Read:
    model, info = kind.from_pretrained(str(folder), local_files_only=True, output_loading_info=True, **settings)
    return model, {
        one: sorted(map(str, info.get(f"{one}_keys") or ())) for one in ("missing", "mismatched", "unexpected")
    }
