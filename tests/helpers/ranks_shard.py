"""Ranks whose language model is sharded. Run by tests/runners/test_shard.py: ranks_shard.py FOLDER CASE[=NAME,...] ...

A case runs everything, or what the names after it select. Each rank writes what it found to CASE_<ranks>_<rank>.json.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from chatbridge.common import dist as ranks
from chatbridge.common.dist import Dist
from chatbridge.models.checkpoint_manifest import read_json
from chatbridge.models.checkpoint_tensors import trained_tensors
from chatbridge.models.component_tensors import describe_components
from chatbridge.models.language import GenerateOptions
from chatbridge.models.memory import Recomputed
from chatbridge.runners import checkpoint
from chatbridge.runners.checkpoint import Checkpointer
from chatbridge.runners.config import BestConfig, ShardingConfig
from chatbridge.runners.parallel import place
from chatbridge.runners.resume import check_resumable, resume_point
from chatbridge.runners.run_folder import open_run_folder, plan_start
from chatbridge.runners.runner import Runner
from tests.helpers.shard_runs import (
    TRAINABLE,
    difference,
    losses,
    placed,
    settings,
    shard_runner,
    slice_of,
    step_gradients,
)  # fmt: skip

RESUMES = [f"{then} to {now}" for then in ("replicate", "shard") for now in ("replicate", "shard")]


def gradients(folder: Path, dist: Dist, only: list[str]) -> dict[str, float]:
    """Both ways on these ranks against one rank that takes the four micro-batches."""
    found = {}
    for name in only or TRAINABLE:
        alone, norm = step_gradients(*placed(folder / "lm", settings("replicate"), name, Dist()), Dist(), step=1)
        for parallel, reduce, reshard, recomputed in (
            ("replicate", "micro", True, ()), ("shard", "micro", True, ()), ("shard", "step", False, ()),
            ("shard", "micro", True, ("language", "fusion", "bridges.*")),
        ):  # fmt: skip
            run = settings(parallel, reduce=reduce, reshard_after_forward=reshard)
            run = replace(run, activation_checkpointing=recomputed)
            model, way = placed(folder / "lm", run, name, dist)
            own, own_norm = step_gradients(model, way, dist, step=1)
            assert all(isinstance(one.forward, Recomputed) == bool(recomputed) for one in model.language.decoder_layers)
            key = f"{name}, {parallel}, {reduce}{', recomputed' if recomputed else ''}"
            found[key] = max(difference(own, alone), abs(own_norm / norm - 1))
    return found


def clipped(folder: Path, dist: Dist, only: list[str]) -> dict[str, float]:
    """Gradients that were clipped in the middle of a step, against those of one rank; and without that clip."""
    found = {}
    for name in only or ("everything", "LoRA"):
        usual, _ = step_gradients(*placed(folder / "lm", settings("replicate"), name, Dist()), Dist(), step=1)
        alone, _ = step_gradients(
            *placed(folder / "lm", settings("replicate"), name, Dist()), Dist(), step=1, clip=0.05
        )
        found[f"{name}, without"] = difference(usual, alone)
        for parallel in ("replicate", "shard"):
            own, _ = step_gradients(*placed(folder / "lm", settings(parallel), name, dist), dist, step=1, clip=0.05)
            found[f"{name}, {parallel}"] = difference(own, alone)
    return found


def twenty_steps(folder: Path, dist: Dist, only: list[str]) -> dict[str, list[float]]:
    """The loss of every step of full tuning, both ways; their checkpoints stay for `resume`."""
    return {
        parallel: losses(shard_runner(folder / parallel, folder / "lm", dist, parallel, "everything", save_every=10))
        for parallel in ("replicate", "shard")
    }


def resume(folder: Path, dist: Dist, only: list[str]) -> dict[str, list[float]]:
    """The losses after step 10, from the checkpoints of `twenty_steps`, each way from each."""
    found = {}
    for name in only or RESUMES:
        then, _, now = name.partition(" to ")
        runner = shard_runner(folder / f"{name} {dist.world_size}", folder / "lm", dist, now, "everything")
        runner.state = runner.checkpointer.load(folder / then / "checkpoints" / "step_000010")
        found[name] = losses(runner)
    return found


def reading(folder: Path, dist: Dist, only: list[str]) -> dict[str, Any]:
    """Bytes that this rank reads of a folder of several files, and whether its model has the values of the files."""
    model, _ = placed(folder / "lm_parts", settings("shard"), "everything", dist)
    whole, _ = placed(folder / "lm_parts", settings("replicate"), "everything", Dist())
    files: Any = model.language.unread.__closure__[0].cell_contents  # type: ignore[union-attr]
    own, other = model.state_dict(), whole.state_dict()
    same = [torch.equal(gathered(own[name]), other[name]) for name in other]
    buffers = [torch.equal(one, two) for one, two in zip(model.buffers(), whole.buffers(), strict=True)]
    inside = sum(p.numel() * 4 for p in whole.language.decoder_layers.parameters())
    return {"bytes": files.bytes_read, "all": sum(p.numel() * 4 for p in whole.language.parameters()),
            "layers": inside, "equal": own.keys() == other.keys() and all(same) and all(buffers)}  # fmt: skip


def answers(folder: Path, dist: Dist, only: list[str]) -> dict[str, Any]:
    """Logits and answers of a sharded model whose ranks generate answers of different lengths, against a whole one."""
    model, parallel = placed(folder / "lm", settings("shard"), "everything", dist)
    whole, _ = placed(folder / "lm", settings("replicate"), "everything", Dist())
    found: dict[str, Any] = {"same": []}
    for one in (model, whole):
        one.eval()
    with parallel.gathered():
        for number in range(1 + 2 * dist.rank):
            batch = slice_of(model, 1, 1)
            prompt = replace(batch, predict_at=batch.predict_at[:0], target=batch.target[:0])
            for options in (GenerateOptions(max_new_tokens=2 + number), GenerateOptions(num_beams=2, max_new_tokens=3)):
                found["same"].append(model.generate(prompt, options) == whole.generate(prompt, options))
    model.train()
    losses_again, _ = step_gradients(model, parallel, dist)  # training continues where evaluation interrupted it
    alone, _ = step_gradients(whole.train(), place(whole, settings("replicate"), Dist()), Dist())
    found["gradients"] = difference(losses_again, alone)
    ids = torch.randint(3, 50, (2, 9), generator=torch.Generator().manual_seed(0))
    logits = {}
    for key, one in (("shard", model), ("replicate", whole)):
        with torch.no_grad():
            logits[key] = one.language.logits(one.language(one.language.embed(ids), torch.arange(9).expand(2, -1)))
    with torch.no_grad():
        logits["transformers"] = AutoModelForCausalLM.from_pretrained(folder / "lm", dtype="float32")(ids).logits
    for key in ("replicate", "transformers"):
        one, two = logits["shard"].double().log_softmax(-1), logits[key].double().log_softmax(-1)
        found[f"kl {key}"] = float((two.exp() * (two - one)).sum(-1).max())
        found[f"logits {key}"] = float((logits["shard"] - logits[key]).abs().max() / logits[key].abs().max())
    return found


def moved(folder: Path, dist: Dist, only: list[str]) -> dict[str, Any]:
    """Names of the tensors that one run moves, with the checks of the runner on; and a checkpoint of it as a whole."""
    found = {}
    for name in only or TRAINABLE:
        runner = shard_runner(folder / f"moved {name}", folder / "lm", dist, "shard", name, stop_at=2, keep=1)
        before = {key: gathered(value).clone() for key, value in runner.model.state_dict().items()}
        runner.train()
        after = {key: gathered(value) for key, value in runner.model.state_dict().items()}
        stored = trained_tensors(runner.checkpointer.folder / "step_000002")
        found[name] = {
            "moved": sorted(key for key in after if not torch.equal(before[key], after[key])),
            "trainable": sorted(runner.parallel.parameters),
            "is_stored": all(torch.equal(stored[key], after[key]) for key in runner.parallel.parameters),
            "stored": sorted(stored),
        }
    return found


class ForwardsAlone:
    """In place of a validator: a forward without gradients, and a loss."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner

    def run(self) -> dict[str, float]:
        self.runner.model.eval()
        with torch.no_grad():
            self.runner.model(slice_of(self.runner.model, 0, 0))  # type: ignore[arg-type]
        self.runner.model.train()
        return {"validation/loss": 1.0}


def validated(folder: Path, dist: Dist, only: list[str]) -> list[Any]:
    """What the manifest of a best checkpoint says about the model, with layers that stay gathered; and should say."""
    kept = ShardingConfig(reshard_after_forward=False)
    given: dict[str, Any] = {"sharding": kept, "best": BestConfig(), "validate_every": 1, "stop_at": 2}
    runner = shard_runner(folder / "validated", folder / "lm", dist, "shard", "last layer", **given)
    runner.validator = ForwardsAlone(runner)  # type: ignore[assignment]
    runner.train()
    manifest = read_json(runner.checkpointer.folder / "step_000001" / "manifest.json")
    whole, _ = placed(folder / "lm", settings("replicate"), "last layer", Dist())
    return [manifest["components"]["language"], describe_components(whole)["language"]]


STAGES = {  # which part of a save is the last one, and the function of it that is not run any more
    "before the rows": (1, None), "before the manifest": (3, "write_manifest"), "before the rename": (3, "_make_way"),
    "after the rename": (3, "_flush_folder"),
}  # fmt: skip


def interrupted(folder: Path, dist: Dist, only: list[str]) -> list[dict[str, Any]]:
    """What is there after a save that ends abruptly on all ranks, at each of its stages; and after the next save."""
    runner = shard_runner(folder / "interrupted", folder / "lm", dist, "shard", "everything", keep=9, stop_at=5)
    runner.train()
    found, checkpointer = [], runner.checkpointer
    for step, (stage, (last, function)) in enumerate(STAGES.items(), start=6):
        with suppress(Stopped), stopped_in(checkpointer, dist, last, function):
            checkpointer.save(replace(runner.state, step=step))
        dist.barrier()
        newest = checkpointer.latest()
        assert newest is not None
        found.append({"stage": stage, "newest": newest.name, "notes": check_resumable(newest)})
    checkpointer.save(replace(runner.state, step=20))
    found.append({"stage": "none", "left": sorted(path.name for path in checkpointer.folder.iterdir())})
    return found


class Stopped(BaseException):
    """What the end of a process is to its own code: nothing handles it."""


@contextmanager
def stopped_in(checkpointer: Checkpointer, dist: Dist, last: int, function: str | None) -> Iterator[None]:
    """Every rank stops after part `last` of a save, or in it where it would call `function`."""
    together, parts = checkpointer._together, iter(range(1, 9))

    def run(target: Path, write: Any, on_every_rank: bool = False) -> Any:
        if next(parts) < last:
            return together(target, write, on_every_rank)
        if dist.is_main or on_every_rank:
            write()
        raise Stopped

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpointer, "_together", run)
        if function is not None:
            patch.setattr(checkpoint, function, _stopped)
        yield


def _stopped(*args: Any, **kwargs: Any) -> None:
    raise Stopped


def gathered(tensor: Any) -> torch.Tensor:
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def endless(folder: Path, dist: Dist, only: list[str]) -> None:
    """Train 4000 steps with a checkpoint after each, resuming from the newest one: until somebody kills the ranks."""
    (folder / f"pid_{dist.rank}").write_text(str(os.getpid()))
    runner = shard_runner(
        folder / "endless", folder / "lm", dist, "shard", "everything", keep=3, save_every=1, max_steps=4000
    )
    newest = plan_start(runner.config, {}, lambda then: then) if (folder / "endless").exists() else None
    if (point := resume_point(newest, runner.config, dist)) is not None:
        runner.state = runner.checkpointer.load(point.checkpoint)
        if dist.is_main:
            (folder / "resumed").write_text(f"{runner.state.step} {len(point.notes)}")
            open_run_folder(folder / "endless", {}, runner.state.step)
    dist.barrier()
    runner.train()


def bf16(folder: Path, dist: Dist, only: list[str]) -> dict[str, float]:
    """Gradients with layers gathered in bf16 against those under autocast, except those that are 0 but for rounding."""
    found = {}
    for name in only or TRAINABLE:
        one, _ = step_gradients(*placed(folder / "lm", settings("shard"), name, dist, torch.bfloat16), dist, step=1)
        two, _ = step_gradients(*placed(folder / "lm", settings("replicate"), name, dist, torch.bfloat16), dist, step=1)
        large = [key for key in two if two[key].norm() > 1e-5]
        found[name] = difference({key: one[key] for key in large}, {key: two[key] for key in large})
        assert all(gradient.dtype == torch.float32 for gradient in one.values())
    return found


CASES = {
    case.__name__: case
    for case in (
        gradients, clipped, twenty_steps, resume, reading, answers, moved, interrupted, bf16, endless, validated,
    )
}  # fmt: skip


def main() -> None:
    folder, dist = Path(sys.argv[1]), ranks.start("cpu")
    for argument in sys.argv[2:]:
        name, _, only = argument.partition("=")
        found = CASES[name](folder, dist, only.split(",") if only else [])
        (folder / f"{name}_{dist.world_size}_{dist.rank}.json").write_text(json.dumps(found))
    ranks.stop()


if __name__ == "__main__":
    main()
