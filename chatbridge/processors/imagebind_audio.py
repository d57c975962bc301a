"""Audio as ImageBind reads it: clips of two seconds, spread over the file, as log-mel float[clips, 1, mel, frames]."""

from __future__ import annotations

from fractions import Fraction
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from chatbridge.common.errors import MediaError
from chatbridge.processors.audio import SHIFT_MS, WINDOW_MS, kaldi_module
from chatbridge.processors.audio_file import examine_audio, open_audio
from chatbridge.processors.audio_reader import Channels
from chatbridge.processors.media_processor import MediaProcessor, ready_item
from chatbridge.processors.media_source import Ref, name_of, reasons

ClipRule = Literal["imagebind", "chatbind"]
Overlap = Literal["clean", "released"]
CLIP_SECONDS = 2


class ImageBindAudioProcessor(MediaProcessor):
    """Kaldi log-mel features of the first channel, in clips of two seconds, the same in training and evaluation.

    mel_bins       128 in the released weights
    target_frames  of one clip; two seconds give 198, zeros follow. They are put there before the normalisation, so the
                   trunk sees them as -mean / std
    num_clips      clips per item, spread evenly; audio that is shorter than a clip is taken whole, each time
    clip_rule      where clips begin, see clip_times
    mean, std      features become (x - mean) / std
    channels       "first", as released, or the "mean" of all channels
    rate_hz        files of other rates are resampled

    overlap        "clean": every clip holds the samples of the file. "released": as the reference, which subtracts the
                   mean of a clip (over all channels) in place, so that a later clip that overlaps it holds shifted
                   samples up to some point, and a step. The filter bank removes the mean of each frame by itself, so
                   the subtraction has no other effect; on the recorded files the two differ by 0.017 at most, 5e-6 on
                   average, and more only where a recording has a large constant offset

    Source: facebookresearch/ImageBind: imagebind/data.py; goldens imagebind_audio_preproc, chatbind_audio_preproc.
    """

    counted = "num_clips"

    def __init__(
        self,
        mel_bins: int = 128,
        target_frames: int = 204,
        num_clips: int = 3,
        clip_rule: ClipRule = "imagebind",
        mean: float = -4.268,
        std: float = 9.138,
        channels: Channels = "first",
        rate_hz: int = 16000,
        overlap: Overlap = "clean",
    ):
        self.mel_bins = mel_bins
        self.target_frames = target_frames
        self.num_clips = num_clips
        self.clip_rule: ClipRule = clip_rule
        self.mean = mean
        self.std = std
        self.channels: Channels = channels
        self.rate_hz = rate_hz
        self.overlap: Overlap = overlap

    @property
    def item_shape(self) -> tuple[int, ...]:
        return self.num_clips, 1, self.mel_bins, self.target_frames

    @property
    def draws(self) -> str | None:
        """None: its clips are fixed in training too, so that features may be cached."""
        return None

    def __call__(self, ref: Ref, rng: np.random.Generator | None = None) -> Tensor:
        """float[num_clips, 1, mel_bins, target_frames]

        A tensor is a waveform at rate_hz in -1..1, float[samples] or float[channels, samples], or ready clips.
        raises   MediaError when the audio cannot be read or is shorter than one window (25 ms)
        """
        ready = (self.num_clips, 1, self.mel_bins, self.target_frames)
        if isinstance(ref, Tensor) and ref.ndim > 2:
            if tuple(ref.shape) != ready:
                raise MediaError(f"{name_of(ref)}: ready clips are float{list(ready)}, a waveform has at most two axes")
            return ready_item(ref)
        with reasons(ref, "audio"):
            self.check_file(ref)
            if self.overlap == "released":
                return torch.stack([self.features(wave) for wave in self._shifted(ref)])
            with open_audio(ref, self.rate_hz, self.limits, self.channels) as audio:
                return torch.stack(audio.pieces(lambda: self._slices(len(audio)), self.features))

    def examine(self, ref: Ref) -> None:
        super().examine(ref)
        examine_audio(self, ref)

    def _shifted(self, ref: Ref) -> list[Tensor]:
        """The samples of each clip as the reference has them: float[samples] each."""
        wave = self._at_once(ref)
        clips = []
        for start, stop in self._slices(wave.shape[1]):
            part = wave[:, start:stop]
            part -= part.mean()
            clips.append(part[0].clone())
        return clips

    def _at_once(self, ref: Ref) -> Tensor:
        """float[channels, samples] at rate_hz, or the mean of the channels as one, resampled as the reference does: by
        a filter that is computed in fp32."""
        from torchaudio.functional import resample

        with open_audio(ref, self.rate_hz, self.limits, "mean" if self.channels == "mean" else "each") as audio:
            wave = audio.at_source_rate()
            wave = wave[None] if wave.ndim == 1 else wave.T.contiguous()
            return resample(wave, audio.source.rate_hz, self.rate_hz).clone()

    def _whole(self, ref: Ref, channels: Channels) -> Tensor:
        with open_audio(ref, self.rate_hz, self.limits, channels) as audio:
            return audio.read_all()

    def _slices(self, num_samples: int) -> list[tuple[int, int]]:
        """First sample and end of each clip."""
        times = clip_times(num_samples / self.rate_hz, self.num_clips, self.clip_rule)
        return [(int(start * self.rate_hz), min(int(stop * self.rate_hz), num_samples)) for start, stop in times]

    def clip_seconds(self, seconds: float) -> list[tuple[float, float]]:
        """Start and end of the clips of audio that lasts so long."""
        slices = self._slices(round(seconds * self.rate_hz))
        return [(start / self.rate_hz, stop / self.rate_hz) for start, stop in slices]

    def waveform(self, ref: Ref) -> Tensor:
        """float[samples] at rate_hz in -1..1, one channel, up to the longest that the limits allow."""
        self.check_file(ref)
        return self._whole(ref, self.channels)

    def features(self, wave: Tensor) -> Tensor:
        """float[samples] of one clip -> normalised log mel float[1, mel_bins, target_frames]

        raises   MediaError for less than one window, and for samples that are far outside -1..1
        """
        if len(wave) * 1000 < WINDOW_MS * self.rate_hz:
            lasts_ms = 1000 * len(wave) / self.rate_hz
            raise MediaError(f"the audio lasts {lasts_ms:.1f} ms, at least {WINDOW_MS} ms are needed")
        mel = kaldi_module().fbank(
            wave[None],
            htk_compat=True,
            sample_frequency=self.rate_hz,
            use_energy=False,
            window_type="hanning",
            num_mel_bins=self.mel_bins,
            dither=0.0,
            frame_length=WINDOW_MS,
            frame_shift=SHIFT_MS,
        )  # [frames, mel]
        if not torch.isfinite(mel).all():
            raise MediaError(f"its samples reach {float(wave.abs().max()):.1e}, expected -1..1")
        mel = mel[: self.target_frames]
        padded = torch.nn.functional.pad(mel, (0, 0, 0, self.target_frames - len(mel)))
        return ((padded - self.mean) / self.std).T[None].contiguous()  # [1, mel, frames]


def clip_times(seconds: float, count: int, rule: ClipRule) -> list[tuple[Fraction, Fraction]]:
    """Begin and end in seconds of `count` clips, spread evenly over what has room for them; all at 0 when nothing has.

    seconds   how long the whole lasts. The reference computes it and the room in floating point and the rest exactly,
              so a clip may begin one sample or frame away from where exact numbers put it: the last clip of 8.7 s at
              6.699999999999999 s
    rule      "imagebind": the last clip ends with the file, as in the version of pytorchvideo that ImageBind asks for
              (6cdc929); "chatbind": one part is left over at the end, as in 0.1.5, which ChatBind installs
    """
    room = Fraction(max(seconds - CLIP_SECONDS, 0.0))
    parts = max(count - 1, 1) if rule == "imagebind" else count
    return [(number * room / parts, number * room / parts + CLIP_SECONDS) for number in range(count)]
