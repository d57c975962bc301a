"""A linear projection of feature tokens, or of groups of them, shared by all modalities of the bridge.

`pool` averages neighbours; `join` concatenates them into one wide vector, as MiniGPT-4 does for Llama-2 (4 patches of
1408 channels -> 5632). `repeat` gives each token several positions, as ChatBind can do with its single one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated

from torch import Tensor, nn

from chatbridge.common.errors import Problem
from chatbridge.common.types import Features
from chatbridge.config.constraints import Range
from chatbridge.models.bridges.base import BRIDGES, Bridge, BridgeConfig, num_pooled, one_width, pooled, start_output
from chatbridge.models.component import State

_RELEASED = r"^(llama_proj|(model\.)?mm_projector)\."


@BRIDGES.register("linear")
class Linear(Bridge):
    """float[M, N, W] -> float[M, N / `join` or `pool`, D], times `repeat`"""

    @dataclass(frozen=True, kw_only=True)
    class Config(BridgeConfig):
        pool: Annotated[int | None, Range(low=1)] = None  # tokens per item, each the mean of a group of features
        join: Annotated[int, Range(low=1)] = 1  # neighbouring feature tokens that are concatenated to one token
        repeat: Annotated[int, Range(low=1)] = 1  # positions that each token fills (ChatBind: repeat_feature_dim)

        def problems(self) -> Iterator[Problem]:
            if self.pool is not None and self.join > 1:
                yield Problem("join", "and pool both group the feature tokens; remove one of them")

    config: Linear.Config

    def __init__(self, config: Linear.Config, widths: Mapping[str, int], out_width: int) -> None:
        super().__init__(config, widths, out_width)
        self.output = nn.Linear(config.join * one_width(widths), out_width)
        start_output(self.output, config.output_std)

    def num_tokens(self, num_features: int) -> int:
        """raises   ValueError when the features do not divide into groups of `join`, or are fewer than `pool`"""
        if num_features % self.config.join:
            raise ValueError(f"join: {num_features} feature tokens do not divide into groups of {self.config.join}")
        return num_pooled(self.config.pool, num_features // self.config.join) * self.config.repeat

    def forward(self, features: Features, modality: str) -> Tensor:
        """float[M, N, W] -> float[M, K, D], K = N / join or pool, times repeat"""
        if self.config.join == 1:
            x = pooled(features, self.config.pool)
        else:
            x = features.x.unflatten(1, (-1, self.config.join)).flatten(2)  # [M, N / join, join * W]
        tokens = self.output(x)
        return tokens if self.config.repeat == 1 else tokens.repeat_interleave(self.config.repeat, 1)  # [M, K, D]

    @staticmethod
    def convert(state: State) -> State:
        """Rename the released projections `llama_proj` and `mm_projector`, float[D, W], to `output`.

        raises   ValueError for ChatBind's file of stage 1, which has trained rows of the embedding too
        source   Vision-CAIR/MiniGPT-4: minigpt4/models/mini_gpt4.py; dreamerlin/chatbind: llava_imagebind_select.py
        """
        if any("mm_projector." in key for key in state) and any(".embed_" in f".{key}" for key in state):
            raise ValueError(
                "holds rows of added tokens beside the projector: give it to run.init_from, which loads both, or write "
                "the projector alone with chatbridge weights convert FILE OUT.safetensors --part linear"
            )
        return {re.sub(_RELEASED, "output.", key): value for key, value in state.items()}
