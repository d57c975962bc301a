"""The tiny ImageBind: which image goes with which audio, its training, and the questions of its evaluation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

from chatbridge.common.errors import DataError
from chatbridge.models.encoders.imagebind import ImageBind
from chatbridge.models.loading import read_state
from dataset_prep.tiny_world import binding, train_imagebind, world
from dataset_prep.tiny_world.world import Scene
from tests.helpers.tiny_media import write_json

ROOT = Path(__file__).parents[2]
TRUNK = {"width": 8, "depth": 1, "heads": 2}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Captions of all held-out videos and audio, as write_files writes them."""
    folder = tmp_path_factory.mktemp("world")
    for modality in ("video", "audio"):
        scenes = world.all_scenes(modality, held_out=True)
        records = [{"video_id": f"{k:03}.x", "must_name": list(scene.values)} for k, scene in enumerate(scenes)]
        write_json(folder / "heldout" / f"{modality}_cap.json", records)
    return folder


def asked(root: Path, name: str) -> list[dict[str, str]]:
    return json.loads((root / "heldout" / f"{name}_qa.json").read_text())


def test_every_sound_has_its_image():
    """fails when a value of audio has no counterpart, or audio goes with an image that the evaluation shows"""
    scenes = world.all_scenes("image", held_out=False)
    for scene in (*world.all_scenes("audio", held_out=False), *world.all_scenes("audio", held_out=True)):
        seen = binding.seen_values(scene.named)
        assert seen.keys() == {"shape", "size", "place"}
        fitting = binding.partners(scene.named, scenes)
        assert len(fitting) >= 3 and not any(scenes[number].is_held_out for number in fitting)
        assert all(scenes[number].named.items() >= seen.items() for number in fitting)
    partly = binding.partners({"sound": "siren"}, scenes)
    assert len(partly) > len(fitting) and {scenes[number]["shape"] for number in partly} == {"circle"}


def test_the_questions_of_the_evaluation(root: Path):
    """fails when an answer is not that of the media item, or the control asks about its own audio"""
    count = binding.write_questions(root, seed=3)
    seen, heard, control = (asked(root, name) for name in ("video_as_image", "audio_as_image", "audio_shuffled"))
    videos, sounds = (world.all_scenes(modality, held_out=True) for modality in ("video", "audio"))
    assert count == len(seen) + len(heard) == 2 * len(videos) + 3 * len(sounds)
    for record in seen:
        assert record["answer"] == videos[int(record["video_id"][:3])][record["kind"]]
    wrong = 0
    for record, other in zip(heard, control, strict=True):
        scene: Scene = sounds[int(record["video_id"][:3])]
        assert record["answer"] == binding.seen_values(scene.named)[record["kind"]]
        assert record["question"] in world.QUESTIONS["image"][record["kind"]]
        assert other == record | {"video_id": other["video_id"]} and other["video_id"] != record["video_id"]
        wrong += binding.seen_values(sounds[int(other["video_id"][:3])].named)[record["kind"]] != record["answer"]
    assert wrong / len(heard) > 0.5  # the rest agrees by chance, as half of the sizes do
    with pytest.raises(DataError, match=r"no file .*video_cap\.json; write the tiny world first"):
        binding.write_questions(root / "elsewhere", seed=3)


def test_info_nce():
    """fails when a partner is compared with itself only, or one of the two directions is left out"""
    features = torch.nn.functional.normalize(torch.randn(5, 8, generator=torch.Generator().manual_seed(0)), dim=-1)
    logits = (features @ features.roll(1, 0).T / train_imagebind.TEMPERATURE).double()
    expected = -(logits.log_softmax(0).diag() + logits.log_softmax(1).diag()).mean() / 2
    found = train_imagebind.info_nce(20 * features, features.roll(1, 0))
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)
    assert train_imagebind.info_nce(features, features) < 0.1 < found


def test_the_command_writes_an_encoder(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """fails when the file does not fit its model, audio moves the image trunk, or a trunk is not trained"""
    monkeypatch.setattr(train_imagebind, "NUM_IMAGES", 8)
    monkeypatch.setattr(train_imagebind, "NUM_WAVEFORMS", 4)
    monkeypatch.setattr(train_imagebind, "NUM_EXAMINED", 4)
    monkeypatch.setattr(train_imagebind, "IMAGES_PER_SCENE", 1)
    sizes = {
        "name": "imagebind", "out_width": 10, "vision": {**TRUNK, "image_size": 32, "patch_size": 16},
        "audio": {**TRUNK, "mel_bins": 32, "stride": 16},
    }  # fmt: skip
    path = tmp_path / "model.yaml"
    path.write_text(yaml.safe_dump({"model": {"encoders": {"imagebind": sizes}}}))
    before = {}
    train_audio = train_imagebind.train_audio
    monkeypatch.setattr(
        train_imagebind,
        "train_audio",
        lambda encoder, *more: (
            before.update({k: v.clone() for k, v in encoder.state_dict().items()}),
            train_audio(encoder, *more),
        ),
    )
    steps = ["--vision-steps", "2", "--audio-steps", "2"]
    assert train_imagebind.main(["--root", str(root), "--sizes", str(path), *steps]) == 0
    assert "questions, accuracy" in capsys.readouterr().out
    state = read_state(root / "encoders/imagebind.safetensors")
    assert state.keys() == before.keys()
    moved = {key.split(".")[1] for key in state if not torch.equal(state[key], before[key])}
    assert moved == {"audio"}
    found = json.loads((root / "encoders/imagebind_examination.json").read_text())
    assert found["image"].keys() == world.ATTRIBUTES["image"].keys() and found["audio"].keys() == binding.BOUND.keys()
    assert isinstance(train_imagebind.encoder_of(ROOT / train_imagebind.MODEL), ImageBind)
    with pytest.raises(DataError, match=r"has no model\.encoders\.imagebind; name the YAML"):
        train_imagebind.encoder_of(ROOT / "configs/models/chatbridge_tiny.yaml")
