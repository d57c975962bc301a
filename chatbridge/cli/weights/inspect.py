"""`chatbridge weights inspect FILE`: list the tensors of a file."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from chatbridge.cli.weights.gguf_listing import print_header
from chatbridge.common.gguf_kind import is_gguf_name
from chatbridge.models.importers.chatbind_names import has_language, is_chatbind
from chatbridge.models.importers.flamingo_names import is_flamingo, parts_of
from chatbridge.models.importers.textbind_names import is_textbind
from chatbridge.models.importers.textbind_names import parts_of as parts_of_textbind
from chatbridge.models.tensor_headers import TensorHeader, files_of, read_headers, readable_size
from chatbridge.models.weight_files import prefixes_of


def main(arguments: Sequence[str] | None = None) -> int:
    """List names, shapes and types of the tensors in a file, an index of shards or a model folder. Reads no tensor,
    executes no code."""
    parser = argparse.ArgumentParser(prog="chatbridge weights inspect", description=main.__doc__)
    parser.add_argument("file", type=Path, help=".safetensors, .pth, .pt, .bin, .gguf, an index of shards, or a folder")
    parser.add_argument("--match", default="", metavar="TEXT", help="only tensors whose name contains TEXT")
    parser.add_argument("--json", action="store_true", help="one line of JSON per tensor")
    given = parser.parse_args(arguments)
    if is_gguf_name(given.file):
        print_header(given.file, given.match, given.json)
        return 0
    headers = read_headers(given.file)
    matching = {name: header for name, header in headers.items() if given.match in name}
    for name, header in matching.items():
        print(_as_json(name, header) if given.json else f"{_shape(header):>18}  {_type(header):<9} {name}")
    if not given.json:
        print(summary(given.file, matching))
        if is_chatbind(headers):
            what = "the merged model" if has_language(headers) else "the projector of stage 1"
            print(f"ChatBind's weights ({what}): run.init_from reads them")
        elif is_flamingo(headers):
            print(_flamingo(headers))
        elif is_textbind(headers):
            print(_textbind(headers))
        elif prefixes := prefixes_of(headers):
            print(f"all names begin with {prefixes[-1]!r}, a wrapper's prefix that is removed when weights are loaded")
    return 0


def summary(path: Path, headers: dict[str, TensorHeader]) -> str:
    """Return a line with the number, size and types of tensors, and the size of their files."""
    types = sorted({_type(header) for header in headers.values()})
    values = sum(header.num_values for header in headers.values())
    num_bytes = sum(header.num_bytes for header in headers.values())
    files = files_of(path)
    size = sum(file.stat().st_size for file in files)
    names = ", ".join(types) or "none"
    where = f"{len(files)} files" if len(files) > 1 else "1 file"
    tensors = f"{len(headers)} tensors, {values / 1e6:.1f} M values, {readable_size(num_bytes)} ({names})"
    return f"{tensors} in {where} of {readable_size(size)}"


def _flamingo(headers: dict[str, TensorHeader]) -> str:
    """What a file of OpenFlamingo or Multimodal-GPT holds, and the setting that reads it."""
    parts = parts_of({name: header.placeholder() for name, header in headers.items()})
    counts = {
        "resampler": len(parts.bridge), "gated blocks": len(parts.blocks), "language model": len(parts.language),
        "CLIP": len(parts.vision), "adapters": len(parts.adapters), "buffers": len(parts.dropped),
    }  # fmt: skip
    held = ", ".join(f"{what} {count}" for what, count in counts.items() if count)
    name, key = ("Multimodal-GPT", "run.init_from") if parts.adapters else ("OpenFlamingo", "model.weights")
    twice = len(headers) - sum(counts.values())
    second = f"; {twice} more are second names" if twice else ""
    return f"{name}'s weights (tensors: {held}{second}): {key} reads them"


def _textbind(headers: dict[str, TensorHeader]) -> str:
    """What a file of TextBind holds, and the setting that reads it; the same of a whole BLIP-2."""
    try:
        parts = parts_of_textbind(headers)
    except ValueError as error:
        return f"this file {error}"
    held = ", ".join(f"{part} {len(own)}" for part, own in parts.items())
    return f"TextBind's weights (tensors: {held}): run.init_from reads them"


def _as_json(name: str, header: TensorHeader) -> str:
    about = {
        "name": name,
        "shape": header.shape,
        "dtype": _type(header),
        "bytes": header.num_bytes,
        "file": header.file.name,
    }
    return json.dumps(about)


def _shape(header: TensorHeader) -> str:
    return "x".join(map(str, header.shape)) or "scalar"


def _type(header: TensorHeader) -> str:
    return str(header.dtype).removeprefix("torch.")
