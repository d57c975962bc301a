"""`run.parallel: shard`: the same numbers as `replicate`, on any number of ranks, whatever a rank sees."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from chatbridge.common.dist import Dist
from chatbridge.models.checkpoint_manifest import UnusableCheckpoint
from chatbridge.models.checkpoint_tensors import shard_files, trained_tensors
from chatbridge.models.checkpoints import checkpoints, read_checked, step_of
from chatbridge.models.start_from_checkpoint import start_from_checkpoint
from chatbridge.report.tree import sharded_shapes
from chatbridge.runners.resume import check_resumable
from tests.helpers.preloaded_processes import run_ranks
from tests.helpers.shard_runs import TRAINABLE, losses, placed, settings, shard_runner, write_language_model

SCRIPT = Path(__file__).parents[1] / "helpers" / "ranks_shard.py"
RELATIVE = 1e-6  # what the numbers of two ways may differ by, in fp32
QUICK = (
    "gradients=everything,LoRA,gated blocks", "clipped", "twenty_steps", "resume=shard to shard", "reading", "answers",
    "moved=last layer", "validated", "interrupted",
)  # fmt: skip


def ranks_command(folder: Path, num_ranks: int, *cases: str) -> tuple[list[str], dict[str, str]]:
    """The command that starts ranks_shard.py, and its environment."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={num_ranks}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(SCRIPT.parents[2])}
    return [*launcher, str(SCRIPT), str(folder), *cases], environment


def run_cases(folder: Path, num_ranks: int, *cases: str) -> None:
    done = run_ranks([str(SCRIPT), str(folder), *cases], num_ranks)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


def found(folder: Path, case: str, num_ranks: int = 2) -> list[Any]:
    """What each rank found."""
    return [json.loads((folder / f"{case}_{num_ranks}_{rank}.json").read_text()) for rank in range(num_ranks)]


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sharded")
    write_language_model(folder / "lm")
    write_language_model(folder / "lm_parts", shard_size="20KB")
    run_cases(folder, 2, *QUICK)
    return folder


def apart(one: list[float], other: list[float]) -> float:
    """The largest relative distance of two loss curves."""
    assert len(one) == len(other) > 0
    return max(abs(a / b - 1) for a, b in zip(one, other, strict=True))


def test_gradients_of_two_ranks_equal_those_of_one(two_ranks):
    """fails when gradients are means over ranks, a rank with a text-only micro-batch leaves the others waiting, a
    micro-batch is lost, the norm counts a sharded or a replicated gradient more or less than once, or layers that are
    computed again in the backward pass have other rows then"""
    for rank in found(two_ranks, "gradients"):
        assert len(rank) == 12 and max(rank.values()) < RELATIVE, rank


def test_a_clip_in_the_middle_of_a_step_is_that_of_one_rank(two_ranks):
    """fails when ranks clip a gradient that is not summed yet, or add the clipped one once per rank"""
    for rank in found(two_ranks, "clipped"):
        without = [value for name, value in rank.items() if "without" in name]
        with_clip = [value for name, value in rank.items() if "without" not in name]
        assert min(without) > 0.1 and len(with_clip) == 4 and max(with_clip) < RELATIVE, rank


def test_twenty_steps_of_full_tuning_equal_replicate(two_ranks):
    """fails when a sharded weight, its moments or its gradient differ from those of a whole one"""
    for rank in found(two_ranks, "twenty_steps"):
        assert apart(rank["shard"], rank["replicate"]) < RELATIVE
        assert len(set(rank["shard"])) == 20


def test_a_sharded_run_resumes_bit_for_bit(two_ranks):
    """fails when the rows or the moments of a rank are read into other places, or not at all"""
    (curves, *_), (resumed, *_) = found(two_ranks, "twenty_steps"), found(two_ranks, "resume")
    assert resumed["shard to shard"] == curves["shard"][10:]


def test_one_process_resumes_a_run_of_two_sharded_ranks(two_ranks, tmp_path):
    """fails when the files can only be read by as many ranks as wrote them"""
    runner = shard_runner(tmp_path / "one", two_ranks / "lm", Dist(), "replicate", "everything")
    runner.state = runner.checkpointer.load(two_ranks / "shard" / "checkpoints" / "step_000010")
    assert apart(losses(runner), found(two_ranks, "twenty_steps")[0]["shard"][10:]) < RELATIVE


def test_a_rank_reads_its_rows_of_the_layers_and_the_rest_once(two_ranks):
    """fails when ranks read whole files, or the values differ from those that transformers reads"""
    ranks = found(two_ranks, "reading")
    for rank in ranks:
        assert rank["equal"]
        outside = rank["all"] - rank["layers"]
        assert rank["bytes"] == pytest.approx(outside + rank["layers"] / 2, rel=0.02)
    assert sum(rank["bytes"] for rank in ranks) == ranks[0]["all"] + (ranks[0]["all"] - ranks[0]["layers"])


def test_ranks_answer_independently_and_train_on(two_ranks):
    """fails when a longer answer of one rank waits for the other, or training after an evaluation is out of step"""
    one, two = found(two_ranks, "answers")
    assert len(one["same"]) == 2 and len(two["same"]) == 6 and all([*one["same"], *two["same"]])
    for rank in (one, two):
        assert rank["gradients"] < RELATIVE
        assert max(rank["kl replicate"], rank["kl transformers"]) < RELATIVE
        assert max(rank["logits replicate"], rank["logits transformers"]) < RELATIVE


def test_exactly_the_listed_tensors_move_and_are_stored(two_ranks):
    """fails when a frozen row moves, a trained one does not, or a checkpoint lacks rows of a rank"""
    for names in found(two_ranks, "moved")[0].values():
        assert names["moved"] == names["trainable"] == names["stored"] and names["is_stored"]
        assert any(name.startswith("language.lm.model.layers.2.") for name in names["moved"])


def test_a_best_checkpoint_after_a_validation_describes_the_model(two_ranks):
    """fails when layers that a validation left gathered are whole to one rank, or trained tensors count as frozen"""
    for written, wanted in found(two_ranks, "validated"):
        assert written == wanted


def test_a_model_starts_from_a_sharded_checkpoint(two_ranks):
    """fails when init_from, load_model or an evaluation ignore the tensors that ranks wrote as rows"""
    checkpoint = two_ranks / "shard" / "checkpoints" / "step_000020"
    tensors = trained_tensors(checkpoint)
    model, _ = placed(two_ranks / "lm", settings("replicate"), "bridges only", Dist())
    report = start_from_checkpoint(model, two_ranks / "shard")
    assert "language: 30 tensors" in str(report)
    assert sharded_shapes(checkpoint) == {name: tuple(value.shape) for name, value in tensors.items()}  # of the report
    assert len(shard_files(checkpoint)) == 2 and set(tensors) >= {"language.lm.model.layers.2.mlp.up_proj.weight"}
    state = model.state_dict()
    assert all(torch.equal(state[name], value) for name, value in tensors.items())


@pytest.mark.parametrize("harm", ["truncate", "flip", "remove"])
def test_damage_of_the_rows_of_one_rank_is_found(two_ranks, tmp_path, harm):
    """fails when a run resumes from, or a model starts from, a checkpoint that lacks rows"""
    checkpoint = shutil.copytree(two_ranks / "shard" / "checkpoints" / "step_000010", tmp_path / "step_000010")
    rows = checkpoint / shard_files(checkpoint)[1]
    if harm == "remove":
        rows.unlink()
    else:
        content = bytearray(rows.read_bytes())
        content[-1] ^= 1
        rows.write_bytes(content if harm == "flip" else content[:-100])
    for check in (read_checked, check_resumable):
        with pytest.raises(UnusableCheckpoint, match=rows.name):
            check(checkpoint)


def test_a_save_that_is_interrupted_leaves_every_checkpoint_usable(two_ranks):
    """fails when a stop during a save damages an older checkpoint, makes an incomplete one, or leaves files behind"""
    for rank in found(two_ranks, "interrupted"):
        stages = {one["stage"]: one["newest"] for one in rank[:-1]}
        assert stages == {"before the rows": "step_000005", "before the manifest": "step_000005",
                          "before the rename": "step_000005", "after the rename": "step_000009"}  # fmt: skip
        assert not any(one["notes"] for one in rank[:-1])
        assert rank[-1]["left"] == ["step_000005", "step_000009", "step_000020"]


@pytest.mark.slow
def test_kill_9_at_random_instants_loses_no_checkpoint(two_ranks):
    """fails when a killed run has a damaged or incomplete checkpoint, or does not resume from its newest one"""
    draw, newest = random.Random(), 0
    command, environment = ranks_command(two_ranks, 2, "endless")
    for attempt in range(5):
        launcher = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _wait_for_steps(two_ranks / "endless", newest + 2 if attempt else 3, launcher)  # the run keeps three
        time.sleep(draw.uniform(0.0, 1.0))
        ranks = [int((two_ranks / f"pid_{rank}").read_text()) for rank in range(2)]
        for process in draw.sample([*ranks, launcher.pid], 3):
            os.kill(process, signal.SIGKILL)
        launcher.wait()
        if attempt:
            assert (two_ranks / "resumed").read_text() == f"{newest} 0"
        left = checkpoints(two_ranks / "endless" / "checkpoints")
        for checkpoint in left:
            assert check_resumable(checkpoint) == ()
        assert len(left) >= 3 and step_of(left[-1]) >= newest + 2
        newest = step_of(left[-1])


def _wait_for_steps(run: Path, step: int, launcher: subprocess.Popen[bytes]) -> None:
    for _ in range(3000):
        if (found := checkpoints(run / "checkpoints")) and step_of(found[-1]) >= step:
            return
        assert launcher.poll() is None, "the ranks ended by themselves"
        time.sleep(0.1)
    raise AssertionError(f"no checkpoint of step {step}")


@pytest.mark.slow
def test_gradients_in_bf16_are_those_of_replicate(two_ranks):
    """fails when layers are gathered in another dtype than they compute in, or gradients are summed in bf16"""
    run_cases(two_ranks, 2, "bf16")
    for rank in found(two_ranks, "bf16"):
        assert len(rank) == len(TRAINABLE) and max(rank.values()) < 0.05, rank


@pytest.mark.slow
def test_any_number_of_ranks_gives_the_same_run(two_ranks):
    """fails when gradients, logits, answers or a resume depend on the number of ranks; all ways to train, both ways"""
    for num_ranks in (4, 2):
        run_cases(two_ranks, num_ranks, "gradients", "resume", "answers", "reading", "moved")
        curves = found(two_ranks, "twenty_steps")[0]
        for rank in found(two_ranks, "gradients", num_ranks):
            assert len(rank) == 4 * len(TRAINABLE) and max(rank.values()) < RELATIVE, rank
        for name, curve in found(two_ranks, "resume", num_ranks)[0].items():
            assert apart(curve, curves[name.partition(" ")[0]][10:]) < RELATIVE, name
        for rank in found(two_ranks, "answers", num_ranks):
            assert all(rank["same"]) and rank["gradients"] < RELATIVE and rank["kl transformers"] < RELATIVE
        assert all(rank["equal"] for rank in found(two_ranks, "reading", num_ranks))
        for names in found(two_ranks, "moved", num_ranks)[0].values():
            assert names["moved"] == names["trainable"] == names["stored"] and names["is_stored"]
