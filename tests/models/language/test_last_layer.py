"""The last feed-forward part at the supervised points alone: the same states and gradients, fewer products."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from chatbridge.models.language import _last_layer
from chatbridge.models.language._last_layer import skippable
from chatbridge.models.memory import Recomputed
from tests.helpers.tiny_languages import ATTENTION, RUNNING, tiny_language

POINTS = torch.tensor([3, 4, 5, 9, 12])


def inputs() -> tuple[Tensor, Tensor]:
    embeds = torch.randn(2, 7, 32, generator=torch.Generator().manual_seed(1)).requires_grad_()
    return embeds, torch.arange(7).expand(2, -1)


def weights(count: int) -> Tensor:
    """Of a sum of states, float[count, D]: that of their squares is the same for all inputs, after a norm."""
    return torch.randn(count, 32, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("family", [*ATTENTION, *RUNNING])
def test_states_and_gradients_of_every_family(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """fails when a family's last layer reads positions that were skipped, or points get other states"""
    language = tiny_language(family)
    found = []
    for least in (10**9, 0):
        monkeypatch.setattr(_last_layer, "LEAST_SAVED", least)
        embeds, positions = inputs()
        states = language.states_at(POINTS, embeds, positions, None)
        (states * weights(len(states))).sum().backward()
        found.append((states.detach(), embeds.grad))
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-5)
    embeds, positions = inputs()
    whole = language(embeds, positions).flatten(0, 1)[POINTS]  # no hook is left behind
    torch.testing.assert_close(whole.detach(), found[0][0], rtol=1e-5, atol=1e-5)


def test_gradients_of_a_position_that_predicts_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """fails when a side text and what follows it, both predicted from one position, each count for both"""
    found = []
    for least in (10**9, 0):
        monkeypatch.setattr(_last_layer, "LEAST_SAVED", least)
        language, (embeds, positions) = tiny_language("llama"), inputs()
        states = language.states_at(torch.tensor([3, 3, 4, 9]), embeds, positions, None)  # [4, D]
        (states * weights(len(states))).sum().backward()
        found.append([embeds.grad, *(parameter.grad for parameter in language.decoder_layers[-1].parameters())])
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-5)


def test_products_are_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """fails when the last feed-forward part is computed at every position all the same"""
    language, counts = tiny_language("llama"), []
    for least in (10**9, 0):
        monkeypatch.setattr(_last_layer, "LEAST_SAVED", least)
        with FlopCounterMode(display=False) as counter:
            language.states_at(POINTS, *inputs(), None)
        counts.append(counter.get_total_flops())
    assert counts[0] - counts[1] == 2 * 3 * 32 * 48 * (14 - len(POINTS))


def test_layers_that_stay_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """fails when a layer that is computed again in the backward pass, compiled or small is cut"""
    language = tiny_language("llama")
    assert skippable(language.lm, 14, 5) is None
    monkeypatch.setattr(_last_layer, "LEAST_SAVED", 0)
    layer: Any = language.decoder_layers[-1]
    assert skippable(language.lm, 14, 5) is layer.mlp
    layer.compile()
    assert skippable(language.lm, 14, 5) is None
    language = tiny_language("llama")
    layer = language.decoder_layers[-1]
    layer.forward = Recomputed(layer.forward)
    assert skippable(language.lm, 14, 5) is None
