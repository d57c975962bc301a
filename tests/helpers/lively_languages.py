"""Tiny language models whose answers differ from id to id, and prompts for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from chatbridge.models.language import GenerateOptions, LanguageModel
from chatbridge.models.language.embedded_prompts import EmbeddedPrompts
from chatbridge.models.language.generation import start_generation
from tests.helpers.tiny_languages import tiny_language

TWELVE = GenerateOptions(max_new_tokens=12)
IDS = torch.tensor([[1, 9, 4, 8, 30, 7, 5, 3, 11]])


def lively(family: str) -> LanguageModel:
    """Of larger weights, so that answers differ from id to id, and never at an end."""
    language = tiny_language(family)
    with torch.no_grad():
        for parameter in language.parameters():
            parameter.mul_(4.0 if parameter.dim() > 1 else 1.0)
    language.lm.config.eos_token_id = language.lm.generation_config.eos_token_id = None
    return language


def finished(growing: Any) -> list[list[int]]:
    while not growing.is_done:
        growing.step()
    return growing.answers


def padded(language: LanguageModel, rows: Sequence[Tensor]) -> EmbeddedPrompts:
    length = max(len(ids) for ids in rows)
    embeds = torch.zeros(len(rows), length, language.width)
    mask = torch.zeros(len(rows), length, dtype=torch.bool)
    for row, ids in enumerate(rows):
        embeds[row, length - len(ids) :] = language.embed(ids[None]).detach()[0]
        mask[row, length - len(ids) :] = True
    return EmbeddedPrompts(embeds, mask)


def alone(language: LanguageModel, ids: Tensor, options: GenerateOptions = TWELVE, **more: Any) -> list[int]:
    return finished(start_generation(language, padded(language, [ids]), options, **more))[0]


__all__ = ["IDS", "TWELVE", "alone", "finished", "lively", "padded"]
