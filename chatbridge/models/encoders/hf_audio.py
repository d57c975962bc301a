"""Audio models of transformers: Whisper's encoder, AST, CLAP, wav2vec 2 and so on, from a Hugging Face folder."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from chatbridge.common.types import Features
from chatbridge.config.constraints import Range
from chatbridge.models.encoders._hf_tower import (
    HFTower,
    HFTowerConfig,
    build_tower,
    features_of,
    tower_output,
    without_unused,
)
from chatbridge.models.encoders.base import ENCODERS, feature_norm


@ENCODERS.register("hf_audio")
class HFAudio(HFTower):
    """All tokens of a layer, float[M, N, W]; of an encoder-decoder the encoder, of CLAP the audio tower.

    The preprocessing is the folder's own feature extractor, which also sets the length of a clip.
    """

    modalities = frozenset({"audio"})

    @dataclass(frozen=True, kw_only=True)
    class Config(HFTowerConfig):
        extractor: dict[str, Any] = field(default_factory=dict)  # replaces settings of the folder's feature extractor
        clip_seconds: Annotated[float | None, Range(above=0)] = None  # null: the extractor's length, else 10
        channels: Literal["mean", "first"] = "mean"  # how several channels become one

        kind = "audio"

        def processor(self, modality: str, train: bool, count: int) -> Any:
            from chatbridge.processors.hf_audio import ExtractorAudioProcessor, build_extractor

            extractor = build_extractor(self.folder, self.settings.model_type, self.extractor)
            return ExtractorAudioProcessor(extractor, count, self.clip_seconds, self.channels)

    config: HFAudio.Config

    def __init__(self, config: HFAudio.Config) -> None:
        super().__init__()
        self.config = config
        with torch.device("cpu"):  # measure the shape of the input on a silent clip
            processor = config.processor("audio", False, 1)
            self.input_shape = tuple(processor.features(torch.zeros(processor.num_samples, dtype=torch.float32)).shape)
        self.output = tower_output(config.settings, self.input_shape, config.layer)
        self.tower = without_unused(build_tower(config.settings), self.output.unused)
        self.norm = feature_norm(self.width, config.norm)

    def axes(self, modality: str) -> int:
        return 1 + len(self.input_shape)

    def forward(self, media: Tensor, modality: str = "audio") -> Features:
        """The features of audio clips.

        media    float[M, ...], the feature extractor's output for M clips
        returns  x float[M, N, W]
        raises   ValueError for a different shape
        """
        if tuple(media.shape[1:]) != self.input_shape:
            raise ValueError(f"media has shape {list(media.shape)}, expected [M, {str(list(self.input_shape))[1:]}")
        dtype = next(self.tower.parameters()).dtype
        return Features(self.norm(features_of(self.tower, media.to(dtype), self.config.layer)))
