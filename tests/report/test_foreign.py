"""`chatbridge report` of run folders that are damaged, or from another version or person."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from chatbridge.cli.report import main
from chatbridge.common.errors import DataError
from chatbridge.report.media import embedded
from tests.helpers.media_files import image_bytes, tone, write_audio, write_video

ROW = {"index": 0, "id": "x", "question": "q", "answer": "a", "references": ["a"], "scores": {"m": 1.0}, "details": {}}
STEP = {"step": 1, "loss": 1.0, "seconds": 2.0}
SEALED = {"format": "chatbridge-checkpoint-1", "step": 1, "components": {}}


def evaluation(folder: Path, metrics: Any = None, row: dict[str, Any] | None = None, settings: str = "") -> Path:
    folder.mkdir(exist_ok=True)
    metrics = {"a": {"metric": "m", "m": 1.0}} if metrics is None else metrics
    (folder / "metrics.json").write_bytes(metrics if isinstance(metrics, bytes) else json.dumps(metrics).encode())
    (folder / "predictions_a.jsonl").write_text("".join(json.dumps(one) + "\n" for one in (ROW, row or ROW)))
    (folder / "resolved.yaml").write_text(settings)
    return folder


@pytest.mark.parametrize(
    "metrics",
    [
        b"", b"\xff\xfe\0", b"[" * 100_000, b"[1]", b"3", {"a": 3}, {"a": {}, "b": {"metric": 3}},
        {"a": {"metric": "m"}},
        {"a": {"metric": "m", "m": "high"}}, {"a": {"metric": "m", "m": 1.0, "measured": [1]}},
    ],
)  # fmt: skip
def test_results_of_another_shape_are_refused(tmp_path: Path, metrics: Any):
    """fails when a metrics.json that no evaluation wrote gives a traceback"""
    with pytest.raises(DataError, match=r"metrics\.json"):
        main([str(evaluation(tmp_path, metrics))])


@pytest.mark.parametrize("settings", ["evaluation: 3", "evaluation: {tasks: [1]}", "evaluation: {tasks: {a: hi}}",
                                      "evaluation: {tasks: {a: {drop_media: 3}}}",
                                      "evaluation: {tasks: {a: {group_by: kind}}}",
                                      "evaluation: {tasks: {a: {report: 3}}}",
                                      "evaluation: {tasks: {a: {report: {target: high}}}}"])  # fmt: skip
def test_settings_of_another_shape_are_refused(tmp_path: Path, settings: str):
    """fails when a resolved.yaml with invalid tasks gives a traceback"""
    with pytest.raises(DataError, match=r"resolved\.yaml"):
        main([str(evaluation(tmp_path, settings=settings))])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("index", -1), ("index", "0"), ("question", 3), ("answer", None), ("references", "a"), ("references", [3]),
        ("references", None), ("scores", None), ("scores", {"m": "1"}), ("details", None), ("details", [1]),
    ],
)  # fmt: skip
def test_answers_of_another_shape_are_left_out(tmp_path: Path, key: str, value: Any, caplog: pytest.LogCaptureFixture):
    """fails when one invalid line of the answers stops the report, or is left out without a warning"""
    assert main([str(evaluation(tmp_path, row={**ROW, key: value}))]) == 0
    assert "1 lines do not have the entries that runs write" in caplog.text
    assert json.loads((tmp_path / "results.json").read_text())["chance"]["qa"]


@pytest.mark.parametrize(
    ("key", "value"), [("loss", "x"), ("loss", None), ("step", None), ("seconds", "x"), ("per_source", {"a": "x"})]
)
def test_steps_of_another_shape_are_left_out(tmp_path: Path, key: str, value: Any, capsys: pytest.CaptureFixture[str]):
    """fails when one invalid line of metrics.jsonl stops the report"""
    (tmp_path / "metrics.jsonl").write_text(json.dumps(STEP) + "\n" + json.dumps({**STEP, key: value}) + "\n")
    assert main([str(tmp_path)]) == 0
    assert "step 1, loss 1.0000" in capsys.readouterr().out


def test_a_damaged_checkpoint_leaves_its_tree_out(tmp_path: Path):
    """fails when a manifest without numbers of parameters, or weights with a damaged header, stop the report"""
    (tmp_path / "metrics.jsonl").write_text(json.dumps(STEP) + "\n")
    step = tmp_path / "checkpoints/step_000001"
    step.mkdir(parents=True)
    part = {"trained": {"tensors": 1}, "frozen": {"tensors": 1, "parameters": "many"}}
    manifest = {**SEALED, "components": {"a." * 5000: part}, "model": {"trainable": 3}}
    (step / "manifest.json").write_text(json.dumps(manifest))
    (step / "model.safetensors").write_bytes(b"\xff" * 100)
    assert main([str(tmp_path)]) == 0


@pytest.mark.parametrize("modality", ["image", "video", "audio"])
def test_only_media_are_put_into_a_page(tmp_path: Path, modality: str):
    """fails when a page, which is passed on, contains a private file that foreign settings call an image"""
    for name in ("id_rsa", "photo.jpg", "clip.mp4", "tone.wav"):
        path = tmp_path / name
        path.write_text("-----BEGIN OPENSSH PRIVATE KEY-----\n" * 20)
        assert "base64" not in embedded(modality, path)


def test_media_are_put_into_a_page(tmp_path: Path):
    """fails when the check of the content refuses readable media"""
    (tmp_path / "a.jpg").write_bytes(image_bytes("JPEG"))
    write_video(tmp_path / "p.mp4", num_frames=4, tone_hz=440.0)
    write_audio(tmp_path / "s.wav", tone(0.3))
    for modality, name in (("image", "a.jpg"), ("video", "p.mp4"), ("audio", "s.wav"), ("audio", "p.mp4")):
        assert "base64" in embedded(modality, tmp_path / name)
