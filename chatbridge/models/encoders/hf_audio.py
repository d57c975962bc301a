"""Audio models of transformers: Whisper's encoder, AST, CLAP, wav2vec 2 and so on, from a Hugging Face folder."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from chatbridge.common.errors import Problem
from chatbridge.common.types import Features
from chatbridge.config.constraints import Range
from chatbridge.models.encoders._hf_tower import (
    HFTower,
    HFTowerConfig,
    build_tower,
    features_of,
    read_tower,
    tower_output,
    without_unused,
)
from chatbridge.models.encoders.base import ENCODERS, feature_norm

WHISPER_TOKENS_PER_SECOND = 50  # 10 ms a frame of the spectrogram, 2 frames a token


@ENCODERS.register("hf_audio")
class HFAudio(HFTower):
    """All tokens of a layer, float[M, N, W]; of an encoder-decoder the encoder, of CLAP the audio tower.

    The preprocessing is the folder's own feature extractor, which also sets the length of a clip. Whisper reads 30 s,
    most of them padding for a short sound; with `extractor: {chunk_length: 3}` it reads 3 s, with the first 150 rows of
    its table of positions.
    """

    modalities = frozenset({"audio"})

    @dataclass(frozen=True, kw_only=True)
    class Config(HFTowerConfig):
        extractor: dict[str, Any] = field(default_factory=dict)  # replaces settings of the folder's feature extractor
        clip_seconds: Annotated[float | None, Range(above=0)] = None  # null: the extractor's length, else 10
        channels: Literal["mean", "first"] = "mean"  # how several channels become one

        kind = "audio"

        def problems(self) -> Iterator[str | Problem]:
            found = list(super().problems())
            yield from found
            if not found:
                yield from self._window_problems()

        def _window_problems(self) -> Iterator[Problem]:
            if self._window is not None and not self._window_fits:
                message = f"is {self._window!r}, expected whole seconds, 1 to {window_seconds(self.whole_settings)}"
                yield Problem("extractor.chunk_length", message, hint="the table of positions has no more")

        @property
        def _window(self) -> Any:
            """Seconds that Whisper shall read, as the configuration has them; None: all, or another family."""
            return self.extractor.get("chunk_length") if window_seconds(self.whole_settings) is not None else None

        @property
        def _window_fits(self) -> bool:
            return type(self._window) is int and 1 <= self._window <= (window_seconds(self.whole_settings) or 0)

        @cached_property
        def settings(self) -> Any:
            """The configuration of the tower; of Whisper with as many positions as `extractor.chunk_length` needs."""
            if not self._window_fits or self._window == window_seconds(self.whole_settings):
                return self.whole_settings
            shorter = copy.deepcopy(self.whole_settings)
            shorter.max_source_positions = self._window * WHISPER_TOKENS_PER_SECOND
            return shorter

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

    def read_tower(self) -> tuple[Any, int, str]:
        """The tower of the folder, with the positions of the first `max_source_positions` tokens."""
        folder, whole, wanted = self.config.folder, self.config.whole_settings, self.config.settings
        if folder is None or whole is wanted:
            return super().read_tower()
        tower, surplus, prefix = read_tower(folder, whole, self.output.unused)
        kept = wanted.max_source_positions
        positions = tower.embed_positions
        shorter = nn.Embedding(kept, positions.embedding_dim, device="meta").requires_grad_(False)
        shorter.weight = nn.Parameter(positions.weight[:kept].detach().clone(), requires_grad=False)
        tower.embed_positions, tower.max_source_positions = shorter, kept
        tower.config.max_source_positions = kept
        return tower, surplus, prefix

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


def window_seconds(settings: Any) -> int | None:
    """Seconds that Whisper's table of positions covers; None for other families, which have no such table."""
    if settings.model_type != "whisper":
        return None
    return settings.max_source_positions // WHISPER_TOKENS_PER_SECOND
