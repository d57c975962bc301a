"""`chatbridge weights apply-delta BASE DELTA OUT`: add a published delta to LLaMA, which gives Vicuna."""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from chatbridge.cli.weights.lazy_tensors import LazyTensors
from chatbridge.cli.weights.shard_writer import (
    SHARD_BYTES,
    inputs_fingerprint,
    split_into_shards,
    write_index,
    write_json,
    write_safetensors,
)
from chatbridge.cli.weights.tensor_headers import readable_size

STATE = "apply-delta.json"  # in the output folder until it is complete
EXTENDED = ("embed_tokens.weight", "lm_head.weight")  # the delta may add rows for new tokens
NOT_COPIED = (".safetensors", ".bin", ".pth", ".pt", ".index.json")


@dataclass(frozen=True)
class Plan:
    """The result of each tensor of the delta."""

    base: LazyTensors
    delta: LazyTensors
    dtype: torch.dtype = torch.float16  # of the sum and the result, as the public deltas were computed

    def problems(self) -> Iterator[str]:
        """Yield reasons why base and delta do not belong together."""
        base, delta = self.base.headers, self.delta.headers
        if absent := [name for name in base if name not in delta and not is_buffer(name)]:
            yield f"{len(absent)} tensors of the base are not in the delta, for example {absent[0]}"
        shared = [name for name in delta if name in base]
        if not shared:
            yield "base and delta have no tensor in common"
        for name in shared:
            ours, theirs = base[name].shape, delta[name].shape
            is_extended = name.endswith(EXTENDED) and ours[1:] == theirs[1:] and theirs[0] > ours[0]
            if ours != theirs and not is_extended:
                yield f"{name} is {_size(ours)} in the base and {_size(theirs)} in the delta"

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

    def _cast(self, name: str, value: Tensor) -> Tensor:
        return value.to(self.dtype) if value.is_floating_point() else value


def is_buffer(name: str) -> bool:
    """Return whether a tensor holds the rotary frequencies of old files, which follow from the sizes."""
    return name.endswith("rotary_emb.inv_freq")


def main(arguments: Sequence[str] | None = None) -> int:
    """Add a delta to its base model. Shards are written one at a time from memory-mapped files; an interrupted run
    resumes. The result has the tokenizer and config of the delta."""
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
    if problems := list(plan.problems()):
        raise ValueError("\n".join([f"{base} and {delta}:", *(f"  {problem}" for problem in problems[:10])]))
    sizes = {name: plan.num_bytes(name) for name in plan.delta.headers}
    split = split_into_shards(sizes, shard_bytes)
    inputs = inputs_fingerprint(plan.base.headers, plan.delta.headers)
    _begin(out, {"inputs": inputs, "shards": len(split.filename_to_tensors)})
    for file, names in split.filename_to_tensors.items():
        if not (out / file).is_file():
            write_safetensors({name: plan.tensor(name) for name in names}, out / file)
            print(f"{file}: {len(names)} tensors", flush=True)
    write_index(out, split)
    _copy_rest(delta, out)
    (out / STATE).unlink()
    return sum(sizes.values())


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


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
