"""From a draw to a decoded sample."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from chatbridge.common import seeds
from chatbridge.common.errors import MediaError
from chatbridge.config.schema import parse
from chatbridge.conversation.messages import Media, Text, user
from chatbridge.conversation.templates import build_template
from chatbridge.datasets.builders import BUILDERS, Dataset
from chatbridge.datasets.decoding import decode
from chatbridge.datasets.order.mixture import Mixture
from chatbridge.datasets.sample_reader import Exhausted, SampleError, SampleReader, read_sample
from chatbridge.processors.audio import AudioProcessor
from chatbridge.processors.image import ImageProcessor
from chatbridge.processors.limits import Limits
from chatbridge.processors.media_processor import MediaProcessor
from chatbridge.processors.video import VideoProcessor
from tests.helpers.media_files import tone, write_audio, write_video
from tests.helpers.tiny_media import layout, write_json


class Fake:
    """A processor that returns the digits of the file's name and a random number."""

    def __call__(self, ref: Any, rng: np.random.Generator | None = None) -> Tensor:
        name = Path(ref).stem
        if name.startswith("bad"):
            raise MediaError(f"{name} is broken")
        return torch.tensor([float(name[1:]), -1.0 if rng is None else rng.random()])


def source(folder: Path, names: list[str], **fields: Any) -> Dataset:
    image = [{"type": "image", "path": f"{name}.jpg"} for name in names]
    answer = {"role": "assistant", "content": "yes", **fields}
    lines = [{"id": str(n), "messages": [{"role": "user", "content": [part]}, answer]} for n, part in enumerate(image)]
    part = BUILDERS.get("records")
    return part(parse(part.Config, {"file": str(write_json(folder / "r.jsonl", lines))}), "mine")


def reader(dataset: Dataset, **options: Any) -> SampleReader:
    return SampleReader(Mixture({"mine": dataset}, {"mine": 1}, 0, 4), layout(), {"image": Fake()}, seed=1, **options)


def test_training_draws_frames_at_random_and_evaluation_does_not(tmp_path: Path):
    """fails when training always takes the middle frame, or evaluation differs from run to run"""
    dataset = source(tmp_path, ["n7"])
    trained = {float(read_sample(dataset, 0, {"image": Fake()}, seeds.stream(0, "t", k)).media[0][1]) for k in range(5)}
    assert len(trained) == 5 and min(trained) >= 0
    evaluated = read_sample(dataset, 0, {"image": Fake()}, seeds.stream(0, "t"), train=False)
    assert evaluated.media[0].tolist() == [7, -1] and evaluated.source == "mine" and evaluated.id == "0"


def test_each_draw_has_its_own_randomness(tmp_path: Path):
    """fails when a sample is the same in every pass, or different when the same draw is read again"""
    read = reader(source(tmp_path, ["n1", "n2"]))
    draws = [draw for step in range(3) for draw in read.mixture.draws(step)]
    seen = [float(one.sample.media[0][1]) for one in read(draws)]
    assert len(set(seen)) == len(draws) == 12
    assert [float(one.sample.media[0][1]) for one in read(draws)] == seen


def test_a_replacement_is_named_in_the_failure(tmp_path: Path):
    """fails when the failure log lacks the broken sample, the reason or the replacement"""
    read = reader(source(tmp_path, ["bad0", "n1", "bad2", "n3"]))
    for draw in [draw for step in range(8) for draw in read.mixture.draws(step)]:
        (found,) = read([draw])
        assert found.sample.id in ("1", "3") and found.sample.media[0][0] == int(found.sample.id)
        assert bool(found.failures) == (draw.index in (0, 2))
        for failure in found.failures:
            assert failure.reason == f"bad{failure.id} is broken" and failure.replaced_by == found.sample.id


def test_replacing_ends(tmp_path: Path):
    """fails when a source of broken files is searched without end"""
    read = reader(source(tmp_path, [f"bad{n}" for n in range(50)]), max_attempts=3)
    with pytest.raises(Exhausted, match="3 samples in a row") as caught:
        read(read.mixture.draws(0)[:1])
    assert len(caught.value.failures) == 3
    alone = reader(source(tmp_path, ["bad0"]))
    with pytest.raises(Exhausted, match=r"1 samples? in a row"):
        alone(alone.mixture.draws(0)[:1])


def test_an_error_in_a_builder_names_the_sample_even_without_its_id(tmp_path: Path, monkeypatch):
    """fails when the message about an error raises an error"""
    read = reader(source(tmp_path, ["n1"]))

    def broken(*args: object) -> None:
        raise RuntimeError("slip")

    monkeypatch.setattr(read.mixture.sources["mine"], "record", broken)
    monkeypatch.setattr(read.mixture.sources["mine"], "sample_id", broken)
    with pytest.raises(SampleError, match=r"source 'mine', sample 'index 0' \(index 0, draw 0\): RuntimeError: slip"):
        read(read.mixture.draws(0)[:1])


class Eye(MediaProcessor):
    """Returns the number of frames it was asked for."""

    counted = "num_frames"

    def __init__(self, num_frames: int = 4):
        self.num_frames = num_frames

    def __call__(self, ref: Any, rng: np.random.Generator | None = None) -> Tensor:
        return torch.zeros(self.num_frames)


def films(folder: Path, sound: str, words: list[Any] | None = None, **settings: Any) -> Dataset:
    """One sample of a video, its audio and text."""
    (folder / "film.mp4").write_bytes(b"x")
    content = [{"type": "video", "path": "film.mp4"}, {"type": "audio", "path": sound}, *(words or [])]
    answer = {"role": "assistant", "content": "yes"}
    lines = [{"id": "f", "messages": [{"role": "user", "content": content}, answer]}]
    part = BUILDERS.get("records")
    return part(parse(part.Config, {"file": str(write_json(folder / "r.jsonl", lines)), **settings}), "films")


def senses(**limits: Any) -> dict[str, Any]:
    ear = AudioProcessor(mel_bins=8, target_frames=16).within(Limits(**limits))
    return {"video": Eye(), "audio": ear}


QUESTION = [{"type": "text", "text": "What is heard?"}]


@pytest.mark.parametrize(
    "sound, reason",
    [("gone.wav", "no such file"), ("silent.mp4", "no audio track"), ("nothing.wav", "the audio is empty")],
)
def test_missing_audio_of_a_video_is_noted_in_the_prompt(tmp_path: Path, sound: str, reason: str):
    """fails when missing audio becomes zeros, is not reported, counts as a failure, or the text of the
    note is not at the position of the audio"""
    write_video(tmp_path / "silent.mp4")
    write_audio(tmp_path / "nothing.wav", np.zeros(0))
    found = read_sample(films(tmp_path, sound, QUESTION), 0, senses(), seeds.stream(0, "t"))
    user, _ = found.conversation
    assert user.parts[1:] == (Text("The video has no sound. What is heard?"),) and len(found.media) == 1
    prompt = build_template("vicuna_v0").render(found.conversation)
    assert prompt.startswith(
        "###Human: Given following video: <query>.###Human: The video has no sound. What is heard?###Assistant:"
    )
    assert reason in str(found.without_sound)
    mixture = Mixture({"films": films(tmp_path, sound)}, {"films": 1}, 0, 1)
    (read,) = SampleReader(mixture, layout("vicuna_v0"), senses(sound_note="Silent film."), 1)(mixture.draws(0))
    assert read.sample.conversation[0].parts[1:] == (Text("Silent film."),)
    (told,) = read.failures
    assert (told.kind, told.id, told.counts, told.drawn) == ("without sound", "f", False, 0)


def test_missing_audio_is_a_failure_with_refuse(tmp_path: Path):
    """fails when `refuse` is ignored, or broken audio, or audio without a video, is taken for missing audio"""
    with pytest.raises(MediaError, match=r"gone.wav: no such file"):
        read_sample(films(tmp_path, "gone.wav"), 0, senses(missing_sound="refuse"), seeds.stream(0, "t"))
    (tmp_path / "broken.wav").write_bytes(b"hello" * 100)
    with pytest.raises(MediaError, match=r"broken.wav: not readable audio"):
        read_sample(films(tmp_path, "broken.wav"), 0, senses(), seeds.stream(0, "t"))
    with pytest.raises(MediaError, match=r"gone.wav: no such file"):
        decode((user(Media("audio", tmp_path / "gone.wav"), "what"),), senses())


def test_notes_are_separated_from_the_text(tmp_path: Path):
    """fails when a note has no space to the text around it, or replaces another part"""
    lost = Media("audio", tmp_path / "gone.wav")
    film = Media("video", tmp_path / "film.mp4")
    found = decode((user("Look.", lost, "What?", film, " And", lost),), senses(sound_note="Silent."))
    assert found.conversation[0].parts == (Text("Look. Silent. What?"), film, Text(" And Silent."))


@pytest.mark.parametrize(
    "settings", [{"frames": 2, "clips": 3}, {"pieces": {"video": 2, "audio": 3}}], ids=["frames", "pieces"]
)
def test_a_source_may_set_its_number_of_frames_and_clips(tmp_path: Path, settings: dict[str, Any]):
    """fails when frames or clips of a source are ignored, or are used for the next source"""
    write_audio(tmp_path / "s.wav", tone(1.0))
    one, plain = films(tmp_path, "s.wav", **settings), films(tmp_path, "s.wav")
    processors = senses()
    assert [len(item) for item in read_sample(one, 0, processors, seeds.stream(0, "t")).media] == [2, 3]
    assert [len(item) for item in read_sample(plain, 0, processors, seeds.stream(0, "t")).media] == [4, 1]


def test_text_in_the_place_of_a_path_fails_one_sample(tmp_path: Path):
    """fails when a name that is too long for the system ends the run, or fills the failure log"""
    image = ImageProcessor(8)
    ref = tmp_path / ("A caption that stands in the wrong column. " * 100)
    for modality, processor in {**senses(), "image": image, "video": VideoProcessor(image, 2)}.items():
        with pytest.raises(MediaError, match="A caption .*: cannot be opened: File name too long") as told:
            decode((user(Media(modality, ref)),), {modality: processor})
        assert len(str(told.value)) < 600
