"""Recordings, what is held out of them, and clips."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from chatbridge.common.seeds import stream
from dataset_prep.stamps import clips, pictures, sounds


def test_a_recording_of_several_things_is_left_out(package: Path, samples: Path) -> None:
    names = {one.name for one in sounds.recordings(pictures.read_stamps(package), samples)}
    assert {"a cow", "a bass drum", "a tabla"} <= names
    assert not names & {"a rhea", "an iguana"}


def test_held_out_sounds(package: Path, samples: Path, tmp_path: Path) -> None:
    parts = sounds.held_out(sounds.recordings(pictures.read_stamps(package), samples))
    drums = [one for one in parts if one.name == "a bass drum"]
    assert [one.held_out for one in drums] == ["", "", "", "recording"]
    assert len({one.path for one in drums}) == 4
    assert sorted(one.held_out for one in parts if one.name == "a cow") == ["", "altered"]
    long = tmp_path / "long.wav"
    soundfile.write(str(long), stream(1, "long").standard_normal(16000 * 3) * 0.2, 16000)
    first, last = sounds.held_out([sounds.Recording(long, "a gnu", "animal")])
    assert (first.held_out, last.held_out) == ("", "section")
    assert first.part[1] == last.part[0]


def test_clips_have_one_length_and_one_loudness(tmp_path: Path) -> None:
    for number, (rate, seconds, gain) in enumerate([(44100, 0.4, 0.9), (11127, 1.3, 0.01), (8000, 9.0, 0.3)]):
        path = tmp_path / f"{number}.wav"
        soundfile.write(str(path), gain * stream(number, "clip").uniform(-1, 1, round(rate * seconds)), rate)
        made = clips.clip(sounds.Recording(path, "a dog", "animal"), clips.Alteration("slower", 0.9))
        assert made.shape == (48000,)
        assert float(np.sqrt(np.mean(made**2))) == pytest.approx(clips.LOUDNESS, rel=0.05)


def test_a_clip_keeps_the_pitch_at_its_speed(tmp_path: Path) -> None:
    path = tmp_path / "tone.wav"
    soundfile.write(str(path), 0.5 * np.sin(2 * np.pi * 1000 * np.arange(22050) / 22050), 22050)
    for speed in (1.0, 0.92, 1.08):
        made = clips.clip(sounds.Recording(path, "a tone", "thing"), clips.Alteration("x", speed))
        assert np.abs(np.fft.rfft(made)).argmax() / clips.SECONDS == pytest.approx(1000 * speed, abs=3)
