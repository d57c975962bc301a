"""Log-mel features by an independent formula and the goldens; slices; containers; broken files."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch

from chatbridge.common.errors import MediaError
from chatbridge.processors.audio import AudioProcessor
from chatbridge.processors.audio_file import open_reader
from chatbridge.processors.hf_audio import ExtractorAudioProcessor
from chatbridge.processors.limits import Limits
from chatbridge.processors.media_source import NoAudio
from tests.helpers.media_files import chirp, image_bytes, second_of, tone, write_audio, write_video
from tests.helpers.tolerances import LOG_MEL


def kaldi_log_mel(wave: np.ndarray, num_mel: int) -> np.ndarray:
    """float64[frames, mel] from the description: DC off, preemphasis, Povey window, power, HTK mel triangles, log."""
    frames = np.stack([wave[i : i + 400] for i in range(0, len(wave) - 399, 160)]) * 2.0**15
    frames = frames - frames.mean(1, keepdims=True)
    frames = frames - 0.97 * np.concatenate([frames[:, :1], frames[:, :-1]], 1)
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 399)) ** 0.85
    power = np.abs(np.fft.rfft(frames * window, 512)) ** 2
    mel = 1127 * np.log(1 + np.arange(257) * 16000 / 512 / 700)
    edges = np.linspace(1127 * np.log(1 + 20 / 700), 1127 * np.log(1 + 8000 / 700), num_mel + 2)
    up = (mel[None] - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    down = (edges[2:, None] - mel[None]) / (edges[2:] - edges[1:-1])[:, None]
    weights = np.maximum(0, np.minimum(up, down))
    weights[:, 256] = 0  # Kaldi leaves the Nyquist bin out
    return np.log(np.maximum(power @ weights.T, np.finfo(np.float32).eps))


def noisy_tone(seconds: float, seed: int = 0) -> np.ndarray:
    return tone(seconds) + 0.05 * np.random.default_rng(seed).standard_normal(round(seconds * 16000))


@pytest.mark.parametrize("num_mel", [64, 128])
def test_features_by_formula(num_mel: int):
    """Fails when the window, preemphasis, mel scale, scaling by 2^15 or the normalisation differs."""
    wave = noisy_tone(0.6)
    want = (kaldi_log_mel(wave, num_mel) - 15.41663) / (2 * 6.55582)
    got = AudioProcessor(mel_bins=num_mel).features(torch.from_numpy(wave).float())
    torch.testing.assert_close(got, torch.from_numpy(want).float(), atol=LOG_MEL, rtol=0)


def test_padding_is_zero_and_not_silence():
    """Fails when padding is added before normalising, or silence reads like padding."""
    clip = AudioProcessor(mel_bins=64, target_frames=100)(torch.zeros(8000))
    assert clip.shape == (1, 100, 64)
    assert torch.allclose(clip[0, :48], torch.tensor(-2.3917), atol=1e-3)
    assert (clip[0, 48:] == 0).all()


def test_frames_count_whole_windows():
    """Fails when the number of frames is off by one, or audio shorter than one window passes."""
    processor = AudioProcessor()
    assert [processor.num_frames(n) for n in (400, 559, 560, 160000)] == [1, 1, 2, 998]
    for wave, length in ((torch.zeros(399), "24.9 ms"), (torch.zeros(0), "is empty")):
        with pytest.raises(MediaError, match=length):
            processor(wave)


def test_slices_contain_audio():
    """Fails when an audio file that fills its slices gets an empty one, or a short one gets clips of padding."""
    wave = torch.from_numpy(noisy_tone(1.0)).float()[: 400 + 63 * 160]  # 64 frames
    processor = AudioProcessor(mel_bins=64, target_frames=32, num_clips=3)
    whole = processor.features(wave)
    torch.testing.assert_close(processor(wave), torch.stack([whole[:32], whole[32:], whole[32:]]), atol=LOG_MEL, rtol=0)
    one = AudioProcessor(mel_bins=64, target_frames=64, num_clips=2)(wave)
    assert torch.equal(one[0], one[1])
    rng, single = np.random.default_rng(0), AudioProcessor(mel_bins=64, target_frames=32)
    slices = torch.stack([whole[:32], whole[32:]])
    drawn = torch.cat([single(wave, rng) for _ in range(30)])  # [30, 32, 64]
    gaps = (drawn[:, None] - slices).abs().amax((2, 3))  # of each draw from each slice
    assert float(gaps.amin(1).max()) < LOG_MEL and set(gaps.argmin(1).tolist()) == {0, 1}


def test_a_clip_is_a_window_of_the_whole():
    """Fails when slices computed alone differ from slices of the whole audio, at their borders most of all."""
    wave = torch.from_numpy(noisy_tone(2.0)).float()
    processor = AudioProcessor(mel_bins=64, target_frames=50, num_clips=4)
    whole = torch.nn.functional.pad(processor.features(wave), (0, 0, 0, 2)).unflatten(0, (4, 50))
    torch.testing.assert_close(processor(wave), whole, atol=LOG_MEL, rtol=0)


def read_sound(ref: str | Path | bytes) -> tuple[np.ndarray, int]:
    """float32[samples] of the first channel, and their rate in Hz."""
    with closing(open_reader(ref)) as source:
        return source.read(0, source.num_samples), source.rate_hz


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
def test_audio_files_as_paths_and_bytes(suffix: str, tmp_path: Path):
    """Fails when a format cannot be read, in a file or in memory, or a channel is left out of the mix."""
    stereo = np.stack([tone(1.0, 440), tone(1.0, 3000)], 1)
    path = write_audio(tmp_path / f"a.{suffix}", stereo)
    samples, rate_hz = read_sound(path)
    spectrum = np.abs(np.fft.rfft(samples[:16000]))
    assert (rate_hz, samples.dtype) == (16000, np.float32)
    assert min(abs(int(spectrum.argmax()) - hz) for hz in (440, 3000)) <= 2
    assert spectrum[2990:3010].max() > 0.8 * spectrum.max()
    np.testing.assert_array_equal(read_sound(path.read_bytes())[0], samples)


def test_the_audio_of_a_video(tmp_path: Path):
    """Fails when an mp4's audio track cannot be read, or a silent video is read as silence."""
    path = write_video(tmp_path / "a.mp4", tone_hz=440)
    samples, rate_hz = read_sound(path)
    spectrum = np.abs(np.fft.rfft(samples))
    assert rate_hz == 16000
    assert abs(spectrum.argmax() * rate_hz / len(samples) - 440) < 3
    with pytest.raises(MediaError, match=r"silent\.mp4: it has no audio track"):
        AudioProcessor()(write_video(tmp_path / "silent.mp4"))


def test_resampled_files_keep_pitch_and_length(tmp_path: Path):
    """Fails when a file of another rate is read as if it had ours."""
    wave = AudioProcessor().waveform(write_audio(tmp_path / "a.wav", tone(1.0, 440, 44100), 44100))
    assert len(wave) == 16000
    assert int(torch.fft.rfft(wave).abs().argmax()) == 440


def test_broken_audio_has_a_reason(tmp_path: Path):
    """Fails when a broken file ends in another error, in silence, or in an error without its path and a reason."""
    whole = write_audio(tmp_path / "whole.wav", tone(0.5)).read_bytes()
    write_audio(tmp_path / "nothing.wav", np.zeros(0))
    write_audio(tmp_path / "short.wav", tone(0.02))
    write_audio(tmp_path / "nan.wav", np.full(8000, np.nan), subtype="FLOAT")
    (tmp_path / "text.wav").write_bytes(b"hello" * 100)
    (tmp_path / "head.wav").write_bytes(whole[:20])
    (tmp_path / "empty.wav").write_bytes(b"")
    reasons = {
        "nothing.wav": "the audio is empty",
        "short.wav": "lasts 20.0 ms, at least 25 ms",
        "nan.wav": "not numbers",
        "text.wav": "not readable audio",
        "head.wav": "not readable audio",
        "empty.wav": "file is empty",
        "none.wav": "no such file",
    }
    for name, reason in reasons.items():
        with pytest.raises(MediaError, match=rf"{name}: .*{reason}"):
            AudioProcessor()(tmp_path / name)


def test_ready_clips_and_waveforms():
    """Fails when a ready tensor is touched, a waveform with channels is not mixed, or a wrong shape passes."""
    processor = AudioProcessor(mel_bins=64, target_frames=32)
    wave = torch.from_numpy(noisy_tone(0.3)).float()
    clip = processor(wave)
    assert torch.equal(processor(torch.stack([2 * wave, torch.zeros_like(wave)])), clip)
    assert torch.equal(processor(clip), clip)
    with pytest.raises(MediaError, match=r"ready clips are float\[1, 32, 64\]"):
        processor(torch.zeros(2, 32, 64))


def test_audio_is_read_after_a_model_was_built_without_memory(monkeypatch):
    """fails when torchaudio, first imported under the meta device, leaves the processor without its constant"""
    from torchaudio.compliance import kaldi

    wave = torch.from_numpy(tone(0.5)).float()
    expected = AudioProcessor(mel_bins=32, target_frames=32)(wave)
    monkeypatch.setattr(kaldi, "EPSILON", kaldi.EPSILON.to("meta"))
    assert torch.equal(AudioProcessor(mel_bins=32, target_frames=32)(wave), expected)


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
def test_all_depths_mean_the_same(subtype: str, tmp_path: Path):
    """fails when 8, 24 or 32 bit or floating point samples are scaled differently"""
    path = write_audio(tmp_path / "a.wav", np.stack([tone(0.1), tone(0.1)], 1), subtype=subtype)
    step = 1 / 128 if subtype == "PCM_U8" else 1e-4
    torch.testing.assert_close(AudioProcessor().waveform(path), torch.from_numpy(tone(0.1)).float(), atol=step, rtol=0)


def test_limits_of_audio(tmp_path: Path):
    """fails when an audio file above a limit is used, a cut one is read after the cut, or the message names no limit"""
    path = write_audio(tmp_path / "a.wav", chirp(6, 16000))
    processor = AudioProcessor(mel_bins=32, target_frames=99, num_clips=6)
    cut = processor.within(Limits(max_seconds=2))
    assert processor.limits == Limits() and cut(path).shape == (6, 99, 32)
    assert torch.equal(cut(path), processor(write_audio(tmp_path / "b.wav", chirp(2, 16000))))
    with pytest.raises(MediaError, match=r"a.wav: the audio lasts 6 s, 2 s are allowed \(data.media.max_seconds\)"):
        processor.within(Limits(max_seconds=2, too_long="refuse"))(path)
    with pytest.raises(MediaError, match=r"the file has 0.2 MB, 0.1 MB are allowed \(data.media.max_file_mb\)"):
        processor.within(Limits(max_file_mb=0.1))(path.read_bytes())
    assert processor.taking(2)(path).shape == (2, 99, 32) and processor.num_clips == 6 == processor.count


def test_odd_audio(tmp_path: Path):
    """fails when the contents do not count but the name, what is there of a cut file is not used, a video without audio
    or an empty audio cannot be told from a broken file, or absurd samples become absurd features"""
    processor = AudioProcessor(mel_bins=32, target_frames=50, num_clips=2)
    good = write_audio(tmp_path / "good.mp3", chirp(4, 16000))
    (tmp_path / "wrong.wav").write_bytes(good.read_bytes())
    torch.testing.assert_close(processor(tmp_path / "wrong.wav"), processor(good))
    (tmp_path / "cut.mp3").write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    assert second_of(AudioProcessor().waveform(tmp_path / "cut.mp3")[16100:31900]) == pytest.approx(1, abs=0.2)
    for silent in (write_video(tmp_path / "film.mp4"), write_audio(tmp_path / "nothing.wav", np.zeros(0))):
        with pytest.raises(NoAudio, match=silent.name):
            processor(silent)
    (tmp_path / "image.wav").write_bytes(image_bytes())
    with pytest.raises(
        MediaError, match=r"image.wav: not readable audio \(it looks like a PNG image; accepted: .*\)"
    ) as caught:
        processor(tmp_path / "image.wav")
    assert not isinstance(caught.value, NoAudio)
    with pytest.raises(MediaError, match=r"samples reach 5.0e\+29"):
        processor(write_audio(tmp_path / "huge.wav", np.full(16000, 1e30) * tone(1), subtype="DOUBLE"))
    with pytest.raises(MediaError, match="lasts 0.1 ms, at least 25 ms"):
        processor(write_audio(tmp_path / "one.wav", np.zeros(1)))


class Raw:
    """A feature extractor for raw waveforms."""

    sampling_rate, model_input_names = 16000, ["input_values"]

    def __call__(self, wave: np.ndarray, sampling_rate: int, return_tensors: str) -> dict[str, np.ndarray]:
        return {"input_values": wave[None]}


def test_extractors_get_the_same_slices(tmp_path: Path):
    """fails when the slices of a feature extractor are not those of the audio, or limits and counts pass it by"""
    path = write_audio(tmp_path / "a.wav", chirp(5.5, 44100), 44100)
    processor = ExtractorAudioProcessor(Raw(), num_clips=3, clip_seconds=2.0)
    clips = processor(path)
    assert clips.shape == (3, 32000) and (clips[2, 24000:] == 0).all()
    for number, clip in enumerate(clips):
        assert second_of(clip[:16000]) == pytest.approx(2 * number, abs=0.1)
        assert second_of(clip[16000:]) == pytest.approx(2 * number + 1, abs=0.1)
    one = processor.taking(1).within(Limits(max_seconds=2))(path)
    torch.testing.assert_close(one[:, :-20], clips[:1, :-20], atol=1e-5, rtol=0)  # the filter sees the cut at the end
    with pytest.raises(MediaError, match="lasts 0.1 ms, at least 25 are needed"):
        processor(write_audio(tmp_path / "one.wav", np.zeros(1)))
