"""The KV cache of every family of language models gives the same states as no cache."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from chatbridge.models.language._hf_modules import decoder_layers
from chatbridge.models.language.cache import joined
from tests.helpers.tiny_languages import ATTENTION, REREAD, RUNNING, tiny_language
from tests.helpers.tolerances import FP32

ALL = [*ATTENTION, *RUNNING, *REREAD]


def assert_states(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=FP32, atol=FP32)


@pytest.mark.parametrize("family", ALL)
@torch.no_grad()
def test_a_cache_changes_no_state(family: str) -> None:
    """fails when reading a sequence in pieces, or again from where it was cropped, differs from reading it at once"""
    language = tiny_language(family)
    embeds = language.embed(torch.randint(3, 50, (2, 12)))
    whole = language(embeds)
    cache = language.new_cache()
    pieces = [language(embeds[:, start:end], cache=cache) for start, end in ((0, 7), (7, 8), (8, 12))]
    assert_states(torch.cat(pieces, 1), whole)
    assert len(cache) == 12
    if family in RUNNING:
        with pytest.raises(ValueError, match="has one recurrent state"):
            cache.crop(3)
        cache.crop(0)
        assert_states(language(embeds[:, :3], cache=cache), whole[:, :3])
        return
    cache.crop(9)
    cache.crop(3)  # further back than a sliding window
    assert_states(language(embeds[:, 3:], cache=cache), whole[:, 3:])


@pytest.mark.parametrize("family", ATTENTION)
@torch.no_grad()
def test_padding_and_other_sequences_change_no_state(family: str) -> None:
    """fails when padding is attended to or counted, or dropping, reordering, copying or joining sequences mixes them
    up"""
    language = tiny_language(family)
    embeds = language.embed(torch.randint(3, 50, (2, 12)))
    whole = language(embeds)
    mask = torch.tensor([[False] * 4 + [True] * 5, [True] * 9])
    short = torch.cat([torch.full((1, 4, 32), 9.0), embeds[:1, :5]], 1)
    cache = language.new_cache(mask)
    states = language(torch.cat([short, embeds[1:, :9]]), cache=cache)
    assert_states(states[0, 4:], whole[0, :5])
    assert_states(states[1], whole[1, :9])
    alone = cache.select([0])
    assert_states(language(embeds[:1, 5:7], cache=alone), whole[:1, 5:7])
    cache.keep([1, 0])
    states = language(torch.cat([embeds[1:, 9:10], embeds[:1, 5:6]]), cache=cache)
    assert_states(states[0, 0], whole[1, 9])
    assert_states(states[1, 0], whole[0, 5])
    cache.keep([0])
    both = joined([alone, cache])
    states = language(torch.cat([embeds[:1, 7:8], embeds[1:, 10:11]]), cache=both)
    assert_states(states[0, 0], whole[0, 7])
    assert_states(states[1, 0], whole[1, 10])


@pytest.mark.parametrize("family", [*RUNNING, *REREAD])
def test_padding_is_an_error_if_it_cannot_be_masked(family: str) -> None:
    """fails when padding enters a recurrent state without an error"""
    with pytest.raises(ValueError, match="process its sequences one by one"):
        tiny_language(family).new_cache(torch.tensor([[False, True], [True, True]]))
    tiny_language(family).new_cache(torch.ones(2, 2, dtype=torch.bool))


def test_a_crop_beyond_the_cache_is_an_error() -> None:
    """fails when a crop to missing columns leaves a cache with a wrong length"""
    with pytest.raises(ValueError, match="has 0 columns; crop accepts 0 to 0, found 3"):
        tiny_language("llama").new_cache().crop(3)


def test_segments_with_a_cache_are_an_error() -> None:
    """fails when packed sequences are read into a cache as one conversation"""
    language = tiny_language("llama")
    embeds = language.embed(torch.tensor([[5, 6]]))
    with pytest.raises(ValueError, match="use packed sequences without it"):
        language(embeds, segments=object(), cache=language.new_cache())  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("family", ALL)
def test_decoder_layers_are_found(family: str) -> None:
    """fails when a family names its blocks so that sharding and cross-attention do not find them"""
    language = tiny_language(family)
    layers = language.decoder_layers
    assert len(layers) == 2
    seen: list[int] = []
    for number, layer in enumerate(layers):
        layer.register_forward_hook(lambda *given, number=number: seen.append(number))
    language(language.embed(torch.tensor([[5, 6, 7]])))
    assert seen == [0, 1]


def test_missing_decoder_layers_are_reported() -> None:
    """fails when a model of another structure ends in a traceback, or a wrong list is used as the layers"""
    base = nn.Module()
    base.extras = nn.ModuleList([nn.Linear(1, 1)])
    settings = SimpleNamespace(get_text_config=lambda decoder: SimpleNamespace(num_hidden_layers=4))
    with pytest.raises(ValueError, match=r"num_hidden_layers = 4 modules, found extras of 1.*inline"):
        decoder_layers(SimpleNamespace(config=settings, base_model=base))


def test_a_step_copies_none_of_the_earlier_keys() -> None:
    """fails when a new token copies all keys before it, as a concatenation does"""
    language = tiny_language("llama")
    cache = language.new_cache()
    places = set[int]()
    with torch.no_grad():
        language(language.embed(torch.arange(3, 23)[None]), cache=cache)
        for new in range(40):
            language(language.embed(torch.tensor([[new]])), cache=cache)
            store: Any = cache.store
            places.add(store.past.layers[0].keys.data_ptr())
    assert len(places) == 1 and cache.length == 60


def test_copies_do_not_write_into_each_other() -> None:
    """fails when a cache that is cropped and continued changes what a copy of it holds, or the reverse"""
    language = tiny_language("llama")
    ids = torch.arange(3, 12)[None]
    with torch.no_grad():
        cache = language.new_cache()
        for part in (ids[:, :4], ids[:, 4:8]):  # the second one has room behind it
            language(language.embed(part), cache=cache)
        other = language.new_cache()
        other.become(cache)
        other.store = cache.store.copy()
        cache.crop(6)
        found = [language(language.embed(one), cache=own)[:, -1] for own, one in (
            (cache, torch.tensor([[30, 31]])), (other, torch.tensor([[40]])), (cache, torch.tensor([[32]])),
            (other, torch.tensor([[41]])),
        )]  # fmt: skip
        whole = [torch.cat([ids[:, :6], torch.tensor([[30, 31, 32]])], 1),
                 torch.cat([ids[:, :8], torch.tensor([[40, 41]])], 1)]  # fmt: skip
        for state, one in zip(found[2:], whole, strict=True):
            torch.testing.assert_close(state, language(language.embed(one))[:, -1])


def test_what_was_joined_stays_on_its_device() -> None:
    """fails when the mask of sequences that were read on a device is made on another one"""
    language = tiny_language("llama").to("meta")
    caches = [language.new_cache(), language.new_cache()]
    for cache, length in zip(caches, (4, 7), strict=True):
        language(torch.zeros(1, length, language.width, device="meta"), cache=cache)
    whole = joined(caches)
    assert whole.mask is not None and whole.mask.device.type == "meta" == whole.positions(1, whole.device).device.type
    language(torch.zeros(2, 1, language.width, device="meta"), whole.positions(1, whole.device), cache=whole)
    assert (whole.length, whole.num_rows) == (8, 2)
