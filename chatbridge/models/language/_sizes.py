"""What a YAML says about the size of a language model, against the folder it names."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from chatbridge.common.errors import Problem

# not the vocabulary: revisions of a model differ by added tokens
COMPARED = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")


def other_sizes(path: Path, expected: Mapping[str, Any]) -> Iterator[Problem]:
    """Sizes of a config.json that are not the expected ones. A file that cannot be read is reported when it is used."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    for key in COMPARED:
        if isinstance(found, dict) and key in found and key in expected and found[key] != expected[key]:
            message = f"{path} says {key} {found[key]}, this configuration is for {expected[key]} (architecture.{key})"
            yield Problem("weights", message, hint="name the model of that size, or another file of configs/models")
