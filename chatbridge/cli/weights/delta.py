"""`chatbridge weights apply-delta BASE DELTA OUT`: LLaMA and a published difference make Vicuna."""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from chatbridge.cli.weights.headers import readable_size
from chatbridge.cli.weights.lazy_tensors import LazyState
from chatbridge.cli.weights.shard_writer import (
    SHARD_BYTES,
    plan_fingerprint,
    shard_names,
    shards,
    write_index,
    write_json,
    write_safetensors,
)

STATE = "apply-delta.json"  # in the output folder while it is not finished
TALLER = ("embed_tokens.weight", "lm_head.weight")  # may have more rows than the base: added tokens
NOT_COPIED = (".safetensors", ".bin", ".pth", ".pt", ".index.json")


@dataclass(frozen=True)
class Plan:
    """What becomes of each tensor of the delta."""

    base: LazyState
    delta: LazyState
    dtype: torch.dtype = torch.float16  # the arithmetic and the type of the result; the public deltas were made in it

    def problems(self) -> Iterator[str]:
        base, delta = self.base.entries, self.delta.entries
        if lost := [name for name in base if name not in delta and not is_buffer(name)]:
            yield f"the delta lacks {len(lost)} tensors of the base ({lost[0]} first): they do not belong together"
        shared = [name for name in delta if name in base]
        if not shared:
            yield "base and delta have no tensor in common: one of them is something else"
        for name in shared:
            ours, theirs = base[name].shape, delta[name].shape
            taller = name.endswith(TALLER) and ours[1:] == theirs[1:] and theirs[0] > ours[0]
            if ours != theirs and not taller:
                yield f"{name} is {_size(ours)} in the base and {_size(theirs)} in the delta"

    def tensor(self, name: str) -> Tensor:
        """base + delta; rows the base does not have and tensors it does not know are already whole in the delta.

        Source: FastChat 0.1.10 apply_delta (new base rows are zero), chatbind apply_delta; golden chatbind_delta.
        """
        change = self.delta[name]
        if name not in self.base.entries:
            return self._cast(name, change).clone()
        base = self.base[name]
        if is_buffer(name):  # stored as a difference of (near) nothing, in fp32
            return base.to(change.dtype) + change
        whole = self._cast(name, change).clone()
        whole[: base.shape[0]] += self._cast(name, base)
        return whole

    def num_bytes(self, name: str) -> int:
        entry = self.delta.entries[name]
        return entry.num_values * (entry.dtype if is_buffer(name) else self.dtype).itemsize

    def _cast(self, name: str, value: Tensor) -> Tensor:
        return value.to(self.dtype) if value.is_floating_point() else value


def is_buffer(name: str) -> bool:
    """Old files hold the rotary frequencies, which follow from the sizes."""
    return name.endswith("rotary_emb.inv_freq")


def main(arguments: Sequence[str] | None = None) -> int:
    """Add a delta to the model it was made from. Shards are written one at a time from memory-mapped files, and a run
    that was stopped goes on where it was. The result has the delta's tokenizer and config."""
    parser = argparse.ArgumentParser(prog="chatbridge weights apply-delta", description=main.__doc__)
    parser.add_argument("base", type=Path, help="folder (or file) of the base model, for example LLaMA-13B")
    parser.add_argument("delta", type=Path, help="folder (or file) of the delta, for example vicuna-13b-delta-v0")
    parser.add_argument("out", type=Path, help="folder that becomes the whole model")
    parser.add_argument("--shard-bytes", type=int, default=SHARD_BYTES, help="largest file to write")
    given = parser.parse_args(arguments)
    num_bytes = apply_delta(given.base, given.delta, given.out, given.shard_bytes)
    print(f"{given.out}: {readable_size(num_bytes)}, complete")
    return 0


def apply_delta(base: Path, delta: Path, out: Path, shard_bytes: int = SHARD_BYTES) -> int:
    """Write base + delta to the folder `out`; returns its bytes of tensors.

    raises   ValueError when the two do not belong together, or `out` holds something else
    """
    plan = Plan(LazyState(base), LazyState(delta))
    if problems := list(plan.problems()):
        raise ValueError("\n".join([f"{base} and {delta}:", *(f"  {problem}" for problem in problems[:10])]))
    sizes = {name: plan.num_bytes(name) for name in plan.delta.entries}
    groups = shards(sizes, shard_bytes)
    started = {"inputs": plan_fingerprint(plan.base.entries, plan.delta.entries), "shards": len(groups)}
    _begin(out, started)
    for file, names in zip(shard_names(groups), groups, strict=True):
        if not (out / file).is_file():
            write_safetensors({name: plan.tensor(name) for name in names}, out / file)
            print(f"{file}: {len(names)} tensors", flush=True)
    write_index(out, groups, sum(sizes.values()))
    _copy_rest(delta, out)
    (out / STATE).unlink()
    return sum(sizes.values())


def _begin(out: Path, started: dict[str, object]) -> None:
    """Start a folder, or go on with one that the same inputs began."""
    if out.is_dir() and any(out.iterdir()):
        try:
            before = json.loads((out / STATE).read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError):
            raise ValueError(
                f"{out} is not empty, and nothing of this kind was begun there; name a new folder"
            ) from None
        if before != started:
            raise ValueError(f"{out} was begun with other inputs or another shard size; name a new folder")
    write_json(started, out / STATE)


def _copy_rest(delta: Path, out: Path) -> None:
    """Config and tokenizer: those of the delta, which knows the added tokens."""
    for file in sorted(delta.iterdir()) if delta.is_dir() else ():
        if file.is_file() and not file.name.endswith(NOT_COPIED):
            shutil.copyfile(file, out / file.name)


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
