"""Ranks whose language model is sharded. Run by tests/runners/test_shard.py: ranks_shard.py FOLDER CASE[=NAME,...] ...

A case runs everything, or what the names after it select. Each rank writes what it found to CASE_<ranks>_<rank>.json.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from chatbridge.common import dist as ranks
from chatbridge.common.dist import Dist
from chatbridge.models.checkpoint_tensors import trained_tensors
from chatbridge.models.language import GenerateOptions
from chatbridge.runners.parallel import place
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
        for parallel, reduce, reshard in (
            ("replicate", "micro", True), ("shard", "micro", True), ("shard", "step", False),
        ):  # fmt: skip
            run = settings(parallel, reduce=reduce, reshard_after_forward=reshard)
            own, own_norm = step_gradients(*placed(folder / "lm", run, name, dist), dist, step=1)
            found[f"{name}, {parallel}, {reduce}"] = max(difference(own, alone), abs(own_norm / norm - 1))
    return found


def twenty_steps(folder: Path, dist: Dist, only: list[str]) -> dict[str, list[float]]:
    """The loss of every step of full tuning, both ways; their checkpoints stay for `resume`."""
    return {
        parallel: losses(shard_runner(folder / parallel, folder / "lm", dist, parallel, "everything", keep=9))
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


def gathered(tensor: Any) -> torch.Tensor:
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


CASES = {case.__name__: case for case in (gradients, twenty_steps, resume, reading, answers, moved)}


def main() -> None:
    folder, dist = Path(sys.argv[1]), ranks.start("cpu")
    for argument in sys.argv[2:]:
        name, _, only = argument.partition("=")
        found = CASES[name](folder, dist, only.split(",") if only else [])
        (folder / f"{name}_{dist.world_size}_{dist.rank}.json").write_text(json.dumps(found))
    ranks.stop()


if __name__ == "__main__":
    main()
