"""`chatbridge weights apply-delta BASE DELTA OUT`: add a published delta to LLaMA, which gives Vicuna or ChatBind.

Tensors of both are added in fp16. Only the delta has a multimodal projector, and rows of added tokens below those of
the base in the embedding and the head: these are whole values. Buffers that follow from the sizes are differences of
zero there; without the base's they are left out.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from chatbridge.cli.weights.delta_faults import faults, is_buffer
from chatbridge.cli.weights.shard_writer import (
    SHARD_BYTES,
    inputs_fingerprint,
    split_into_shards,
    write_index,
    write_json,
    write_safetensors,
)
from chatbridge.models.lazy_tensors import LazyTensors
from chatbridge.models.tensor_headers import readable_size

STATE = "apply-delta.json"  # in the output folder until it is complete
NOT_COPIED = (".safetensors", ".bin", ".pth", ".pt", ".index.json")


@dataclass(frozen=True)
class Plan:
    """The result of each tensor of the delta."""

    base: LazyTensors
    delta: LazyTensors
    dtype: torch.dtype = torch.float16  # of the sum and the result, as the public deltas were computed

    @property
    def names(self) -> list[str]:
        """Tensors of the result, in the order of the delta."""
        return [name for name in self.delta.headers if name in self.base.headers or not is_buffer(name)]

    @property
    def whole(self) -> list[str]:
        """Tensors that the delta holds as whole values."""
        return [name for name in self.names if name not in self.base.headers]

    def tensor(self, name: str) -> Tensor:
        """Return base + delta; rows and tensors that only the delta has are complete there.

        Source: FastChat 0.1.10 apply_delta (new base rows are zero), chatbind apply_delta; golden chatbind_delta.
        """
        change = self.delta[name]
        if name not in self.base.headers:
            return self._cast(name, change).clone()
        base = self.base[name]
        if is_buffer(name):  # stored as a difference of almost zero, in fp32
            return base.to(change.dtype) + change
        whole = self._cast(name, change).clone()
        whole[: base.shape[0]] += self._cast(name, base)
        return whole

    def num_bytes(self, name: str) -> int:
        """Return the size of a tensor of the result."""
        header = self.delta.headers[name]
        return header.num_values * (header.dtype if is_buffer(name) else self.dtype).itemsize

    def notes(self) -> Iterator[str]:
        """Yield what is not a plain sum."""
        for name in self.delta.headers:
            rows, base = self.delta.headers[name].shape[:1], self.base.headers.get(name)
            if base is not None and rows != base.shape[:1]:
                yield f"{name}: rows {base.shape[0]} to {rows[0] - 1} are whole in the delta"
        if self.whole:
            yield f"whole in the delta: {', '.join(self.whole)}"
        if dropped := len(self.delta.headers) - len(self.names):
            yield f"left out: {dropped} buffers that follow from the sizes, which the base does not have"

    def _cast(self, name: str, value: Tensor) -> Tensor:
        return value.to(self.dtype) if value.is_floating_point() else value


def main(arguments: Sequence[str] | None = None) -> int:
    """Add a delta to its base model: LLaMA and a delta of Vicuna or ChatBind. Shards are written one at a time from
    memory-mapped files; an interrupted run resumes. The result has the tokenizer and config of the delta."""
    parser = argparse.ArgumentParser(prog="chatbridge weights apply-delta", description=main.__doc__)
    parser.add_argument("base", type=Path, help="folder (or file) of the base model, for example LLaMA-13B")
    parser.add_argument("delta", type=Path, help="folder (or file) of the delta, for example vicuna-13b-delta-v0")
    parser.add_argument("out", type=Path, help="folder of the resulting model")
    parser.add_argument("--shard-bytes", type=int, default=SHARD_BYTES, help="largest size of a file")
    given = parser.parse_args(arguments)
    num_bytes = apply_delta(given.base, given.delta, given.out, given.shard_bytes)
    print(f"{given.out}: {readable_size(num_bytes)}, complete")
    return 0


def apply_delta(base: Path, delta: Path, out: Path, shard_bytes: int = SHARD_BYTES) -> int:
    """Write base + delta to the folder `out`; returns the total size of its tensors in bytes.

    raises   ValueError if the two do not belong together, or `out` has other content
    """
    plan = Plan(LazyTensors(base), LazyTensors(delta))
    if problems := list(faults(plan.base, plan.delta)):
        raise ValueError("\n".join([f"{base} and {delta}:", *(f"  {problem}" for problem in problems[:10])]))
    sizes = {name: plan.num_bytes(name) for name in plan.names}
    split = split_into_shards(sizes, shard_bytes)
    inputs = inputs_fingerprint(plan.base.headers, plan.delta.headers)
    for note in plan.notes():
        print(note, flush=True)
    _begin(out, {"inputs": inputs, "shards": len(split.filename_to_tensors)})
    for file, names in split.filename_to_tensors.items():
        if not (out / file).is_file():
            write_safetensors({name: _numbers(name, plan.tensor(name)) for name in names}, out / file)
            print(f"{file}: {len(names)} tensors", flush=True)
    write_index(out, split)
    _copy_rest(delta, out)
    (out / STATE).unlink()
    return sum(sizes.values())


def _numbers(name: str, value: Tensor) -> Tensor:
    """The tensor [...] itself. raises ValueError for values that are not numbers, which no later step would notice"""
    bad = 0 if not value.is_floating_point() else int((~value.isfinite()).sum())
    if bad:
        raise ValueError(
            f"{name}: {bad:,} of {value.numel():,} values of the sum are not numbers (nan, inf); a file is damaged, or "
            "the delta is of another base; download both again and give a new folder"
        )
    return value


def _begin(out: Path, started: dict[str, object]) -> None:
    """Start a folder, or resume one with the same inputs."""
    if out.is_dir() and any(out.iterdir()):
        try:
            before = json.loads((out / STATE).read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError):
            raise ValueError(f"{out} is not empty and was not started by apply-delta; choose a new folder") from None
        if before != started:
            raise ValueError(f"{out} was started with different inputs or another shard size; choose a new folder")
    write_json(started, out / STATE)


def _copy_rest(delta: Path, out: Path) -> None:
    """Copy config and tokenizer of the delta, which include the added tokens."""
    for file in sorted(delta.iterdir()) if delta.is_dir() else ():
        if file.is_file() and not file.name.endswith(NOT_COPIED):
            shutil.copyfile(file, out / file.name)
