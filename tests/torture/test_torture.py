"""Broken and odd files: each is read correctly, or refused with a clear message. Nothing hangs or crashes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from chatbridge.common.errors import ConfigError, DataError, MediaError
from chatbridge.datasets.builders import BUILDERS
from chatbridge.datasets.loader import build_loader
from chatbridge.datasets.order.mixture import Mixture
from chatbridge.processors.audio import AudioProcessor
from chatbridge.processors.decoder_messages import DAMAGED, in_words
from chatbridge.processors.image import ImageProcessor
from chatbridge.processors.limits import Limits
from chatbridge.processors.video import VideoProcessor
from tests.helpers.tiny_media import layout
from tests.helpers.torchcodec_libraries import TORCHCODEC
from tests.torture import ARCHIVES, AUDIO_FILES, IMAGES, KINDS, QUESTIONS, RECORDS, VIDEOS
from tests.torture.audio import PITCH_HZ
from tests.torture.images import CORNERS
from tests.torture.odd_file import OddFile, write_all

SIZE = 32
PIXELS = ImageProcessor(SIZE, mean=(0, 0, 0), std=(1, 1, 1))
VIDEO = VideoProcessor(PIXELS, num_frames=4)
AUDIO = AudioProcessor(target_frames=98)
RAW = re.compile(  # names of functions, tags and wordings of libraries, which do not help a user
    r"\[Errno|\b0x[0-9a-f]|\w_\w+\(|\b(av(codec|format|filter)|sws|swr)_|Error ?:|[Ii]nvalid data found|lost sync|"
    r"Check failed|seek_accurate|decoder (object|error)|data stream|DOS attack|<_io|Truncated File|bytes not processed"
)
DECORD_CANNOT = ("sixteen_pixels.mp4", "cut.mp4")  # read, or refused in better words, by PyAV


def by_name(odds: tuple[OddFile, ...]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("odd", odds, ids=lambda odd: odd.name)


def attempt(action: Callable[[], Any]) -> tuple[Any, str | None]:
    """The result, or the message of the refusal."""
    try:
        return action(), None
    except (MediaError, DataError, ConfigError) as error:
        return None, " ".join(str(error).split())


def check_result(
    odd: OddFile, action: Callable[[], Any], check: Callable[[Any, str], None] = lambda found, marks: None
) -> None:
    """The result is the one that the file states, and a refusal is readable."""
    found, refusal = attempt(action)
    if refusal is None:
        assert odd.reads is not False, "was read"
        check(found, odd.marks)
        return
    assert odd.reads is not True, f"refused: {refusal}"
    assert odd.message in refusal
    assert "Traceback" not in refusal
    assert not RAW.search(refusal), refusal
    assert len(refusal) < 600


def looks_right(image: Tensor, marks: str) -> None:
    """float[3, SIZE, SIZE] in 0..1 shows the content that the file states."""
    assert image.shape == (3, SIZE, SIZE)
    assert torch.isfinite(image).all()
    quarter = SIZE // 4
    spots = [image[:, y, x] for y in (quarter, -quarter) for x in (quarter, -quarter)]
    if marks == "corners":
        colours = torch.tensor(list(CORNERS.values())) / 255
        assert [int((colours - spot).abs().sum(1).argmin()) for spot in spots] == [0, 1, 2, 3]
        assert max(float((colours[i] - spot).abs().max()) for i, spot in enumerate(spots)) < 0.2
    if marks == "grey":
        assert torch.stack(spots).std(1).max() < 0.02
        assert spots[2].mean() < 0.35 < 0.9 < spots[3].mean()
    if marks == "ramp":
        assert image[0, 0, 0] < 0.1 < 0.9 < image[0, -1, -1]


def audio_looks_right(clips: Tensor, marks: str) -> None:
    """float[1, 98, 128] has its loudest bin where the tone is."""
    assert clips.shape == (1, 98, 128)
    assert torch.isfinite(clips).all()
    if marks == "tone":
        mel = np.linspace(mel_of(20), mel_of(8000), 130)[1:-1]
        heard = int(clips[0, 5:20].mean(0).argmax())
        assert abs(mel[heard] - mel_of(PITCH_HZ)) < 60
    if marks == "silence":
        assert clips.max() < -1


def mel_of(hz: float) -> float:
    return 1127 * np.log(1 + hz / 700)


def written(folder: Path, odd: OddFile) -> Path:
    path = folder / odd.name
    odd.write(path)
    return path


def test_there_are_many():
    """fails when the set shrinks below what was promised, or two files share a name"""
    assert sum(map(len, KINDS.values())) >= 150
    assert all(len({odd.name for odd in odds}) == len(odds) for odds in KINDS.values())


@by_name(IMAGES)
def test_images(tmp_path: Path, odd: OddFile):
    """fails when an image is rotated, inverted or bleached, or a broken one is refused without a clear message"""
    path = written(tmp_path, odd)
    check_result(odd, lambda: PIXELS(path), looks_right)


@by_name(IMAGES)
def test_images_in_training(tmp_path: Path, odd: OddFile):
    """fails when the fast path of training reads an image differently"""
    path = written(tmp_path, odd)
    processor = ImageProcessor(SIZE, mean=(0, 0, 0), std=(1, 1, 1), train=True)

    def read() -> Tensor:
        found = processor(path, np.random.default_rng(0))
        return found / 255 if found.dtype == torch.uint8 else found

    check_result(odd, read, looks_right)


@pytest.mark.parametrize("backend", ["decord", "pyav", TORCHCODEC])
@by_name(VIDEOS)
def test_videos(tmp_path: Path, odd: OddFile, backend: Literal["decord", "pyav", "torchcodec"]):
    """fails when a video hangs, is rotated or loses frames, or a broken one is refused without a clear message"""
    path = written(tmp_path, odd)
    if backend == "decord" and odd.name in DECORD_CANNOT:
        odd = replace(odd, reads=False, message="not a readable video")
    processor = VIDEO.within(Limits(video_backend=backend))
    for rng in (None, np.random.default_rng(0)):
        check_result(odd, lambda rng=rng: processor(path, rng), frames_look_right)


def frames_look_right(frames: Tensor, marks: str) -> None:
    assert frames.shape == (4, 3, SIZE, SIZE)
    for frame in frames.float() / (255 if frames.dtype == torch.uint8 else 1):
        looks_right(frame, marks)


@by_name(AUDIO_FILES)
def test_audio(tmp_path: Path, odd: OddFile):
    """fails when a format is read at another pitch, or a broken file is refused without a clear message"""
    path = written(tmp_path, odd)
    check_result(odd, lambda: AUDIO(path), audio_looks_right)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("[Errno 1094995529] Invalid data found when processing input: 'avcodec_send_packet()'", DAMAGED),
        ("Error : flac decoder lost sync.", DAMAGED),
        ("Error opening <_io.BytesIO object at 0x7f00>: Format not recognised.", "of a format that is not accepted"),
        ("[h264 @ 0x55d0] something new", "something new"),
        ("[12:31:04] /src/video_reader.cc:270: something new", "something new"),
        ("Demuxer, /src/torchcodec/_core/Demuxer.cpp:93, something new", "something new"),
        ("[Errno 28] No space left on device", "No space left on device"),
        ("image file is truncated (78 bytes not processed)", "it is cut off"),
        ("avcodec_open2()", DAMAGED),
    ],
)
def test_decoder_messages_become_plain_words(said: str, words: str):
    """fails when a function name, an error number or a memory address is shown as the reason"""
    assert in_words(said) == words


@by_name(ARCHIVES)
def test_archives(tmp_path: Path, odd: OddFile):
    """fails when one bad member loses its neighbours, or a bad archive ends in a traceback"""
    path = written(tmp_path, odd)
    check_result(odd, lambda: build("web_pairs", shards=str(path), modality="image"), readable_samples)


def readable_samples(source: Any, marks: str) -> None:
    read = []
    for index in range(len(source)):
        _, refusal = attempt(
            lambda i=index: PIXELS(source.record(i, np.random.default_rng(0)).conversation[0].media[0].ref)
        )
        if refusal is None:
            read.append(source.sample_id(index).partition(".tar/")[2])
    assert read == marks.split()


@by_name(QUESTIONS)
def test_questions(tmp_path: Path, odd: OddFile):
    """fails when a mistake in an annotation file is reported without its line or record"""
    path = written(tmp_path, odd)
    check_result(odd, lambda: build("questions", annotations=path, tag="ti-qa", image_folder=tmp_path))


@by_name(RECORDS)
def test_records(tmp_path: Path, odd: OddFile):
    """fails when a mistake in our own format is reported without its line"""
    path = written(tmp_path, odd)
    check_result(odd, lambda: build("records", file=path))


def test_a_run_over_all_of_them(tmp_path: Path):
    """fails when a loader with workers over all odd media hangs, dies, or loses or invents a failure"""
    odds = {kind: KINDS[folder] for kind, folder in (("image", "images"), ("video", "videos"), ("audio", "audio"))}
    lines = []
    for kind, some in odds.items():
        for name, path in write_all(tmp_path / kind, some).items():
            asked = {"role": "user", "content": [{"type": kind, "path": str(path)}]}
            answered = {"role": "assistant", "content": "something odd"}
            lines.append(json.dumps({"id": f"{kind}/{name}", "messages": [asked, answered]}))
    (tmp_path / "all.jsonl").write_text("\n".join(lines))
    source = build("records", file=tmp_path / "all.jsonl")
    failed: dict[str, str] = {}
    processors = {"image": PIXELS, "video": VIDEO, "audio": AUDIO}
    mixture = Mixture({"odd": source}, {"odd": 1.0}, seed=0, global_batch=1)
    settings = {"micro_batch": 1, "stop_step": len(lines), "num_workers": 2, "seed": 0}
    with build_loader(mixture, layout("vicuna_v0"), processors, **settings) as loader:
        for batches in loader:  # one pass: every sample is drawn once
            failed |= {failure.id: failure.reason for failure in batches[0].failures}
    wanted = {f"{kind}/{odd.name}": odd for kind, some in odds.items() for odd in some}
    assert {name for name, odd in wanted.items() if odd.reads is False} <= failed.keys()
    assert not {name for name, odd in wanted.items() if odd.reads} & failed.keys()
    assert all(wanted[name].message in reason for name, reason in failed.items())


def build(name: str, **settings: object):
    part = BUILDERS.get(name)
    return part(part.Config(**settings), "odd")
