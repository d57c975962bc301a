"""Clips and log-mel features of ImageBind's audio."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import torchaudio

from chatbridge.common.errors import MediaError
from chatbridge.processors.imagebind_audio import ClipRule, ImageBindAudioProcessor
from tests.helpers.media_files import tone, write_audio
from tests.helpers.tiny_media import wav

PADDING = 4.268 / 9.138  # what the trunk sees after the end of a clip


def test_where_clips_begin() -> None:
    """Fails when a rule mixes up its parts, a border is rounded up, or short audio does not begin at 0."""

    def starts(samples: int, rule: ClipRule, count: int = 3) -> list[int]:
        slices = ImageBindAudioProcessor(num_clips=count, clip_rule=rule)._slices(samples)
        assert all(stop - start == min(32000, samples) for start, stop in slices)
        return [start for start, _ in slices]

    assert starts(41764, "imagebind") == [0, 4882, 9764]  # dog_audio.wav
    assert starts(41764, "chatbind") == [0, 3254, 6509]
    assert starts(80000, "imagebind") == [0, 24000, 48000]
    assert starts(80000, "chatbind") == [0, 16000, 32000]
    assert starts(139200, "imagebind") == [0, 53599, 107199]  # 8.7 s - 2 s = 6.699999999999999 s
    assert starts(235088, "chatbind") == [0, 67695, 135391]
    for rule in ("imagebind", "chatbind"):
        assert starts(20000, rule) == [0, 0, 0] and starts(80000, rule, 1) == [0]


def test_features_by_formula() -> None:
    """Fails when the window, preemphasis, mel scale, order of axes, normalisation or place of the padding differs."""
    wave = 0.3 * tone(2.0) + 0.02 * np.random.default_rng(1).standard_normal(32000)
    clip = ImageBindAudioProcessor(num_clips=1)(torch.from_numpy(wave).float())
    assert clip.shape == (1, 1, 128, 204) and clip.is_contiguous()
    frames = np.stack([wave[at : at + 400] for at in range(0, 32000 - 399, 160)])
    frames = frames - frames.mean(1, keepdims=True)
    frames = frames - 0.97 * np.concatenate([frames[:, :1], frames[:, :-1]], 1)
    power = np.abs(np.fft.rfft(frames * np.hanning(400), 512)) ** 2
    mel = 1127 * np.log(1 + np.arange(257) * 16000 / 512 / 700)
    edges = np.linspace(1127 * np.log(1 + 20 / 700), 1127 * np.log(1 + 8000 / 700), 130)
    up = (mel[None] - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    down = (edges[2:, None] - mel[None]) / (edges[2:] - edges[1:-1])[:, None]
    weights = np.maximum(0, np.minimum(up, down))
    weights[:, 256] = 0
    want = (np.log(np.maximum(power @ weights.T, np.finfo(np.float32).eps)) + 4.268) / 9.138  # [198, 128]
    got = clip[0, 0].T.numpy()
    assert np.abs(got[:198] - want).max() < 2e-3
    assert np.abs(got[198:] - PADDING).max() < 1e-6


def test_clips_of_a_file(tmp_path: Path) -> None:
    """Fails when another channel counts, a clip is taken elsewhere, or training draws clips at random."""
    wave = np.stack([2e-4 * tone(5.0), tone(5.0)])
    wave[0, 48000:] = tone(2.0)  # the last clip of "imagebind"; half of the last one of "chatbind"
    path = tmp_path / "two.wav"
    write_audio(path, wave.T)
    clips = ImageBindAudioProcessor()(path, np.random.default_rng(0))
    loud = clips[:, 0, :, :198].amax(1) > 0  # [clips, frames]
    assert loud.float().mean(1).tolist() == [0.0, pytest.approx(0.25, abs=0.01), 1.0]
    other = ImageBindAudioProcessor(clip_rule="chatbind")(path)
    assert (other[2, 0, :, :198].amax(0) > 0).float().mean() == pytest.approx(0.5, abs=0.01)
    assert ImageBindAudioProcessor().draws is None


def test_the_step_of_the_reference(tmp_path: Path) -> None:
    """Fails when clips that overlap lose the reference's step where it is asked for, get it where it is not, or the
    mean is not that of all channels."""
    wave = 0.1 * np.stack([tone(3.0), tone(3.0)]) + np.array([[0.2], [0.4]])  # an offset of 0.3 on average
    write_audio(tmp_path / "offset.wav", wave.T)
    clean = ImageBindAudioProcessor(num_clips=2)(tmp_path / "offset.wav")
    stepped = ImageBindAudioProcessor(num_clips=2, overlap="released")(tmp_path / "offset.wav")
    torch.testing.assert_close(stepped[0], clean[0], atol=2e-3, rtol=0)  # the first clip overlaps none before it
    apart = (stepped[1] - clean[1]).abs().amax((0, 1))  # [frames]; the second clip is shifted up to its middle, 1 s
    assert (apart > 0.05).nonzero().flatten().tolist() == [98, 99]
    mono = ImageBindAudioProcessor(num_clips=2, overlap="released")(torch.from_numpy(wave[0]).float())
    assert 0.05 < float((mono[1] - stepped[1]).abs().max())  # a step of 0.2 instead of 0.3


def test_every_bit_of_the_reference(tmp_path: Path) -> None:
    """Fails when the released rule for overlaps rounds otherwise: the mean is that of all channels, resampled, at once;
    or when a silent first channel passes."""
    noise = np.random.default_rng(0).standard_normal((2, 60007))
    wave = (0.5 * tone(60007 / 24000, rate_hz=24000) + 0.02 * noise + [[0.1], [0.0]]).astype(np.float32)
    write_audio(tmp_path / "two.wav", wave.T, 24000)
    stored = torch.from_numpy(soundfile.read(tmp_path / "two.wav", dtype="float32")[0].T.copy())
    samples = torchaudio.functional.resample(stored, 24000, 16000)  # [2, 40005]
    processor = ImageBindAudioProcessor(overlap="released")
    clips = processor(tmp_path / "two.wav")
    for clip, (start, stop) in zip(clips, processor._slices(samples.shape[1]), strict=True):
        samples[:, start:stop] -= samples[:, start:stop].mean()
        assert torch.equal(clip, processor.features(samples[0, start:stop]))
    with pytest.raises(MediaError, match="first channel is silent"):
        processor(torch.from_numpy(wave) * torch.tensor([[0.0], [1.0]]))


def test_short_audio_is_padded_and_bad_audio_refused(tmp_path: Path) -> None:
    """Fails when one second gives other than 98 frames thrice, or what is no audio for this trunk passes."""
    processor = ImageBindAudioProcessor()
    clips = processor(torch.from_numpy(tone(1.0)).float())
    assert torch.equal(clips[0], clips[2]) and clips.shape == (3, 1, 128, 204)
    assert (clips[0, 0, :, 98:] - PADDING).abs().max() < 1e-6 and clips[0, 0, 60, 97] != clips[0, 0, 60, 98]
    assert torch.equal(processor(clips), clips)  # ready clips pass
    for bad, words in [
        (torch.zeros(300), "at least 25 ms"),
        (1e25 * torch.randn(32000), "expected -1..1"),
        (32768 * torch.rand(32000), "divide whole numbers of 16 bits by 32768"),
        (torch.zeros(32000, dtype=torch.int16), "a waveform is floats in -1..1"),
        (torch.full((3, 1, 128, 204), float("nan")), "not numbers"),
        (wav(rate_hz=1, seconds=900), "1 samples per second, at least 16 are needed"),
        (torch.zeros(2, 1, 128, 204), r"ready clips are float\[3, 1, 128, 204\]"),
        (tmp_path / "none.wav", "no such file"),
    ]:
        with pytest.raises(MediaError, match=words):
            processor(bad)
