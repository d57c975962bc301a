"""Audio as a Hugging Face feature extractor expects it: Whisper, AST, CLAP, wav2vec 2 and others."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from chatbridge.common.errors import MediaError
from chatbridge.common.file_kind import refuse_other_kind
from chatbridge.processors.audio import kaldi_module
from chatbridge.processors.audio_file import examine_audio, open_audio
from chatbridge.processors.audio_reader import Channels
from chatbridge.processors.hf_image import FILE
from chatbridge.processors.media_processor import MediaProcessor, ready_item
from chatbridge.processors.media_source import Ref, reasons
from chatbridge.processors.piece_choice import sample_frames

SHORTEST_MS = 25


class ExtractorAudioProcessor(MediaProcessor):
    """Clips of equal length, each through the model's own feature extractor: float[clips, ...].

    extractor     of transformers; its first input name is the one that the model reads
    num_clips     clips per item: the audio is divided into slices, and one slice of each of `num_clips` groups is taken
    clip_seconds  of one slice; a shorter one is padded as the extractor does, raw waveforms with zeros
    """

    counted = "num_clips"

    def __init__(
        self, extractor: Any, num_clips: int = 1, clip_seconds: float | None = None, channels: Channels = "mean"
    ):
        self.channels: Channels = channels
        self.extractor = extractor
        self.num_clips = num_clips
        self.rate_hz = int(extractor.sampling_rate)
        self.num_samples = round((clip_seconds or clip_seconds_of(extractor)) * self.rate_hz)

    def __call__(self, ref: Ref, rng: np.random.Generator | None = None) -> Tensor:
        """float[num_clips, ...], the shape of one clip as the extractor makes it

        A tensor is a waveform at rate_hz in -1..1, float[samples] or float[channels, samples], or ready clips.
        raises   MediaError when the audio cannot be read or is shorter than 25 ms
        """
        if isinstance(ref, Tensor) and ref.ndim > 2:
            return ready_item(ref)
        with reasons(ref, "audio"):
            self.check_file(ref)
            with open_audio(ref, self.rate_hz, self.limits, self.channels) as audio:
                return torch.stack(audio.pieces(lambda: self._slices(len(audio), rng), self.features))

    def examine(self, ref: Ref) -> None:
        super().examine(ref)
        examine_audio(self, ref)

    def _slices(self, length: int, rng: np.random.Generator | None) -> list[tuple[int, int]]:
        """First sample and end of the wanted slices."""
        if length * 1000 < SHORTEST_MS * self.rate_hz:
            lasts = 1000 * length / self.rate_hz
            raise MediaError(f"the audio lasts {lasts:.1f} ms, at least {SHORTEST_MS} are needed")
        picks = sample_frames(-(-length // self.num_samples), self.num_clips, self.piece_rng(rng))
        return [(index * self.num_samples, (index + 1) * self.num_samples) for index in picks]

    def features(self, wave: Tensor) -> Tensor:
        """float[samples], at most one clip -> float[...], the model's input for one clip without a batch axis"""
        name = self.extractor.model_input_names[0]
        if name == "input_values" and not hasattr(self.extractor, "num_mel_bins"):  # raw waveforms of one length
            wave = torch.nn.functional.pad(wave, (0, self.num_samples - len(wave)))
        made = self.extractor(wave.numpy(), sampling_rate=self.rate_hz, return_tensors="np")
        return torch.from_numpy(np.asarray(made[name][0], dtype=np.float32))


def clip_seconds_of(extractor: Any) -> float:
    """Seconds of a clip that the extractor takes; 10 s when it takes any length."""
    for name in ("n_samples", "nb_max_samples"):  # Whisper; CLAP
        if getattr(extractor, name, None):
            return getattr(extractor, name) / extractor.sampling_rate
    if getattr(extractor, "max_length", None) and hasattr(extractor, "num_mel_bins"):
        return extractor.max_length * 0.01  # AST counts frames of 10 ms
    return 10.0


def build_extractor(folder: Path | None, model_type: str, settings: Mapping[str, Any]) -> Any:
    """The folder's feature extractor, or the one of a model type with these settings.

    raises   ValueError when there is none
    """
    from transformers import AutoFeatureExtractor
    from transformers.models.auto import feature_extraction_auto as auto

    if find_spec("torchaudio") is not None:
        kaldi_module()
    try:
        if folder is not None:
            if (folder / FILE).is_file():
                refuse_other_kind(folder / FILE)
            return AutoFeatureExtractor.from_pretrained(str(folder), local_files_only=True, **settings)
        names: Mapping[str, str] = vars(auto)["FEATURE_EXTRACTOR_MAPPING_NAMES"]
        kind: Any = auto.feature_extractor_class_from_name(names.get(model_type.removesuffix("_audio_model"), ""))
        if kind is None:
            raise ValueError(f"transformers has no feature extractor for model_type {model_type!r}")
        return kind(**settings)
    except (OSError, ValueError, TypeError) as error:
        where = f"{folder}: its preprocessor_config.json" if folder is not None else "extractor"
        raise ValueError(f"{where} gives no feature extractor: {error}") from None
