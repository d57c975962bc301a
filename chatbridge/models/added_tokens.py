"""Tokens added to the vocabulary (`model.added_tokens`); the language model's own embedding and head keep their size.

Each token has tensors of its own, float[D], named by the token: `added_tokens.embedding.<image>` and
`added_tokens.head.<image>`. So `trainable` patterns and checkpoints address them by token, and the order of the tokens
in a YAML may change. Their ids follow those of the language model, in the order of the YAML.

Forward hooks on the two modules add them to every embedding and every logit: in the loss, in the decode loop and in
transformers' own generate. The factors and caps that some families apply to logits apply to them too.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from chatbridge.common.seeds import generator
from chatbridge.models.component import is_nameable
from chatbridge.models.language import LanguageModel

RANDOM_STD = 0.02  # as transformers resizes the vocabulary of a Llama
_CHUNK = 4096  # vocabulary rows per step of the mean


class TokenRows(nn.Module):
    """A float[D] per token, in the order of the YAML."""

    def __init__(self, tokens: Sequence[str], width: int) -> None:
        super().__init__()
        for token in tokens:
            self.register_parameter(token, nn.Parameter(torch.zeros(width)))

    def forward(self) -> Tensor:
        """float[A, D], one row per token"""
        return torch.stack(list(self.parameters()))

    @torch.no_grad()
    def fill_random(self, tokens: Collection[str], purpose: str) -> None:
        """Set the rows of these tokens to normal values of standard deviation RANDOM_STD."""
        for token, parameter in self.named_parameters():
            if token in tokens:
                numbers = torch.randn(parameter.shape, generator=generator(0, f"added token {token} {purpose}"))
                parameter.copy_(numbers * RANDOM_STD)

    @torch.no_grad()
    def fill(self, row: Tensor) -> None:
        """Set every row to `row`, float[D]."""
        for parameter in self.parameters():
            parameter.copy_(row)


class AddedTokens(nn.Module):
    """Embedding and head rows for A tokens, attached to a language model when it is built.

    random   those of the tokens whose rows start random, not at the mean
    If the language model ties embedding and head (GPT-2), an added token has one row under both names. If the head has
    a bias, an added token's bias is the mean over the vocabulary.
    raises   ValueError when the language model does not expose its embedding and head, or they differ in rows
    """

    def __init__(self, tokens: Sequence[str], language: LanguageModel, random: Sequence[str] = ()) -> None:
        super().__init__()
        self.random = frozenset(random)
        embedding, head = language.vocabulary_modules
        num_rows, width = embedding.weight.shape
        if len(head.weight) != num_rows:
            raise ValueError(
                f"the language model has {num_rows} embedding rows and {len(head.weight)} rows in its head; added "
                "tokens need one id for both"
            )
        self.first = num_rows  # id of the first token
        self.embedding = TokenRows(tokens, width)
        is_tied = head.weight is embedding.weight
        self.head = self.embedding if is_tied else TokenRows(tokens, head.weight.shape[1])
        self._ids: Tensor | None = None  # ids of the current call of the embedding
        embedding.register_forward_pre_hook(self._keep_ids)
        embedding.register_forward_hook(self._with_rows)
        head.register_forward_hook(self._with_logits)
        self.start(language)

    def start(self, language: LanguageModel) -> None:
        """Initialise every row to the mean of the language model's rows, unless these are on the meta device; rows of
        `random` tokens to numbers that depend on the token alone."""
        for module, rows in zip(language.vocabulary_modules, (self.embedding, self.head), strict=True):
            if not module.weight.is_meta and not any(row.is_meta for row in rows.parameters()):
                rows.fill(_mean(module.weight.detach()))
                name = "embedding" if rows is self.embedding else "head"
                rows.fill_random(self.random, name)

    def _keep_ids(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Keep the ids, and let the embedding look up id 0 for each added token."""
        self._ids = args[0]
        return (args[0].masked_fill(args[0] >= self.first, 0), *args[1:])

    def _with_rows(self, module: nn.Module, args: tuple[Any, ...], embeds: Tensor) -> Tensor:
        ids, self._ids = self._ids, None
        assert ids is not None
        rows = self.embedding() * getattr(module, "embed_scale", 1.0)  # [A, D]; Gemma scales its embeddings
        added = F.embedding((ids - self.first).clamp(min=0), rows)  # [B, L, D]
        return torch.where((ids >= self.first)[..., None], added.to(embeds.dtype), embeds)

    def _with_logits(self, module: nn.Module, args: tuple[Any, ...], logits: Tensor) -> Tensor:
        hidden, bias = args[0], getattr(module, "bias", None)
        added = F.linear(hidden, self.head().to(hidden.dtype))  # [..., A]
        added = added if bias is None else added + bias.mean()
        return torch.cat([logits, added.to(logits.dtype)], -1)  # [..., V + A]


def _mean(weight: Tensor) -> Tensor:
    """float[V, D] -> float[D], summed in fp64 so that all machines give the same result."""
    total = weight.new_zeros(weight.shape[1], dtype=torch.float64)
    for rows in weight.split(_CHUNK):
        total += rows.double().sum(0)
    return total / len(weight)


def token_faults(tokens: Sequence[str]) -> Iterator[tuple[int, str]]:
    """Index and fault of each token that cannot be added, since a tensor is named after it."""
    empty, seen = TokenRows((), 0), set[str]()
    for number, token in enumerate(tokens):
        if not token or token != token.strip():
            yield number, f"{token!r} is empty, or begins or ends with a space"
        elif not is_nameable(token, empty):
            yield number, f"{token!r} cannot name a tensor: write it without a dot and in brackets, as in '<image>'"
        elif token in seen:
            yield number, f"{token!r} is listed twice"
        seen.add(token)
