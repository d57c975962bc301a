"""What an encoder was shown is recorded in the manifest, and compared with what it would be shown now."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from chatbridge.common.errors import ConfigError
from chatbridge.config.schema import parse, plain
from chatbridge.models.checkpoint_manifest import seal_manifest
from chatbridge.models.config import ModelConfig
from chatbridge.models.manifest_check import reconcile
from chatbridge.models.preprocessing_record import changed_preprocessing, preprocessing_of
from tests.helpers.mini_world import MiniWorld

VIT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
CLIP = {"model_type": "clip_vision_model", "intermediate_size": 16, **VIT}
PIXELS = {"size": 28, "image_mean": [0.1] * 3, "image_std": [0.9] * 3}
WHISPER = {"model_type": "whisper", "d_model": 16, "encoder_layers": 1, "encoder_attention_heads": 2}
AUDIO = {"feature_extractor_type": "WhisperFeatureExtractor", "feature_size": 80, "chunk_length": 1}


def write(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> MiniWorld:
    return MiniWorld(tmp_path_factory.mktemp("world"))


@pytest.fixture
def model(world: MiniWorld, tmp_path: Path) -> ModelConfig:
    """Two encoders from folders with preprocessing settings."""
    for name, settings, prepared in (("clip", CLIP, PIXELS), ("ear", WHISPER, AUDIO)):
        write(tmp_path / name / "config.json", settings)
        write(tmp_path / name / "preprocessor_config.json", prepared)
    parts = {"vision": {"name": "hf_vision", "weights": str(tmp_path / "clip")},
             "audio": {"name": "hf_audio", "weights": str(tmp_path / "ear")}}  # fmt: skip
    routes = {one: {"encoder": two, "bridge": "perceiver"} for one, two in (("image", "vision"), ("audio", "audio"))}
    mapping = {**world.model(), "encoders": parts, "bridges": {"perceiver": {"name": "linear"}}, "routes": routes}
    return parse(ModelConfig, mapping, path="model")


def checkpoint(folder: Path, model: ModelConfig, **more: Any) -> Path:
    path = folder / "run/checkpoints/step_000002"
    path.mkdir(parents=True, exist_ok=True)
    manifest = {"format": "chatbridge-checkpoint-1", "step": 2, "model": plain(model), "files": {}, **more}
    seal_manifest(path / "manifest.json", manifest)
    return folder / "run"


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("clip", {**PIXELS, "image_mean": [0.2] * 3}, r"encoders.vision: statistics.mean\s+\[0.2, 0.2, 0.2\]\s+\[0.1"),
        ("clip", {**PIXELS, "size": 42}, r"encoders.vision: size\s+42\s+28"),
        ("clip", {**PIXELS, "resample": 2}, r"encoders.vision: resample\s+\"bilinear\"\s+\"bicubic\""),
        ("ear", {**AUDIO, "feature_size": 64}, r"encoders.audio: extractor.feature_size\s+64\s+80"),
        ("ear", {**AUDIO, "chunk_length": 2}, r"encoders.audio: num_samples\s+32000\s+16000"),
    ],
)
def test_another_file_beside_the_weights_is_an_error(model, tmp_path, file, content, message) -> None:
    """fails when the preprocessing differs from training because a file next to the weights changed"""
    recorded = preprocessing_of(model)
    start = checkpoint(tmp_path, model, preprocessing=recorded)
    assert reconcile(model, start, None).model == model
    write(tmp_path / file / "preprocessor_config.json", content)
    for side in (None, "checkpoint"):
        with pytest.raises(ConfigError, match=message):
            reconcile(model, start, side)
    assert any("preprocessing" in note for note in reconcile(model, start, "yaml").notes)
    assert changed_preprocessing(preprocessing_of(model), {"preprocessing": recorded})  # what a resume compares


def test_a_checkpoint_without_the_record_passes(model, tmp_path) -> None:
    """fails when checkpoints of earlier versions are rejected, or an encoder without files stops the comparison"""
    assert reconcile(model, checkpoint(tmp_path, model), None).model == model
    assert changed_preprocessing(preprocessing_of(model), {}) == []
    (tmp_path / "ear/preprocessor_config.json").unlink()
    assert list(preprocessing_of(model)) == ["vision"]
