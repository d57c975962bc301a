"""Checkpoints are complete or absent, and load only with the frozen weights they were trained with."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from torch import nn

from chatbridge.models.checkpoint_manifest import read_manifest
from chatbridge.models.checkpoints import checkpoints, find_checkpoint
from chatbridge.models.component_tensors import component_of, describe_components, frozen_tensors, trainable_parameters
from chatbridge.models.loading import read_state
from chatbridge.models.start_from_checkpoint import (
    changed_frozen_parts,
    fingerprint,
    start_from_checkpoint,
    tokenizer_fingerprint,
)
from chatbridge.models.trainable import set_trainable
from tests.helpers.tiny_parts import TinyModel, trainable
from tests.helpers.tiny_run import resumed, tiny_runner
from tests.parity.toy_tokenizers import CrcTokenizer


@pytest.fixture
def run(tmp_path):
    """A finished run of two steps."""
    runner = tiny_runner(tmp_path, stop_at=2)
    runner.train()
    return runner


def test_a_checkpoint_has_exactly_the_trainable_tensors(run, tmp_path):
    """fails when frozen weights are written, a trainable tensor is missing, or the manifest lacks a component"""
    checkpoint = tmp_path / "checkpoints" / "step_000002"
    assert set(read_state(checkpoint / "model.safetensors")) == set(trainable(run.model))
    manifest = read_manifest(checkpoint)
    assert manifest["step"] == 2
    assert set(manifest["components"]) == {"encoders.vision", "bridges.image", "bridges.audio", "output", "language"}
    assert manifest["components"]["language"]["trained"]["tensors"] == 0
    assert manifest["components"]["language"]["frozen"]["fingerprint"]
    assert "fingerprint" not in manifest["components"]["bridges.image"]["frozen"]
    assert json.loads((checkpoint / "state.json").read_text())["step"] == 2


def test_only_the_newest_checkpoints_are_kept(tmp_path):
    """fails when `keep` is ignored or the newest one is removed"""
    tiny_runner(tmp_path, save_every=2, keep=2).train()
    assert [path.name for path in checkpoints(tmp_path / "checkpoints")] == ["step_000006", "step_000008"]
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2


def test_an_incomplete_checkpoint_is_ignored(run, tmp_path):
    """fails when a crash during a save leaves a folder that a run would resume from"""
    complete = tmp_path / "checkpoints" / "step_000002"
    shutil.copytree(complete, tmp_path / "checkpoints" / ".writing_step_000004")
    shutil.copytree(complete, tmp_path / "checkpoints" / "step_000005")
    (tmp_path / "checkpoints" / "step_000005" / "manifest.json").unlink()
    assert run.checkpointer.latest() == complete


def test_steps_beyond_six_digits_sort_as_numbers(tmp_path):
    """fails when step 1,000,000 sorts before step 999,999"""
    for step in (1000000, 999999):
        (tmp_path / f"step_{step:06d}").mkdir()
        (tmp_path / f"step_{step:06d}" / "manifest.json").write_text("{}")
    assert checkpoints(tmp_path)[-1].name == "step_1000000"


def test_different_trainable_tensors_are_refused_with_a_table(run, tmp_path):
    """fails when a resume silently leaves tensors at their initial values"""
    model = TinyModel()
    model.output.requires_grad_(False)
    with pytest.raises(ValueError, match=r"(?s)different trainable tensors.*unexpected\s+output\.weight"):
        resumed(tiny_runner(tmp_path, model=model))


def test_different_frozen_weights_are_refused_with_a_table(run, tmp_path):
    """fails when trained tensors are loaded with another language model than they were trained with"""
    model = TinyModel()
    model.language.weight.data[0, 0] += 0.1
    for load in (lambda: resumed(tiny_runner(tmp_path, model=model)), lambda: start_from_checkpoint(model, tmp_path)):
        with pytest.raises(ValueError, match=r"(?s)with different frozen weights.*language: fingerprint") as error:
            load()
        assert "encoders.vision" not in str(error.value)


def test_start_from_checkpoint_by_component_name(run, tmp_path):
    """fails when stage 2 starts from other values than the final ones of stage 1, or a fresh tensor is not reported"""
    model = TinyModel(modalities=("image", "audio", "video"))
    report = start_from_checkpoint(model, tmp_path)
    for name, parameter in trainable(run.model).items():
        assert torch.equal(parameter, trainable(model)[name])
    assert report.step == 2
    assert report.taken["bridges.audio"] == (2, 20)
    assert set(report.fresh) == {"bridges.video.weight", "bridges.video.bias"}
    assert "bridges.video: 2 trainable tensors are not in it" in str(report)


def test_start_from_checkpoint_compares_parts_that_were_frozen(run, tmp_path):
    """fails when a part that was frozen in stage 1 and is trainable in stage 2 is not compared"""
    model = TinyModel()
    model.language.requires_grad_(True)
    assert "language.weight" in start_from_checkpoint(model, tmp_path).fresh
    model.language.weight.data.mul_(2)
    with pytest.raises(ValueError, match="language: fingerprint"):
        start_from_checkpoint(model, tmp_path)


def test_a_tied_trainable_tensor_is_not_compared_as_frozen():
    """fails when the second name of a trainable tensor (tied embeddings) counts as a frozen weight that changed"""
    model = nn.Module()
    model.language = nn.ModuleDict({"embed": nn.Embedding(7, 4), "norm": nn.LayerNorm(4), "head": nn.Linear(4, 7)})
    model.language["head"].weight = model.language["embed"].weight
    set_trainable(model, ["language.embed.*"])
    manifest = {"components": describe_components(model)}
    assert changed_frozen_parts(model, manifest, trainable_parameters(model)) == []
    with torch.no_grad():
        model.language["norm"].weight.mul_(2)
    assert len(changed_frozen_parts(model, manifest, trainable_parameters(model))) == 1


def test_start_from_checkpoint_needs_every_part_of_it(run, tmp_path):
    """fails when trained tensors without a part in the model are dropped silently"""
    with pytest.raises(ValueError, match=r"unexpected\s+bridges\.audio\.weight"):
        start_from_checkpoint(TinyModel(modalities=("image",)), tmp_path)


def test_another_tokenizer_is_refused(tmp_path):
    """fails when trained tensors are used with a tokenizer of other ids, in a resume or a start from a checkpoint"""

    class OtherTokenizer(CrcTokenizer):
        vocab_size = 101

    runner = tiny_runner(tmp_path, stop_at=1)
    runner.checkpointer.about["tokenizer"] = {"fingerprint": tokenizer_fingerprint(CrcTokenizer())}
    runner.train()
    assert start_from_checkpoint(TinyModel(), tmp_path, CrcTokenizer()).step == 1
    with pytest.raises(ValueError, match="tokenizer: fingerprint"):
        start_from_checkpoint(TinyModel(), tmp_path, OtherTokenizer())
    runner.checkpointer.about["tokenizer"] = {"fingerprint": tokenizer_fingerprint(OtherTokenizer())}
    with pytest.raises(ValueError, match="tokenizer: fingerprint"):
        resumed(runner)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("encoders.vision.blocks.0.w", "encoders.vision"),
        ("bridges.perceiver.queries.sound", "bridges.perceiver"),
        ("language.model.x", "language"),
        ("fusion.gate", "fusion"),
    ],
)
def test_component_names(name, expected):
    """fails when a component name differs from the one in YAML"""
    assert component_of(name) == expected


def test_a_fingerprint_depends_on_values_names_and_shapes_but_not_on_dtype():
    """fails when equal weights in bfloat16 have another fingerprint, or different weights have the same"""
    weight = torch.randn(300, 70, generator=torch.Generator().manual_seed(0)).bfloat16().float()
    one = fingerprint({"w": weight})
    assert fingerprint({"w": weight.bfloat16()}) == one
    assert fingerprint({"w": weight * 1.1}) != one
    assert fingerprint({"v": weight}) != one
    assert fingerprint({"w": weight.T.contiguous()}) != one


def test_a_second_name_of_a_trainable_tensor_is_not_frozen():
    """fails when trainable tied embeddings are reported as frozen weights that changed"""
    model = TinyModel()
    model.tied = model.output
    assert not any(name.startswith("tied") for name in frozen_tensors(model))


def test_find_checkpoint_reports_what_it_expected(tmp_path):
    """fails when a wrong path ends in a traceback instead of a hint"""
    with pytest.raises(ValueError, match="does not exist; expected a run folder"):
        find_checkpoint(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="has no checkpoints in it"):
        find_checkpoint(tmp_path)
