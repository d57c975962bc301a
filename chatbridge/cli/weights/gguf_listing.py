"""`weights inspect` and `weights check` of a GGUF file: its header in words, and its names beside those of a model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from chatbridge.cli.weights.file_check import FileCheck
from chatbridge.common.extras import need
from chatbridge.common.gguf_header import GGUFHeader, GGUFTensor, read_header
from chatbridge.conversation.gguf_tokenizer import vocabulary_fault
from chatbridge.models.language._gguf_file import PURPOSE, name_table, unread
from chatbridge.models.language._gguf_settings import header_faults
from chatbridge.models.tensor_headers import readable_size


def print_header(path: Path, match: str, as_json: bool) -> None:
    """Print the tensors whose name contains `match`, and what the file is. raises ValueError when it is not GGUF"""
    header = read_header(path)
    kinds: dict[int, str] = {int(kind): kind.name for kind in need("gguf", PURPOSE).GGMLQuantizationType}
    own = {name: tensor for name, tensor in header.tensors.items() if match in name}
    for name, tensor in own.items():
        kind = kinds.get(tensor.kind, str(tensor.kind))
        if as_json:
            print(json.dumps({"name": name, "shape": tensor.shape, "dtype": kind, "file": path.name}))
        else:
            print(f"{'x'.join(map(str, tensor.shape)):>18}  {kind:<9} {name}")
    if not as_json:
        print("\n".join(summary(header, own, kinds)))


def summary(header: GGUFHeader, own: Mapping[str, GGUFTensor], kinds: Mapping[int, str]) -> Iterator[str]:
    """Lines: tensors and types, the model, its tokenizer, and what prevents its use as a language model."""
    counts: dict[str, int] = {}
    for tensor in own.values():
        kind = kinds.get(tensor.kind, str(tensor.kind))
        counts[kind] = counts.get(kind, 0) + 1
    values = sum(tensor.num_values for tensor in own.values())
    listed = ", ".join(f"{kind} {count}" for kind, count in sorted(counts.items())) or "none"
    size = readable_size(header.path.stat().st_size)
    yield f"{len(own)} tensors, {values / 1e6:.1f} M values ({listed}) in a GGUF file of {size}"
    fields = header.fields
    about = [f"{header.family}: {fields.get('general.name', 'no name')}"]
    for key, what in (("block_count", "layers"), ("embedding_length", "wide"), ("context_length", "tokens of context")):
        about += [f"{header.of_family(key):,} {what}"] if isinstance(header.of_family(key), int) else []
    licence = fields.get("general.license")
    yield ", ".join([*about, f"licence {licence or 'not stated'}"])
    template = "a chat template" if fields.get("tokenizer.chat_template") else "no chat template"
    pre = fields.get("tokenizer.ggml.pre")
    split = f", pre-tokenizer {pre}" if pre else ""
    yield f"tokenizer: {fields.get('tokenizer.ggml.model', 'none')}{split}, {len(header.tokens):,} tokens, {template}"
    faults = [*header_faults(header), *filter(None, [vocabulary_fault(header)])]
    yield from (f"cannot be used: the file {fault}" for fault in faults)
    if not faults:
        yield "causal_lm reads it: set it as model.language.weights"


def check_gguf(path: Path, wanted: Mapping[str, Tensor], optional: set[str]) -> FileCheck:
    """Compare the names and shapes of a file with the language model.

    wanted    the model's tensors [...] by name, without adapters
    optional  second names of tied tensors
    """
    found = FileCheck("language", path)
    try:
        header = read_header(path)
        found.problems = [f"{path} {fault}" for fault in header_faults(header)]
        table: Any = None if found.problems else name_table(header)
    except (ValueError, ImportError) as error:
        found.problems = [str(error)]
        return found
    if found.problems:
        return found
    if table is None:
        found.component, found.num_loaded = "language (names are compared when it is loaded)", len(header.tensors)
        return found
    state: dict[str, Tensor] = {}
    for name in wanted:
        own = table.get_name(name, try_suffixes=(".weight", ".bias"))
        if own in header.tensors:
            state[name] = torch.zeros(()).expand(header.tensors[own].shape)
    state |= {name: torch.zeros(()) for name in unread(header, wanted)}
    found.match(wanted, state, optional)
    return found
