"""Two linear layers with a GELU between them (the projector of LLaVA-1.5), shared by all modalities of the bridge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from torch import Tensor, nn

from chatbridge.common.types import Features
from chatbridge.config.constraints import Range
from chatbridge.models.bridges.base import BRIDGES, Bridge, BridgeConfig, num_pooled, one_width, pooled, start_output


@BRIDGES.register("mlp")
class MLP(Bridge):
    """float[M, N, W] -> float[M, N or `pool`, D]"""

    @dataclass(frozen=True, kw_only=True)
    class Config(BridgeConfig):
        hidden: Annotated[int | None, Range(low=1)] = None  # hidden channels; null: the language model's width
        pool: Annotated[int | None, Range(low=1)] = None  # tokens per item, each the mean of a group of features

    config: MLP.Config

    def __init__(self, config: MLP.Config, widths: Mapping[str, int], out_width: int) -> None:
        super().__init__(config, widths, out_width)
        hidden = config.hidden or out_width
        self.input = nn.Linear(one_width(widths), hidden)
        self.output = nn.Linear(hidden, out_width)
        start_output(self.input, 1.0 if config.output_std is not None else None)
        start_output(self.output, config.output_std, input_rms=0.652)  # root mean square of GELU(N(0, 1))

    def num_tokens(self, num_features: int) -> int:
        """K. raises ValueError when there are fewer features than tokens"""
        return num_pooled(self.config.pool, num_features)

    def forward(self, features: Features, modality: str) -> Tensor:
        """float[M, N, W] -> float[M, K, D], K = N or pool"""
        return self.output(nn.functional.gelu(self.input(pooled(features, self.config.pool))))
