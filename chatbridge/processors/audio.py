"""Audio: a file, or the audio track of a video -> log-mel clips float[clips, frames, mel], as BEATs expects them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from chatbridge.common.errors import MediaError
from chatbridge.processors.audio_file import ResampledAudio, examine_audio, open_audio
from chatbridge.processors.audio_reader import Channels
from chatbridge.processors.media_processor import MediaProcessor, ready_item
from chatbridge.processors.media_source import Ref, name_of, reasons
from chatbridge.processors.piece_choice import sample_frames

WINDOW_MS, SHIFT_MS = 25, 10
PCM_SCALE = 2**15  # Kaldi counts samples as 16-bit numbers


class AudioProcessor(MediaProcessor):
    """Kaldi log-mel features in clips of `target_frames` (10 ms each), normalised as BEATs was trained.

    rate_hz        files of other rates are resampled
    mel_bins       128 for BEATs. The released ChatBridge was trained with 64, the value of another encoder; use 64 only
                   for its own weights
    target_frames  of one clip; 1024 are 10.24 s
    num_clips      clips per item: the audio is divided into slices, and one of each of `num_clips` groups is taken
    channels       "mean" of all channels, or the "first" alone, which the released ChatBridge was trained on
    mean, std      features become (x - mean) / (2 * std); the frames after the end of the audio are filled with 0.0
                   after that, which is not silence (digital silence is about -2.4)

    A slice is never padding alone: the reference appended an empty slice to audio that filled its slices exactly or had
    fewer slices than clips, and could train on it. Here such audio repeats its last slice. Missing files are an error
    (the reference replaced them by silence). Only the wanted slices are read and resampled, so an hour of audio costs
    what a minute costs.
    Source: microsoft/unilm, BEATs; joez17/ChatBridge, AudioMapper; goldens kaldi_fbank, audio_mapper, audio_slicing.
    """

    counted = "num_clips"

    def __init__(
        self,
        rate_hz: int = 16000,
        mel_bins: int = 128,
        target_frames: int = 1024,
        num_clips: int = 1,
        mean: float = 15.41663,
        std: float = 6.55582,
        channels: Channels = "mean",
    ):
        self.channels: Channels = channels
        self.rate_hz = rate_hz
        self.mel_bins = mel_bins
        self.target_frames = target_frames
        self.num_clips = num_clips
        self.mean = mean
        self.std = std
        self._window = rate_hz * WINDOW_MS // 1000  # samples
        self._shift = rate_hz * SHIFT_MS // 1000  # samples

    @property
    def item_shape(self) -> tuple[int, ...]:
        return self.num_clips, self.target_frames, self.mel_bins

    def __call__(self, ref: Ref, rng: np.random.Generator | None = None) -> Tensor:
        """float[num_clips, target_frames, mel_bins]

        A tensor is a waveform at rate_hz in -1..1, float[samples] or float[channels, samples], or ready clips.
        raises   MediaError when the audio cannot be read or is shorter than one window (25 ms)
        """
        ready = (self.num_clips, self.target_frames, self.mel_bins)
        if isinstance(ref, Tensor) and ref.ndim == 3:
            if tuple(ref.shape) != ready:
                raise MediaError(f"{name_of(ref)}: ready clips are float{list(ready)}, a waveform has at most two axes")
            return ready_item(ref)
        with reasons(ref, "audio"):
            self.check_file(ref)
            with open_audio(ref, self.rate_hz, self.limits, self.channels) as audio:
                return torch.stack(self._clips(audio, rng))

    def examine(self, ref: Ref) -> None:
        super().examine(ref)
        examine_audio(self, ref)

    def num_frames(self, num_samples: int) -> int:
        """Feature frames of a waveform; only whole windows count.

        raises   MediaError for less than one window
        """
        if num_samples < self._window:
            lasts_ms = 1000 * num_samples / self.rate_hz
            raise MediaError(f"the audio lasts {lasts_ms:.1f} ms, at least {WINDOW_MS} ms are needed")
        return 1 + (num_samples - self._window) // self._shift

    def waveform(self, ref: Ref) -> Tensor:
        """float[samples] at rate_hz in -1..1, one channel, up to the longest that the limits allow."""
        self.check_file(ref)
        with open_audio(ref, self.rate_hz, self.limits, self.channels) as audio:
            return audio.read_all()

    def features(self, wave: Tensor) -> Tensor:
        """float[samples] -> normalised log mel float[frames, mel_bins]"""
        mel = kaldi_module().fbank(
            wave[None] * PCM_SCALE,
            num_mel_bins=self.mel_bins,
            sample_frequency=self.rate_hz,
            frame_length=WINDOW_MS,
            frame_shift=SHIFT_MS,
        )
        return (mel - self.mean) / (2 * self.std)

    def _clips(self, audio: ResampledAudio, rng: np.random.Generator | None) -> list[Tensor]:
        return audio.pieces(lambda: self._slices(len(audio), rng), self._padded)

    def _slices(self, num_samples: int, rng: np.random.Generator | None) -> list[tuple[int, int]]:
        """First sample and end of the wanted slices. Feature frames are independent of each other."""
        num_slices = -(-self.num_frames(num_samples) // self.target_frames)
        starts = [
            index * self.target_frames * self._shift
            for index in sample_frames(num_slices, self.num_clips, self.piece_rng(rng))
        ]
        return [(start, start + (self.target_frames - 1) * self._shift + self._window) for start in starts]

    def _padded(self, wave: Tensor) -> Tensor:
        """float[samples] of one slice -> float[target_frames, mel_bins]"""
        x = self.features(wave)
        if not torch.isfinite(x).all():
            raise MediaError(f"its samples reach {float(wave.abs().max()):.1e}, expected -1..1")
        return torch.nn.functional.pad(x, (0, 0, 0, self.target_frames - len(x)))


def kaldi_module() -> Any:
    """torchaudio's module, its constant restored. The constant is a tensor, which is empty when the module was first
    imported while a model was built on the meta device: transformers imports it to look up an architecture."""
    from torchaudio.compliance import kaldi

    if kaldi.EPSILON.is_meta:
        kaldi.EPSILON = torch.tensor(torch.finfo(torch.float).eps)
    return kaldi
