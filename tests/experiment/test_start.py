"""The start of a run: what a resume that holds out other samples says and writes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from chatbridge.common.safe_files import read_json_lines
from chatbridge.experiment.start import open_run, random_note
from chatbridge.models.component_tensors import describe_components, trainable_parameters
from chatbridge.models.start_from_checkpoint import changed_frozen_parts
from chatbridge.models.trainable import set_trainable
from chatbridge.runners.config import RunConfig
from chatbridge.runners.resume import ResumePoint
from tests.helpers.gated_models import gated
from tests.helpers.tiny_models import tiny_model


def settings(samples: int, own: int | None = None, seed: int = 1) -> dict[str, Any]:
    data = {"validation": {"samples": samples}, "sources": {"qa": {"validation": own}, "cap": {"validation": 0}}}
    return {"data": data, "run": {"seed": seed}}


@pytest.mark.parametrize(
    ("now", "is_told"),
    [(settings(3), False), (settings(9, own=3), False), (settings(2), True), (settings(3, seed=2), True)],
)
def test_other_held_out_samples_are_told_and_noted_once(tmp_path: Path, caplog, now: dict[str, Any], is_told: bool):
    """fails when a resume with other held-out samples is silent, or one with the same ones starts validation anew"""
    run = RunConfig(output_dir=tmp_path, max_steps=9)
    point = ResumePoint(tmp_path / "checkpoints/step_000004")

    def start(config: dict[str, Any], point: ResumePoint | None, step: int) -> None:
        opened: Any = SimpleNamespace(settings=config, completed=lambda then: then)
        open_run(run, opened, point, step)

    def notes() -> list[dict[str, Any]]:
        path = tmp_path / "scores.jsonl"
        return [*read_json_lines(path).records] if path.exists() else []

    start(settings(3), None, 0)
    start(now, point, 4)
    assert ("may have been trained on" in caplog.text) == is_told
    start(now, point, 4)  # as a restart does
    expected = [{"step": 4, "held_out": {"qa": 3 if now["data"]["validation"]["samples"] != 2 else 2}}]
    assert notes() == (expected if is_told else [])
    start(now, ResumePoint(tmp_path / "checkpoints/step_000002"), 2)  # before the note, which is dropped
    assert notes() == ([{**expected[0], "step": 2}] if is_told else [])


def test_parts_frozen_at_random_values_are_named(tmp_path: Path):
    """fails when a run is silent about parts that no checkpoint holds, or a refused checkpoint names no way out"""
    model = tiny_model()
    set_trainable(model, ["bridges.*", "encoders.audio.*"])
    assert random_note(model, None).startswith("no weights file for encoders.vision, language: frozen at random values")
    assert random_note(model, tmp_path) == ""
    assert "Set `weights`, or" in random_note(model, None)
    gates = gated()
    set_trainable(gates, ["bridges.*", "language.*"])
    assert "fusion: frozen" in random_note(gates, None) and "(of the fusion: model.weights)" in random_note(gates, None)
    set_trainable(model, ["*"])
    assert random_note(model, None) == ""
    set_trainable(model, ["bridges.*"])
    manifest = {"components": describe_components(model)}
    next(model.encoders["vision"].parameters()).data += 1
    (line, *more) = changed_frozen_parts(model, manifest, trainable_parameters(model))
    assert "encoders.vision: fingerprint" in line and "model.encoders.vision.weights" in " ".join(more)
