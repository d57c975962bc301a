"""Slices of audio: resampled, overlapping, and found in long files, as in the whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import torchaudio.transforms

from chatbridge.processors.audio import AudioProcessor
from chatbridge.processors.audio_file import ResampledAudio, open_audio, open_reader
from chatbridge.processors.audio_pyav import AudioTrackReader
from chatbridge.processors.audio_reader import WaveformReader
from tests.helpers.media_files import chirp, second_of, write_audio
from tests.helpers.tolerances import LOG_MEL


@pytest.mark.parametrize("rate_hz", [8000, 11025, 22050, 44100, 48000, 192000, 44101])
def test_a_slice_is_resampled_as_the_whole_is(rate_hz: int):
    """fails when a slice that is resampled alone differs from the whole audio by more than float32 rounding (1e-5),
    at its ends most of all, or when a rate needs a filter that does not fit into memory"""
    wave = torch.from_numpy(np.random.default_rng(0).standard_normal(rate_hz)).float() * 0.2
    sound = ResampledAudio(WaveformReader(wave, rate_hz), 16000)
    whole = sound.read_all()
    assert abs(len(whole) - 16000) <= 1
    for start, stop in ((0, 50), (1, 700), (5003, 9011), (15000, 16000), (15990, 17000)):
        torch.testing.assert_close(sound.read(start, stop), whole[start:stop], atol=1e-5, rtol=0)
    if rate_hz % 1000 == 0 or rate_hz % 25 == 0:
        direct = torchaudio.transforms.Resample(rate_hz, 16000)(wave)
        torch.testing.assert_close(whole, direct, atol=1e-5, rtol=0)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
def test_only_the_wanted_slices_of_long_audio_are_read(suffix: str, tmp_path: Path, monkeypatch):
    """fails when a long file is read as a whole, or a slice comes from another position than it should"""
    path = tmp_path / f"long.{suffix}"
    wave = chirp(130, 8000)
    with soundfile.SoundFile(str(path), "w", 8000, 1) as out:  # one long write of ogg crashes libsndfile
        for start in range(0, len(wave), 8000):
            out.write(wave[start : start + 8000])
    decoded = []
    read = soundfile.SoundFile.read
    monkeypatch.setattr(soundfile.SoundFile, "read", lambda self, n, **o: decoded.append(n) or read(self, n, **o))
    processor = AudioProcessor(mel_bins=32, target_frames=99, num_clips=2)
    clips = processor(path)
    assert sum(decoded) < 6 * 8000
    with open_audio(path, 16000) as sound:
        for clip, (start, stop) in zip(clips, processor._slices(len(sound), None), strict=True):
            middle = second_of(sound.read(start + 2000, stop - 2000))
            assert middle == pytest.approx((start + 8000) / 16000, abs=1.0) and start > 16000
            again = processor.features(sound.read(start, stop))
            torch.testing.assert_close(again, clip, atol=LOG_MEL, rtol=0)


@pytest.mark.parametrize("suffix", ["flac", "ogg", "mp3"])
def test_slices_that_overlap_are_those_of_the_whole(suffix: str, tmp_path: Path):
    """fails when a slice depends on what was read before it: slices overlap by 15 ms, and by the resampling filter"""
    wave = np.random.default_rng(0).standard_normal(44100 * 2).cumsum() * 1e-3 % 1 - 0.5
    path = write_audio(tmp_path / f"a.{suffix}", wave, 44100)
    source = open_reader(path)
    whole = source.read(0, source.num_samples)
    for back in (240, 700, 1500, 2500, 5000):
        for stop in range(20000, 40000, 2777):
            source.read(stop - 10000, stop)
            again = source.read(stop - back, stop + 4000)
            np.testing.assert_allclose(again, whole[stop - back : stop + 4000], atol=1e-5, err_msg=f"{back} {stop}")


@pytest.mark.parametrize("suffix, codec", [("m4a", "aac"), ("mkv", "mp2"), ("mpg", "mp2")])
def test_long_audio_tracks_are_found_by_their_time_stamps(suffix: str, codec: str, tmp_path: Path, monkeypatch):
    """fails when a slice of a long track is taken from another position than decoding from its start gives, or half a
    packet after a seek is an error"""
    path = write_track(tmp_path / f"long.{suffix}", chirp(100, 16000), 16000, codec)
    with open_audio(path, 8000) as sound:
        assert abs(len(sound) - 800_000) < 3000
        ends = sound.read(79_000, 80_000), sound.read(600_100, 604_100)
        monkeypatch.setattr("chatbridge.processors.audio_pyav.WHOLE_SECONDS", 1000.0)
        with open_audio(path, 8000) as whole:
            for stretch, start in zip(ends, (79_000, 600_100), strict=True):
                if suffix != "mkv":  # which counts time in milliseconds, eight samples
                    torch.testing.assert_close(stretch, whole.read(start, start + len(stretch)), atol=0.05, rtol=0)
    assert second_of(ends[0], 8000) == pytest.approx(9, abs=0.5)
    assert second_of(ends[1], 8000) == pytest.approx(75, abs=0.1)


def test_a_position_in_ogg_is_where_decoding_from_the_start_has_it(tmp_path: Path, monkeypatch):
    """fails when a track that only FFmpeg reads is sought in Ogg, where time stamps after a seek are off by packets"""
    path = write_track(tmp_path / "a.ogg", np.random.default_rng(0).uniform(-1, 1, 44100 * 8), 44100, "flac")
    whole = AudioTrackReader(path)
    monkeypatch.setattr("chatbridge.processors.audio_pyav.WHOLE_SECONDS", 1.0)
    for start in (85_000, 185_000, 245_000, 325_000):
        np.testing.assert_array_equal(AudioTrackReader(path).read(start, start + 800), whole.read(start, start + 800))


@pytest.mark.parametrize("suffix, codec, late_s", [("mkv", "aac", 1.5), ("webm", "libopus", 0), ("flv", "aac", 0)])
def test_a_position_in_a_video_counts_from_its_first_sample(
    suffix: str, codec: str, late_s: float, tmp_path: Path, monkeypatch
):
    """fails when a track that begins later than its video cannot be sought before it begins, or a packet that only
    primes the decoder counts as audio"""
    rate = 48_000 if codec == "libopus" else 44_100
    slow_noise = np.random.default_rng(0).standard_normal(rate * 3).cumsum() * 3e-2
    path = write_film(tmp_path / f"late.{suffix}", np.sin(slow_noise) * 0.5, rate, codec, late_s)
    whole = AudioTrackReader(path)
    monkeypatch.setattr("chatbridge.processors.audio_pyav.WHOLE_SECONDS", 1.0)
    expected = whole.read(0, whole.num_samples)
    for start in (0, int(1.2 * rate), int(2.7 * rate)):
        found = AudioTrackReader(path).read(start, start + 4000)
        most = rate // 1000 + 1  # these containers count time in milliseconds
        gaps = [np.abs(found[most:-most] - expected[at + most : at + 4000 - most]).mean()
                for at in range(max(0, start - most), start + most)]  # fmt: skip
        assert min(gaps) < 0.03, (start, min(gaps))


def write_film(path: Path, wave: np.ndarray, rate_hz: int, codec: str, late_s: float) -> Path:
    """A video whose audio follows its frames in the file, so the head of the file does not show when it begins."""
    import av

    with av.open(str(path), "w", options={"max_interleave_delta": "1"}) as container:
        image: Any = container.add_stream("libvpx" if path.suffix == ".webm" else "libx264", rate=1)
        image.width, image.height, image.pix_fmt = 16, 16, "yuv420p"
        track = container.add_stream(codec, rate=rate_hz, layout="mono")
        for _ in range(30):
            container.mux(image.encode(av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8))))
        container.mux(image.encode())
        as_codec_wants = av.AudioResampler(format=track.codec_context.codec.audio_formats[0].name, layout="mono")
        for start in range(0, len(wave), 960):
            samples = wave[start : start + 960][None].astype(np.float32)
            frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
            frame.sample_rate, frame.pts = rate_hz, start + int(late_s * rate_hz)
            for ready in as_codec_wants.resample(frame):
                container.mux(track.encode(ready))
        container.mux(track.encode())
    return path


def write_track(path: Path, wave: np.ndarray, rate_hz: int, codec: str) -> Path:
    import av

    with av.open(str(path), "w", format="mp4" if path.suffix == ".m4a" else None) as container:
        track = container.add_stream(codec, rate=rate_hz, layout="mono")
        size, kind = track.codec_context.frame_size or 1152, "fltp" if codec == "aac" else "s16"
        for start in range(0, len(wave), size):
            samples = wave[start : start + size][None].astype(np.float32)
            samples = samples if kind == "fltp" else (samples * 2**15).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(samples, format=kind, layout="mono")
            frame.sample_rate, frame.pts = rate_hz, start
            container.mux(track.encode(frame))
        container.mux(track.encode())
    return path
