"""The rows of added tokens (`model.added_tokens`) as rows of the language model's own vocabulary, for an export that
other programs read: they know one embedding and one head."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from chatbridge.cli.export_source import Source
from chatbridge.cli.weights.shard_writer import write_json
from chatbridge.common.file_kind import read_json_object

FILLER = "<unused_row_{}>"  # a token for a row of the embedding that the tokenizer has no token for


@dataclass(frozen=True)
class AddedRows:
    """Rows that follow the language model's own.

    tokens   in the order of their ids
    first    the id of the first one
    rows     full name of a tensor of the vocabulary -> its rows float[A, D], or float[A] of a bias
    """

    tokens: tuple[str, ...]
    first: int
    rows: Mapping[str, Tensor]

    def extended(self, tensor: Callable[[str], Tensor]) -> Callable[[str], Tensor]:
        """The same tensors [...] by full name, those of the vocabulary with the rows at their end."""

        def whole(name: str) -> Tensor:
            value = tensor(name)
            return torch.cat([value, self.rows[name].to(value.dtype)]) if name in self.rows else value

        return whole

    def num_values(self, name: str) -> int:
        """Values by which a tensor grows."""
        return self.rows[name].numel() if name in self.rows else 0

    def write_settings(self, folder: Path) -> None:
        """Change config.json and the tokenizer of a model folder: it has the tokens, with their ids.

        raises   ValueError when the configuration has no vocab_size, or the tokenizer cannot have these ids
        """
        config = read_json_object(folder / "config.json")
        if not isinstance(config.get("vocab_size"), int):
            raise ValueError(f"{folder / 'config.json'} has no vocab_size of its own to count the added tokens in")
        write_json({**config, "vocab_size": self.first + len(self.tokens)}, folder / "config.json")
        self._write_tokenizer(folder)

    def _write_tokenizer(self, folder: Path) -> None:
        from transformers import AddedToken, AutoTokenizer

        tokenizer: Any = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        fillers = [FILLER.format(number) for number in range(len(tokenizer), self.first)]
        named = [AddedToken(one, special=True, normalized=False) for one in (*fillers, *self.tokens)]
        tokenizer.add_tokens(named, special_tokens=True)
        tokenizer.save_pretrained(str(folder))
        wanted = {token: self.first + number for number, token in enumerate(self.tokens)}
        found = AutoTokenizer.from_pretrained(str(folder), local_files_only=True).get_vocab()
        if lost := [token for token, number in wanted.items() if found.get(token) != number]:
            raise ValueError(
                f"the tokenizer of the language model cannot give {lost[0]} the id {wanted[lost[0]]}; it gives "
                f"{found.get(lost[0])}. Resize the embedding to the tokenizer (resize_token_embeddings) before training"
            )


def added_rows(source: Source) -> AddedRows | None:
    """The rows of the added tokens of a checkpoint whose language model has its weights; None without added tokens."""
    model, language = source.model, source.model.language
    if model.added_tokens is None:
        return None
    model.added_tokens.start(language)
    tokens = tuple(model.config.added_tokens)
    embedding, head = language.vocabulary_modules
    names = {id(module): f"language.{name}" for name, module in language.named_modules()}
    rows = {f"{names[id(embedding)]}.weight": torch.stack(token_rows(source, "embedding", tokens))}
    if head.weight is not embedding.weight:
        rows[f"{names[id(head)]}.weight"] = torch.stack(token_rows(source, "head", tokens))
    if getattr(head, "bias", None) is not None:
        rows[f"{names[id(head)]}.bias"] = head.bias.detach().mean().expand(len(tokens))
    return AddedRows(tokens, model.added_tokens.first, rows)


def token_rows(source: Source, part: str, tokens: tuple[str, ...]) -> list[Tensor]:
    """float[D] of each added token: the trained one, or the initial one.

    part   embedding or head
    """
    names = [f"added_tokens.{part}.{token}" for token in tokens]
    own = source.model.state_dict()
    return [source.cast(source.trained.get(name, own[name])).detach() for name in names]
