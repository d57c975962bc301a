"""How far a language model with rounded weights is from the same one in full precision, on a set of texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from chatbridge.models.language.base import LanguageModel


@dataclass(frozen=True)
class Drift:
    """Means over the tokens of all texts.

    kl               divergence of the rounded model's distribution of the next token from the full one's, nats
    same_choice      share of tokens after which both find the same token most likely
    nll, full_nll    negative log-likelihood of the texts' tokens under the rounded and the full model, nats
    num_tokens       tokens that were predicted
    """

    kl: float
    same_choice: float
    nll: float
    full_nll: float
    num_tokens: int

    @property
    def perplexity_ratio(self) -> float:
        """Perplexity of the rounded model, as a multiple of the full one's."""
        return float(torch.tensor(self.nll - self.full_nll, dtype=torch.float64).exp())


@torch.no_grad()
def next_token_logprobs(language: LanguageModel, texts: Sequence[Sequence[int]]) -> list[Tensor]:
    """For each text the log-probabilities of the next token at each of its positions, float[n, V] on the CPU."""
    device = next(language.parameters()).device
    return [_logprobs(language, torch.tensor([list(ids)], device=device)) for ids in texts]


def _logprobs(language: LanguageModel, ids: Tensor) -> Tensor:
    states = language(language.embed(ids))  # [1, n, D]
    return language.logits(states)[0].float().log_softmax(-1).cpu()


def drift(texts: Sequence[Sequence[int]], full: Sequence[Tensor], rounded: Sequence[Tensor]) -> Drift:
    """The drift from the log-probabilities of both models, float[n, V] for each text of n tokens.

    raises   ValueError for texts without two tokens
    """
    rows = list(_rows(texts, full, rounded))
    if not rows:
        raise ValueError("the texts have no token after their first one; give longer texts")
    kl, same, nll, full_nll = (torch.cat(one).double().mean().item() for one in zip(*rows, strict=True))
    return Drift(kl, same, nll, full_nll, sum(len(row[0]) for row in rows))


def _rows(
    texts: Sequence[Sequence[int]], full: Sequence[Tensor], rounded: Sequence[Tensor]
) -> Iterator[tuple[Tensor, ...]]:
    for ids, one, other in zip(texts, full, rounded, strict=True):
        if len(ids) < 2:
            continue
        known, found, following = one[:-1].double(), other[:-1].double(), torch.tensor(list(ids[1:]))[:, None]
        kl = (known.exp() * (known - found)).nan_to_num(0.0).sum(-1)  # a probability of zero adds nothing
        same = (known.argmax(-1) == found.argmax(-1)).double()
        yield kl, same, -found.gather(1, following)[:, 0], -known.gather(1, following)[:, 0]


def weight_bytes(language: Any) -> int:
    """Bytes of all parameters and buffers as they are stored; int8 and packed weights count as what they take."""
    seen: dict[int, int] = {}
    for value in (*language.parameters(), *language.buffers()):
        names = value.__tensor_flatten__()[0] if hasattr(value, "__tensor_flatten__") else ()
        parts = [getattr(value, name) for name in names] or [value]
        seen[id(value)] = sum(part.numel() * part.element_size() for part in parts)
    return sum(seen.values())


__all__ = ["Drift", "drift", "next_token_logprobs", "weight_bytes"]
