"""Log-mel features by an independent formula and the goldens; slices; containers; broken files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from media_files import tone, write_sound, write_video

from chatbridge.common.errors import MediaError
from chatbridge.processors.audio import AudioProcessor, read_sound


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
    torch.testing.assert_close(got, torch.from_numpy(want).float(), atol=2e-3, rtol=0)


def test_padding_is_zero_and_not_silence():
    """Fails when padding is added before normalising, or silence reads like padding."""
    clip = AudioProcessor(mel_bins=64, target_frames=100)(torch.zeros(8000))
    assert clip.shape == (1, 100, 64)
    assert torch.allclose(clip[0, :48], torch.tensor(-2.3917), atol=1e-3)
    assert (clip[0, 48:] == 0).all()


def test_frames_count_whole_windows():
    """Fails when the number of frames is off by one, or a sound below one window passes."""
    processor = AudioProcessor()
    assert [processor.num_frames(n) for n in (400, 559, 560, 160000)] == [1, 1, 2, 998]
    for wave, length in ((torch.zeros(399), "24.9 ms"), (torch.zeros(0), "no time")):
        with pytest.raises(MediaError, match=length):
            processor(wave)


def test_slices_hold_sound():
    """Fails when a sound that fills its slices gets an empty one, or a short one gets clips of padding."""
    wave = torch.from_numpy(noisy_tone(1.0)).float()[: 400 + 63 * 160]  # 64 frames
    processor = AudioProcessor(mel_bins=64, target_frames=32, num_clips=3)
    whole = processor.features(wave)
    torch.testing.assert_close(processor(wave), torch.stack([whole[:32], whole[32:], whole[32:]]), atol=1e-4, rtol=0)
    one = AudioProcessor(mel_bins=64, target_frames=64, num_clips=2)(wave)
    assert torch.equal(one[0], one[1])
    rng, single = np.random.default_rng(0), AudioProcessor(mel_bins=64, target_frames=32)
    seen = {round(float(single(wave, rng).sum()), 2) for _ in range(30)}
    assert seen == {round(float(part.sum()), 2) for part in single_clips(single, wave)}


def single_clips(processor: AudioProcessor, wave: torch.Tensor) -> list[torch.Tensor]:
    return [processor._clip(wave, 0), processor._clip(wave, 32)]


def test_a_clip_is_a_window_of_the_whole():
    """Fails when slices computed alone differ from slices of the whole sound, at their borders most of all."""
    wave = torch.from_numpy(noisy_tone(2.0)).float()
    processor = AudioProcessor(mel_bins=64, target_frames=50, num_clips=4)
    whole = torch.nn.functional.pad(processor.features(wave), (0, 0, 0, 2)).unflatten(0, (4, 50))
    torch.testing.assert_close(processor(wave), whole, atol=1e-4, rtol=0)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
def test_sound_files_as_paths_and_bytes(suffix: str, tmp_path: Path):
    """Fails when a format cannot be read, in a file or in memory, or the second channel is mixed in."""
    stereo = np.stack([tone(1.0, 440), tone(1.0, 3000)], 1)
    path = write_sound(tmp_path / f"a.{suffix}", stereo)
    samples, rate_hz = read_sound(path)
    spectrum = np.abs(np.fft.rfft(samples[:16000]))
    assert (rate_hz, samples.dtype) == (16000, np.float32)
    assert abs(int(spectrum.argmax()) - 440) <= 2
    assert spectrum[2990:3010].max() < 0.05 * spectrum.max()
    np.testing.assert_array_equal(read_sound(path.read_bytes())[0], samples)


def test_the_sound_of_a_video(tmp_path: Path):
    """Fails when an mp4's sound track cannot be read, or a silent film is taken for silence."""
    path = write_video(tmp_path / "a.mp4", tone_hz=440)
    samples, rate_hz = read_sound(path)
    spectrum = np.abs(np.fft.rfft(samples))
    assert rate_hz == 16000
    assert abs(spectrum.argmax() * rate_hz / len(samples) - 440) < 3
    with pytest.raises(MediaError, match=r"silent\.mp4: it has no sound track"):
        AudioProcessor()(write_video(tmp_path / "silent.mp4"))


def test_resampled_files_keep_pitch_and_length(tmp_path: Path):
    """Fails when a file of another rate is read as if it had ours."""
    wave = AudioProcessor().waveform(write_sound(tmp_path / "a.wav", tone(1.0, 440, 44100), 44100))
    assert len(wave) == 16000
    assert int(torch.fft.rfft(wave).abs().argmax()) == 440


def test_broken_sounds_say_why(tmp_path: Path):
    """Fails when a broken sound ends in another error, in silence, or in an error without its path and a reason."""
    whole = write_sound(tmp_path / "whole.wav", tone(0.5)).read_bytes()
    write_sound(tmp_path / "nothing.wav", np.zeros(0))
    write_sound(tmp_path / "short.wav", tone(0.02))
    write_sound(tmp_path / "nan.wav", np.full(8000, np.nan), subtype="FLOAT")
    (tmp_path / "text.wav").write_bytes(b"hello" * 100)
    (tmp_path / "head.wav").write_bytes(whole[:20])
    (tmp_path / "empty.wav").write_bytes(b"")
    reasons = {
        "nothing.wav": "no time at all",
        "short.wav": "lasts 20.0 ms, at least 25 ms",
        "nan.wav": "not numbers",
        "text.wav": "not a readable sound",
        "head.wav": "not a readable sound",
        "empty.wav": "file is empty",
        "none.wav": "no such file",
    }
    for name, reason in reasons.items():
        with pytest.raises(MediaError, match=rf"{name}: .*{reason}"):
            AudioProcessor()(tmp_path / name)


def test_ready_clips_and_waveforms():
    """Fails when a ready tensor is touched, a waveform with channels mixes them, or a wrong shape passes."""
    processor = AudioProcessor(mel_bins=64, target_frames=32)
    wave = torch.from_numpy(noisy_tone(0.3)).float()
    clip = processor(wave)
    assert torch.equal(processor(torch.stack([wave, torch.zeros_like(wave)])), clip)
    assert torch.equal(processor(clip), clip)
    with pytest.raises(MediaError, match=r"ready clips are float\[1, 32, 64\]"):
        processor(torch.zeros(2, 32, 64))


def test_sounds_are_read_after_a_model_was_built_without_memory(monkeypatch):
    """fails when torchaudio, first imported under the meta device, leaves the processor without its constant"""
    from torchaudio.compliance import kaldi

    wave = torch.from_numpy(tone(0.5)).float()
    expected = AudioProcessor(mel_bins=32, target_frames=32)(wave)
    monkeypatch.setattr(kaldi, "EPSILON", kaldi.EPSILON.to("meta"))
    assert torch.equal(AudioProcessor(mel_bins=32, target_frames=32)(wave), expected)
