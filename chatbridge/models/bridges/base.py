"""The interface of bridges: features of M items in, tokens of the width that the fusion takes out."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from chatbridge.common.errors import Problem
from chatbridge.common.types import Features
from chatbridge.config.constraints import Exists, Range
from chatbridge.config.registry import Registry
from chatbridge.models.component import Component


@dataclass(frozen=True, kw_only=True)
class BridgeConfig:
    """Settings all bridges share."""

    weights: Annotated[Path | None, Exists("file")] = None  # file to start from, released or ours; null: random weights
    # Standard deviation of the tokens of a newly initialised bridge; training is faster if it is close to that of the
    # language model's embeddings. null: torch's initialisation
    output_std: Annotated[float | None, Range(above=0)] = None

    def route_problems(self, frames: Mapping[str, int]) -> Iterable[Problem]:
        """Problems of these settings with the routes to this bridge: modality -> frames read at once."""
        return ()


class Bridge(Component):
    """A network that turns features into tokens of the width that the fusion takes.

    widths      modality -> W of the features that this bridge reads
    out_width   D, mostly that of the language model (Fusion.media_width)
    """

    config: BridgeConfig

    def __init__(self, config: Any, widths: Mapping[str, int], out_width: int) -> None:
        super().__init__()
        self.config = config
        self.widths = dict(widths)
        self.out_width = out_width

    @abstractmethod
    def num_tokens(self, num_features: int) -> int:
        """K, the number of tokens for an item of `num_features` feature tokens.

        raises   ValueError when this number of features cannot be read
        """

    @abstractmethod
    def forward(self, features: Features, modality: str) -> Tensor:
        """The tokens of M items.

        features  x float[M, T * N, W], mask bool[M, T * N] or None
        returns   float[M, K, D]
        """


def one_width(widths: Mapping[str, int]) -> int:
    """The width W that all modalities of a bridge share.

    raises   ValueError when the widths differ
    """
    different = sorted(set(widths.values()))
    if len(different) != 1:
        listed = ", ".join(f"{modality} {width}" for modality, width in widths.items())
        raise ValueError(f"one bridge reads features of different widths ({listed}); give each width its own bridge")
    return different[0]


def start_output(layer: nn.Linear, std: float | None, input_rms: float = 1.0) -> None:
    """Initialise a layer so that inputs with root mean square `input_rms` give outputs of standard deviation `std`.

    std   None: keep torch's initialisation
    """
    if std is None:
        return
    nn.init.normal_(layer.weight, std=std / (input_rms * layer.in_features**0.5))
    nn.init.zeros_(layer.bias)


def num_pooled(pool: int | None, num_features: int) -> int:
    """The number of tokens that `pooled` gives for one item.

    raises   ValueError when there are fewer features than tokens: some tokens would be copies of others
    """
    if pool is not None and pool > num_features:
        raise ValueError(
            f"pool: {pool} tokens cannot be made of {num_features} feature tokens; set it to at most {num_features}, "
            "or remove it to keep them all"
        )
    return pool or num_features


def pooled(features: Features, num_tokens: int | None) -> Tensor:
    """Feature tokens averaged in `num_tokens` groups of neighbours; without masked tokens, a group is zero.

    features    x float[M, N, W], mask bool[M, N] or None; masked tokens do not count
    num_tokens  None: all tokens, unchanged
    returns     float[M, K, W]
    """
    x = features.x
    if num_tokens is None:
        return x
    keep = x.new_ones(x.shape[:2]) if features.mask is None else features.mask.to(x.dtype)  # [M, N]
    sums = nn.functional.adaptive_avg_pool1d((x * keep[..., None]).transpose(1, 2), num_tokens)  # [M, W, K]
    counts = nn.functional.adaptive_avg_pool1d(keep[:, None], num_tokens)  # [M, 1, K]
    return (sums / counts.clamp(min=torch.finfo(x.dtype).tiny)).transpose(1, 2)  # [M, K, W]


BRIDGES: Registry[Bridge] = Registry("bridge", "chatbridge.models.bridges")

__all__ = ["BRIDGES", "Bridge", "BridgeConfig", "num_pooled", "one_width", "pooled", "start_output"]
