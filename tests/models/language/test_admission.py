"""Sequences that join and leave a running decoding: each gets the answer that it gets alone."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from chatbridge.conversation.stop_strings import Stops
from chatbridge.models.language import GenerateOptions, LanguageModel
from chatbridge.models.language._token_sampling import TokenSampler
from chatbridge.models.language.cache import Cache
from chatbridge.models.language.decode import Decoding
from chatbridge.models.language.embedded_prompts import EmbeddedPrompts
from chatbridge.models.language.generation import start_generation
from chatbridge.models.language.reading import read_ahead
from tests.helpers.lively_languages import IDS, TWELVE, alone, lively, padded
from tests.helpers.tiny_languages import ATTENTION, REREAD, RUNNING

DRAWN = GenerateOptions(max_new_tokens=9, sample=True, temperature=2.0, top_k=20)
OPTIONS = (
    TWELVE,
    replace(TWELVE, max_new_tokens=1),
    replace(TWELVE, repetition_penalty=1.8),
    replace(DRAWN, seed=3),
    replace(DRAWN, seed=4, repetition_penalty=1.8),
    replace(DRAWN, seed=5, top_p=0.7),
    replace(TWELVE, max_new_tokens=7),
)


def prompts(number: int) -> list[Tensor]:
    chance = random.Random(5)
    return [
        torch.tensor([1, *(chance.randrange(3, 50) for _ in range(chance.randrange(1, 14)))]) for _ in range(number)
    ]


def one(language: LanguageModel, ids: Sequence[int] | Tensor) -> EmbeddedPrompts:
    return padded(language, [torch.as_tensor(ids)])


@pytest.mark.parametrize("family", ATTENTION)
def test_answers_do_not_depend_on_who_joins_and_leaves(family: str) -> None:
    """fails when an answer, a sample or a penalty depends on the sequences that come and go meanwhile"""
    language, asked = lively(family), prompts(14)
    chosen = [OPTIONS[at % len(OPTIONS)] for at in range(len(asked))]
    stops = [Stops([[at % 7 + 3]]) for at in range(len(asked))]
    expected = [alone(language, ids, own, stops=end) for ids, own, end in zip(asked, chosen, stops, strict=True)]
    decoding, chance, of_row = Decoding(language), random.Random(family), dict[int, int]()
    waiting, most, found = list(range(len(asked))), 0, dict[int, list[int]]()
    while waiting or not decoding.is_done:
        while waiting and (decoding.is_done or chance.random() < 0.4):
            at = waiting.pop(0)
            of_row[decoding.admit(one(language, asked[at]), chosen[at], stops[at])] = at
        most = max(most, len(decoding.unfinished))
        new = decoding.step()
        assert set(new) <= set(of_row)
        for row in [row for row in of_row if row not in decoding.unfinished and row in decoding.rows]:
            found[of_row[row]] = decoding.rows[row].answer
            decoding.release(row)
    assert [found[at] for at in range(len(asked))] == expected and most >= 3
    assert sorted(of_row) == list(range(len(asked))) and not decoding.rows


def schedules() -> Iterator[tuple[int, int]]:
    yield from ((first, joins) for first in range(1, 6) for joins in range(first + 1))


def test_a_sequence_may_join_at_every_step() -> None:
    """fails when a step, the first or the last one of another answer included, is no time to join or leave"""
    language = lively("mistral")
    long, short = one(language, IDS[0]), one(language, IDS[0, :3])
    answers = alone(language, IDS[0]), alone(language, IDS[0, :3])
    for first, joins in schedules():
        for early, late in ((long, short), (short, long)):
            decoding = Decoding(language)
            options = replace(TWELVE, max_new_tokens=first)
            a = decoding.admit(early, options)
            for _ in range(joins):
                decoding.step()
            b = decoding.admit(late, TWELVE)
            while not decoding.is_done:
                decoding.step()
            of_a, of_b = answers if early is long else answers[::-1]
            assert (decoding.rows[a].answer, decoding.rows[b].answer) == (of_a[:first], of_b)
            assert decoding.rows[a].finish == decoding.rows[b].finish == "length"


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "opt", "bloom"])
def test_a_released_sequence_is_asked_further(family: str) -> None:
    """fails when a cache that is handed out has padding, other rows, lacks an id, or changes with the batch it left"""
    language = lively(family)
    decoding = Decoding(language)
    asked = [IDS[0, :3], IDS[0], IDS[0, 2:7]]
    rows = [decoding.admit(one(language, ids), TWELVE) for ids in asked]
    for _ in range(5):
        decoding.step()
    kept: list[tuple[Cache, list[int]]] = []
    for row, ids in zip(rows[:2], asked, strict=False):  # while they go on
        whole = [*ids.tolist(), *decoding.rows[row].chosen]
        kept.append((decoding.release(row), whole))
        decoding.step()
    while not decoding.is_done:
        decoding.step()
    assert decoding.rows[rows[2]].answer == alone(language, asked[2])
    kept.append((decoding.release(rows[2]), [*asked[2].tolist(), *alone(language, asked[2])]))
    again: list[tuple[int, list[int]]] = []
    for cache, whole in kept:
        assert (cache.num_rows, cache.length, cache.mask) == (1, len(whole) - 1, None)
        turn = [*whole[cache.length :], 7, 20, 4]
        whole = [*whole[: cache.length], *turn]
        again.append((decoding.admit(one(language, turn), TWELVE, cache=cache), whole))
        decoding.step()
    while not decoding.is_done:
        decoding.step()
    for row, whole in again:
        assert decoding.rows[row].answer == alone(language, torch.tensor(whole))
    with pytest.raises(KeyError):
        decoding.release(rows[0])


def test_columns_that_no_sequence_needs_are_freed() -> None:
    """fails when the padding of a long sequence stays after it left, or a cache of one row holds memory of others"""
    language = lively("llama")
    decoding = Decoding(language)
    long = decoding.admit(one(language, torch.arange(3, 40)), replace(TWELVE, max_new_tokens=2))
    short = decoding.admit(one(language, IDS[0, :3]), TWELVE)
    for _ in range(3):
        decoding.step()
    assert (decoding.cache.length, decoding.cache.mask) == (3 + 2, None)
    cache = decoding.release(short)
    assert decoding.cache.length == 0 and decoding.is_done
    store: Any = cache.store
    assert store.past.layers[0].keys.untyped_storage().nbytes() <= 4 * 5 * language.width
    assert decoding.release(long).length == 37 + 1


@pytest.mark.parametrize("options", [TWELVE, replace(DRAWN, seed=1, repetition_penalty=1.5)])
def test_logprobs_are_those_of_a_plain_forward(options: GenerateOptions) -> None:
    """fails when log-probabilities are those of penalised logits, of another row or token, or their order is wrong"""
    language = lively("llama")
    decoding = Decoding(language)
    asked, wanted = [IDS[0], IDS[0, :3], IDS[0, 2:7]], [3, None, 0]
    rows = []
    for ids, top in zip(asked, wanted, strict=True):
        rows.append(decoding.admit(one(language, ids), options, Stops(), None, top))
        decoding.step()
    while not decoding.is_done:
        decoding.step()
    for row, ids, top in zip(rows, asked, wanted, strict=True):
        answer = decoding.rows[row]
        assert len(answer.logprobs) == (0 if top is None else len(answer.chosen))
        whole = torch.tensor([[*ids.tolist(), *answer.chosen]])
        expected = language.lm(whole).logits.detach()[0, len(ids) - 1 :].log_softmax(-1)
        for place, record in enumerate(answer.logprobs):
            assert record.logprob == pytest.approx(float(expected[place, answer.chosen[place]]), abs=1e-5)
            values, found = expected[place].topk(top or 0)
            assert [one for one, _ in record.top] == found.tolist()
            assert [value for _, value in record.top] == pytest.approx(values.tolist(), abs=1e-5)


def test_a_prompt_may_be_read_in_pieces() -> None:
    """fails when a prompt whose pieces are read between the steps of others is answered differently"""
    language = lively("mistral")
    for size in (1, 2, 5, 40):
        decoding = Decoding(language)
        other = decoding.admit(one(language, IDS[0, :4]), TWELVE)
        rest, cache = one(language, IDS[0]), language.new_cache()
        while rest.embeds.shape[1] > size:
            rest = read_ahead(language, rest, cache, size)
            decoding.step()
        row = decoding.admit(rest, TWELVE, cache=cache)
        while not decoding.is_done:
            decoding.step()
        assert decoding.rows[row].answer == alone(language, IDS[0])
        assert decoding.rows[other].answer == alone(language, IDS[0, :4])
    left = read_ahead(language, one(language, IDS[0]), cache := language.new_cache(), 100)
    assert (left.embeds.shape[1], cache.length) == (1, 8)


@pytest.mark.parametrize("family", [*RUNNING, *REREAD])
def test_models_without_padding_run_one_by_one(family: str) -> None:
    """fails when a recurrent state takes in padding, or such a model cannot use an empty decoding at all"""
    language = lively(family)
    decoding = Decoding(language)
    row = decoding.admit(one(language, IDS[0]), TWELVE)
    with pytest.raises(ValueError, match=r"another sequence is running: .* one by one"):
        decoding.admit(one(language, IDS[0, :3]), TWELVE)
    while not decoding.is_done:
        decoding.step()
    assert decoding.rows[row].answer == alone(language, IDS[0])
    decoding.release(row)
    row = decoding.admit(one(language, IDS[0, :3]), TWELVE)
    while not decoding.is_done:
        decoding.step()
    assert decoding.rows[row].answer == alone(language, IDS[0, :3])


def test_what_cannot_be_read_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """fails when an admission that raises, by bad input or where memory ends, leaves something behind"""
    language = lively("llama")
    decoding = Decoding(language)
    row = decoding.admit(one(language, IDS[0]), replace(TWELVE, repetition_penalty=1.8))
    decoding.step()
    with pytest.raises(ValueError, match="num_beams is 2"):
        decoding.admit(one(language, IDS[0]), replace(TWELVE, num_beams=2))
    with pytest.raises(ValueError, match="one sequence can be admitted at a time, found 2"):
        decoding.admit(padded(language, [IDS[0], IDS[0]]), TWELVE)
    kept = start_generation(language, one(language, IDS[0]), TWELVE, cache=language.new_cache())
    assert isinstance(kept, Decoding)
    with pytest.raises(ValueError, match="cache of the caller"):
        kept.admit(one(language, IDS[0]), TWELVE)

    def ends(*given: Any, **more: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    for place in ("layers.1.mlp", "norm"):
        handle = language.lm.model.get_submodule(place).register_forward_pre_hook(ends)
        with pytest.raises(torch.OutOfMemoryError):
            decoding.admit(one(language, IDS[0, :3]), TWELVE)
        handle.remove()
    with monkeypatch.context() as patch:
        patch.setattr("chatbridge.models.language._cache_stores.F.pad", ends)
        with pytest.raises(torch.OutOfMemoryError):
            decoding.admit(one(language, IDS[0, :3]), TWELVE)
    assert decoding.unfinished == (row,) and list(decoding.rows) == [row]
    later = decoding.admit(one(language, IDS[0, :3]), TWELVE)
    while not decoding.is_done:
        decoding.step()
    assert decoding.rows[row].answer == alone(language, IDS[0], replace(TWELVE, repetition_penalty=1.8))
    assert decoding.rows[later].answer == alone(language, IDS[0, :3])


class _Waits(TorchDispatchMode):
    """Counts what waits for a device: reading a value. What `tolist` reads is not seen, and counted apart."""

    def __init__(self) -> None:
        super().__init__()
        self.number = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        names = ("aten::_local_scalar_dense", "aten::nonzero", "aten::equal", "aten::is_nonzero", "aten::item")
        self.number += func.name() in names or func.name().startswith("aten::masked_select")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma3_text"])
def test_a_step_waits_for_the_device_once(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """fails when a step of sequences of different lengths asks the device more than once, also for log-probabilities"""
    language = lively(family)
    decoding = Decoding(language)
    decoding.admit(one(language, IDS[0]), replace(DRAWN, seed=1, repetition_penalty=1.5), top_logprobs=2)
    decoding.admit(one(language, IDS[0, :3]), TWELVE)
    decoding.step()
    read, tolist = [], Tensor.tolist
    monkeypatch.setattr(Tensor, "tolist", lambda self: read.append(self.shape) or tolist(self))
    with _Waits() as waits:
        for _ in range(3):
            decoding.step()
    assert (len(read), waits.number) == (3, 0)


def test_a_chooser_counts_ids_for_the_least_length_and_knows_small_vocabularies() -> None:
    """fails when an answer without a penalty never gets past its least length, or when more log-probabilities are asked
    for than there are ids"""
    sampler = TokenSampler([2], torch.device("cpu"))
    sampler.add(replace(TWELVE, min_new_tokens=2), top_logprobs=20)
    sampler.add(TWELVE, top_logprobs=1)
    logits = torch.tensor([[0.0, 1.0, 9.0, 2.0]]).expand(2, -1)
    found = [sampler.next(logits) for _ in range(3)]
    assert [one.found for one in found] == [[3, 2], [3, 2], [2, 2]]
    assert [one for one, _ in found[0].logprobs[0].top] == [2, 3, 1, 0] and len(found[0].logprobs[1].top) == 1
