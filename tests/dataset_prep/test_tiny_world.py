"""The tiny world: its scenes, the held-out combinations, and its files."""

from __future__ import annotations

import json
from collections import Counter
from itertools import combinations, islice
from pathlib import Path

import numpy as np
import pytest
import torch

from chatbridge.conversation.messages import media_parts
from chatbridge.processors.audio import AudioProcessor
from chatbridge.processors.image import ImageProcessor
from chatbridge.processors.video import VideoProcessor
from dataset_prep.tiny_world import corpus, encoder_data, render_audio, render_visual, world, write_files
from dataset_prep.tiny_world.world import Scene


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    write_files.write_world(folder, seed=3, scale=0.02)
    return folder


def records(path: Path) -> list[dict]:
    return json.loads(path.read_text())


@pytest.mark.parametrize("modality", world.MODALITIES)
def test_held_out_scenes_are_new_combinations_of_known_pairs(modality: str) -> None:
    """Fails when a held-out scene is trained on, or when a pair of values never occurs in training."""
    shown, held = (set(world.all_scenes(modality, held_out=flag)) for flag in (False, True))
    assert not shown & held
    assert 0.1 < len(held) / len(shown | held) < 0.25
    assert len(held) >= 20
    for first, second in combinations(world.ATTRIBUTES[modality], 2):
        pairs = {(scene[first], scene[second]) for scene in shown}
        assert len(pairs) == len(world.ATTRIBUTES[modality][first]) * len(world.ATTRIBUTES[modality][second])


@pytest.mark.parametrize("modality", world.MODALITIES)
def test_captions_name_every_attribute(modality: str) -> None:
    """Fails when a caption leaves out what the evaluation asks a caption to name."""
    rng = np.random.default_rng(0)
    for scene in world.all_scenes(modality, held_out=True):
        for _ in range(8):
            assert all(value in world.caption(scene, rng) for value in scene.values)


def test_training_files_show_no_held_out_scene(root: Path) -> None:
    """Fails when stage 1 or stage 2 shows a combination that the evaluation uses."""
    rng = np.random.default_rng(0)
    for modality in world.MODALITIES:
        scenes = write_files.scenes(modality, 500, rng, held_out=False)
        assert not any(scene.is_held_out for scene in scenes)
        asked = records(root / "heldout" / f"{modality}_cap.json")
        assert all(Scene(modality, tuple(record["must_name"])).is_held_out for record in asked)


@pytest.mark.parametrize("modality", world.MODALITIES)
def test_scenes_rendered_for_training_are_not_held_out(
    modality: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails when a file of stage 1 or 2 shows a held-out scene, or the evaluation, pairs included, one of training."""
    shown: list[Scene] = []
    monkeypatch.setitem(write_files.RENDER, modality, lambda scene, rng: shown.append(scene) or b"x")
    monkeypatch.setattr(render_audio, "waveform", lambda scene, rng: shown.append(scene))
    monkeypatch.setattr(render_visual, "mp4", lambda scene, rng, samples: shown.append(scene) or b"x")
    write_files.write_pairs(tmp_path / "a", modality, 200, seed=3)
    write_files.write_dialogues(tmp_path / "b", modality, 200, seed=3)
    assert len(shown) == 400 and not any(scene.is_held_out for scene in shown)
    shown.clear()
    write_files.write_questions(tmp_path / "c", modality, 100, seed=3)
    write_files.write_paired_media(tmp_path / "d", 50, seed=3)
    assert len(shown) == 200 and all(scene.is_held_out for scene in shown)


def test_encoders_are_trained_on_no_held_out_scene(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails when the vision encoder trains on a held-out scene, or audio that trains the audio encoder is a scene."""
    shown: list[Scene] = []
    monkeypatch.setattr(render_visual, "jpeg", lambda scene, rng: shown.append(scene))
    monkeypatch.setattr(encoder_data, "_jpeg_frame", lambda scene, rng: shown.append(scene))
    encoder_data.image_batches(lambda image: torch.zeros(1), 7, held_out=False)(300)
    assert len(shown) == 300 and not any(scene.is_held_out for scene in shown)
    rendered: list[tuple[float, float]] = []
    monkeypatch.setattr(
        render_audio, "waveform_of", lambda kind, hz, level, background, rng: rendered.append((hz, level))
    )
    labels = [known for _, known in islice(encoder_data.any_audio(np.random.default_rng(0)), 1000)]
    for (base_hz, level), known in zip(rendered, labels, strict=True):
        assert not (named(base_hz, render_audio.BASE_HZ) and named(level, render_audio.LEVELS))
        assert -100 in (known["pitch"], known["volume"])


def named(value: float, ranges: dict[str, tuple[float, float]]) -> bool:
    return any(low <= value <= high for low, high in ranges.values())


def test_stage_two_shows_one_modality_at_a_time(root: Path) -> None:
    """Fails when a training annotation pairs a video with audio, which would invalidate the catalyst test."""
    for path in (root / "instruct").glob("*.json"):
        markers = Counter(word for record in records(path) for turn in record.get("conversations", ())
                          for word in ("<image>", "<video>", "<audio>") if word in turn["value"])  # fmt: skip
        assert set(markers) <= {f"<{path.stem.split('_')[0]}>"}
    assert not list((root / "instruct").rglob("pairs"))


def test_files_read_as_media(root: Path) -> None:
    """Fails when the processor of a modality cannot read its files."""
    image = ImageProcessor(size=64, mean=(0.5,) * 3, std=(0.5,) * 3, train=False)
    audio = AudioProcessor(mel_bins=64, target_frames=208)
    pair = next((root / "heldout" / "pairs").glob("*.mp4"))
    assert image(next((root / "instruct" / "images").glob("*.jpg"))).shape == (3, 64, 64)
    assert VideoProcessor(image=image, num_frames=4)(pair).shape == (4, 3, 64, 64)
    assert audio(pair).shape == (1, 208, 64)
    assert audio(next((root / "instruct" / "sounds").glob("*.wav"))).shape == (1, 208, 64)


def test_the_same_seed_writes_the_same_files(root: Path, tmp_path: Path) -> None:
    """Fails when a file depends on anything but the seed."""
    write_files.write_world(tmp_path, seed=3, scale=0.02)
    names = sorted(path.relative_to(root) for path in root.rglob("*") if path.is_file() and path.suffix != ".mp4")
    names = [name for name in names if not name.name.endswith(".index")]
    assert len(names) > 30
    assert all((root / name).read_bytes() == (tmp_path / name).read_bytes() for name in names)


@pytest.mark.parametrize("kind", world.JOINT_QUESTIONS)
def test_joint_answers_need_both_media(kind: str) -> None:
    """Fails when an answer to a joint question does not depend on the audio, or not on the video."""
    rng = np.random.default_rng(1)
    videos = [scene for scene in world.all_scenes("video", held_out=True) if scene["motion"] in ("up", "down")]
    tones = [scene for scene in world.all_scenes("audio", held_out=True) if scene["sound"] in world.FOLLOWED]
    assert len({scene["sound"] for scene in tones}) == 2
    answers = {(v, s): world.joint_question(kind, v, s, rng)[1] for v in videos for s in tones}
    assert any(len({answers[v, s] for s in tones}) > 1 for v in videos)
    assert any(len({answers[v, s] for v in videos}) > 1 for s in tones)


def test_a_description_contains_the_answers() -> None:
    """Fails when the language model trains on answers that do not follow from its context."""
    rng = np.random.default_rng(2)
    scenes = {modality: list(world.all_scenes(modality, held_out=False)) for modality in world.MODALITIES}
    for modality in world.MODALITIES:
        for _ in range(50):
            _, conversation = corpus.one_question(scenes, modality, rng)
            described = next(iter(media_parts(conversation))).ref
            assert conversation[-1].text in str(described)


def test_motion_is_in_the_order_of_frames() -> None:
    """Fails when the center of a shape does not move in the direction of its scene."""
    scene = Scene("video", ("red", "circle", "up", "grows"))
    frames = [
        np.asarray(frame)[..., 0].astype(float) for frame in render_visual.video_frames(scene, np.random.default_rng(0))
    ]
    rows = [np.average(np.arange(64), weights=(frame > 128).sum(1)) for frame in frames]
    assert rows[0] - rows[-1] > 15
    assert (frames[-1] > 128).sum() > 1.5 * (frames[0] > 128).sum()


def loudness(scene: Scene, low_hz: float, high_hz: float) -> float:
    """Power between two frequencies, in dB relative to the total power."""
    samples = render_audio.waveform(scene, np.random.default_rng(5))
    power = np.abs(np.fft.rfft(samples)) ** 2
    hz = np.fft.rfftfreq(samples.size, 1 / render_audio.RATE_HZ)
    return float(10 * np.log10(power[(hz >= low_hz) & (hz < high_hz)].sum() / power.sum()))


@pytest.mark.parametrize("volume", world.VOLUMES)
@pytest.mark.parametrize("kind", world.SOUNDS)
def test_backgrounds_can_be_heard_in_every_sound(kind: str, volume: str) -> None:
    """Fails when a hiss or a hum is masked by the foreground, or resembles the other."""
    clear, hiss, hum = (Scene("audio", (kind, "medium", volume, name)) for name in world.BACKGROUNDS)
    assert loudness(hiss, 5000, 7500) > max(loudness(clear, 5000, 7500), loudness(hum, 5000, 7500)) + 6
    assert loudness(hum, 40, 130) > max(loudness(clear, 40, 130), loudness(hiss, 40, 130)) + 6


def strongest_hz(samples: np.ndarray) -> float:
    power = np.abs(np.fft.rfft(samples)) ** 2
    return float(np.fft.rfftfreq(samples.size, 1 / render_audio.RATE_HZ)[power.argmax()])


@pytest.mark.parametrize("pitch", world.PITCHES)
def test_tones_have_the_direction_of_their_name(pitch: str) -> None:
    """Fails when a rising tone does not end higher, a falling one not lower, or a steady one changes."""
    ratios = {}
    for kind in ("rising tone", "falling tone", "steady tone"):
        samples = render_audio.waveform(Scene("audio", (kind, pitch, "loud", "clear")), np.random.default_rng(5))
        quarter = samples.size // 4
        ratios[kind] = strongest_hz(samples[-quarter:]) / strongest_hz(samples[:quarter])
    assert ratios["rising tone"] > 1.2 and ratios["falling tone"] < 1 / 1.2, ratios
    assert abs(ratios["steady tone"] - 1) < 0.03, ratios


@pytest.mark.parametrize("background", world.BACKGROUNDS)
def test_beats_have_their_number(background: str) -> None:
    """Fails when the waveform has a wrong number of beats, so that one beat and fast beats are alike."""
    found = {}
    for kind, (count, _) in render_audio.BEATS.items():
        samples = render_audio.waveform(Scene("audio", (kind, "high", "loud", background)), np.random.default_rng(6))
        blocks = np.abs(samples[: samples.size // 320 * 320].reshape(-1, 320)).max(1)  # of 20 ms
        is_loud = blocks > 0.6 * blocks.max()
        found[kind] = (int((is_loud[1:] & ~is_loud[:-1]).sum() + is_loud[0]), count)
    assert all(beats == count for beats, count in found.values()), found
