"""The decode loop: equal to transformers' generate, for each prompt, in any batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from chatbridge.conversation.stop_strings import Stops, stops_per_sequence
from chatbridge.models.language import GenerateOptions, LanguageModel
from chatbridge.models.language._token_sampling import draw, options_per_row
from chatbridge.models.language.decode import Decoding
from chatbridge.models.language.embedded_prompts import EmbeddedPrompts
from chatbridge.models.language.generation import start_generation
from tests.helpers.lively_languages import IDS, TWELVE, alone, finished, lively, padded
from tests.helpers.tiny_languages import REREAD, RUNNING

FAMILIES = ("llama", "mistral", "qwen3", "gpt2", "gpt_neox", "opt", "gemma2", "gemma3_text")


def of_transformers(language: LanguageModel, ids: Tensor, **settings: Any) -> list[int]:
    found = language.lm.generate(ids[None], do_sample=False, max_new_tokens=12, pad_token_id=0, **settings)
    return found[0, len(ids) :].tolist()


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_equals_transformers(family: str) -> None:
    """fails when an id differs from transformers' generate, or the ids of a prompt depend on the batch"""
    language = lively(family)
    prompts = [IDS[0, :3], IDS[0], IDS[0, 2:8]]
    expected = [of_transformers(language, ids) for ids in prompts]
    assert len({tuple(ids) for ids in expected}) == 3 and len(set().union(*expected)) > 4  # not one id for ever
    assert [alone(language, ids) for ids in prompts] == expected
    assert finished(start_generation(language, padded(language, prompts), TWELVE)) == expected


@pytest.mark.parametrize("family", [*RUNNING, *REREAD])
def test_models_without_padding_answer_too(family: str) -> None:
    """fails when padding changes the answers of a model with a recurrent state, or of one without a cache"""
    language = lively(family)
    prompts = [IDS[0, :3], IDS[0]]
    expected = [alone(language, ids) for ids in prompts]
    if family != "rwkv":  # which transformers cannot start from embeddings
        assert expected == [of_transformers(language, ids) for ids in prompts]
    assert finished(start_generation(language, padded(language, prompts), TWELVE)) == expected


@pytest.mark.filterwarnings("ignore:Passing `repetition_penalty`")
def test_processors_are_those_of_transformers() -> None:
    """fails when a setting does not reach its processor, or processors run in a different order"""
    language = lively("llama")
    head = language.lm.get_output_embeddings()
    (first, *_) = alone(language, IDS[0])
    language.lm.config.eos_token_id = language.lm.generation_config.eos_token_id = first
    assert alone(language, IDS[0]) == []
    settings: dict[str, Any] = {"min_new_tokens": 5, "repetition_penalty": 1.7}
    found = language.lm.generate(
        inputs_embeds=language.embed(IDS), do_sample=False, max_new_tokens=12, pad_token_id=0, **settings
    )
    ids = [one for one in found[0].tolist() if one != first]
    assert alone(language, IDS[0], GenerateOptions(max_new_tokens=12, **settings)) == ids and len(ids) >= 5
    assert head.weight is language.lm.get_output_embeddings().weight
    language.lm.config.eos_token_id = None
    likeliest = GenerateOptions(max_new_tokens=12, sample=True, top_k=1, temperature=3.0)
    assert alone(language, IDS[0], likeliest) == alone(language, IDS[0])


def test_further_processors_are_asked() -> None:
    """fails when processors of the caller see other ids than the new ones, or are not obeyed"""
    language, seen = lively("llama"), []

    def never_twice(ids: Tensor, scores: Tensor) -> Tensor:
        seen.append(ids.shape[1])
        return scores.scatter(1, ids, float("-inf"))

    found = alone(language, IDS[0], processors=[never_twice])
    assert len(set(found)) == 12 and seen == list(range(12))
    with pytest.raises(ValueError, match="beam search accepts no cache and no logits processors"):
        alone(language, IDS[0], GenerateOptions(num_beams=2), processors=[never_twice])


def test_finished_sequences_leave_the_batch() -> None:
    """fails when a finished sequence is still computed, or its removal changes or reorders the others"""
    language = lively("mistral")
    prompts = [IDS[0, :3], IDS[0], IDS[0, 2:8]]
    free = [alone(language, ids) for ids in prompts]
    sizes: list[int] = []
    hook = language.register_forward_pre_hook(lambda module, given: sizes.append(len(given[0])))
    limits = [replace(TWELVE, max_new_tokens=number) for number in (2, 12, 5)]
    found = finished(start_generation(language, padded(language, prompts), limits))
    hook.remove()
    assert found == [free[0][:2], free[1], free[2][:5]]
    assert sizes == [3] * 2 + [2] * 3 + [1] * 7


def test_each_row_has_its_own_stops() -> None:
    """fails when the stop string of one prompt ends another answer, or stays in its answer"""
    language = lively("mistral")
    prompts = [IDS[0, :3], IDS[0]]
    free = [alone(language, ids) for ids in prompts]
    stops = [Stops([free[0][4:6]]), Stops([free[0][4:6], free[1][2:3]])]
    found = finished(start_generation(language, padded(language, prompts), TWELVE, stops))
    ends = free[1].index(free[1][2])
    assert found == [free[0][:4], free[1][:ends]]
    with pytest.raises(ValueError, match="2 stops for 3 sequences"):
        stops_per_sequence(stops, 3)
    with pytest.raises(ValueError, match="2 options for 3 prompts"):
        options_per_row([TWELVE] * 2, 3)


def test_a_stop_string_may_end_inside_a_token() -> None:
    """fails when a stop string that ends inside a token does not end an answer, or an answer ends without one"""
    language = lively("mistral")

    def to_text(ids: Sequence[int]) -> str:
        return "".join(f"<{one}#>" for one in ids)

    free = alone(language, IDS[0])
    stop = f"{free[3]}#><{str(free[4])[0]}"  # ends inside the fifth token
    found = alone(language, IDS[0], stops=Stops(strings=[stop], to_text=to_text))
    assert found == free[:5] and stop in to_text(found)
    assert alone(language, IDS[0], stops=Stops(strings=["#><#"], to_text=to_text)) == free
    with pytest.raises(ValueError, match="stop strings need to_text"):
        Stops(strings=["x"])


def test_a_long_answer_is_not_decoded_again_for_each_id() -> None:
    """fails when looking for a stop string costs the whole answer at every id"""
    decoded: list[int] = []

    def to_text(ids: list[int]) -> str:
        decoded.append(len(ids))
        return "".join("ab#"[one % 3] for one in ids)

    stops = Stops(strings=["##"], to_text=to_text)
    ids = [0, 1, 2] * 200
    assert all(stops.end(ids[:end]) is None for end in range(1, 600))
    assert max(decoded) <= 6 and stops.end([*ids, 2]) == 601


# ---------------------------------------------------------------- sampling


def test_a_sample_does_not_depend_on_the_batch() -> None:
    """fails when a sample depends on the batch or on finished sequences of it, or all prompts get the same samples"""
    language = lively("llama")
    drawn = GenerateOptions(max_new_tokens=12, sample=True, temperature=2.0, seed=5)
    prompts = [IDS[0, :3], IDS[0], IDS[0]]
    of_rows = [replace(drawn, seed=seed, max_new_tokens=number) for seed, number in ((5, 3), (6, 12), (7, 8))]
    together = finished(start_generation(language, padded(language, prompts), of_rows))
    assert together == [alone(language, ids, one) for ids, one in zip(prompts, of_rows, strict=True)]
    shared = finished(start_generation(language, padded(language, [IDS[0]] * 3), drawn))
    assert shared[0] == alone(language, IDS[0], drawn) and len({tuple(ids) for ids in shared}) == 3
    mixed = finished(start_generation(language, padded(language, prompts), [of_rows[0], TWELVE, of_rows[2]]))
    assert mixed == [together[0], alone(language, IDS[0]), together[2]]


def test_draws_follow_the_probabilities() -> None:
    """fails when an excluded id is sampled, or the frequency of an id differs from its probability"""
    scores = torch.tensor([[float("-inf"), 0.5, 0.3, 0.2, float("-inf")]])
    scores[0, 1:4] = scores[0, 1:4].log()
    generator = torch.Generator().manual_seed(3)
    found = draw(scores.expand(4000, -1), [generator] * 4000)
    counts = torch.bincount(found, minlength=5).tolist()
    assert counts[0] == counts[4] == 0
    assert all(abs(count / 4000 - share) < 0.05 for count, share in zip(counts[1:4], (0.5, 0.3, 0.2), strict=True))


# ---------------------------------------------------------------- beams


@pytest.mark.parametrize("settings", [{}, {"sample": True, "temperature": 3.0}])
def test_each_row_has_its_own_beams(settings: dict[str, Any]) -> None:
    """fails when the beams of a prompt use the limit or the seed of another one"""
    language = lively("llama")
    rows = [IDS[0, :3], IDS[0]]
    options = [GenerateOptions(num_beams=2, max_new_tokens=most, seed=most, **settings) for most in (3, 8)]
    found = finished(start_generation(language, padded(language, rows), options))
    assert found == [alone(language, ids, one) for ids, one in zip(rows, options, strict=True)]
    assert [len(ids) for ids in found] == [3, 8]


def test_beams_take_nothing_from_the_folder() -> None:
    """fails when generation_config.json changes the answers of beams, which it does not change elsewhere"""
    language = lively("llama")
    options = replace(TWELVE, num_beams=2)
    before = alone(language, IDS[0], options)
    language.lm.generation_config.repetition_penalty = 50.0
    assert alone(language, IDS[0], options) == before
    assert language.lm.generation_config.repetition_penalty == 50.0


@pytest.mark.parametrize("settings", [{}, {"sample": True, "temperature": 3.0, "seed": 4}])
def test_others_are_answered_within_a_beam_search(settings: dict[str, Any]) -> None:
    """fails when a beam search holds up others, they change its answer or random numbers, or it changes theirs"""
    language = lively("llama")
    options = replace(TWELVE, num_beams=3, **settings)
    expected, others = alone(language, IDS[0], options), [alone(language, IDS[0, :length]) for length in (3, 5)]
    decoding, waiting, found = Decoding(language), [3, 5], list[list[int]]()
    torch.manual_seed(7)
    numbers = [float(torch.rand(())) for _ in range(12)]
    torch.manual_seed(7)
    drawn: list[float] = []

    def between() -> bool:
        drawn.append(float(torch.rand(())))
        if waiting:
            decoding.admit(padded(language, [IDS[0, : waiting.pop(0)]]), TWELVE)
        decoding.step()
        return False

    growing = start_generation(language, padded(language, [IDS[0]]), options, between=between)
    assert finished(growing) == [expected] and len(decoding.rows[0].chosen) >= 11
    if settings:
        assert drawn == numbers
    while not decoding.is_done:
        decoding.step()
    found = decoding.answers
    assert found == others
    with pytest.raises(RuntimeError, match="within another one"):
        finished(start_generation(language, padded(language, [IDS[0]]), options,
                                  between=lambda: bool(alone(language, IDS[0], options))))  # fmt: skip
    assert alone(language, IDS[0], options) == expected  # nothing is left of the one that failed


def test_a_beam_search_ends_where_it_is_told_to() -> None:
    """fails when a search that is late or cancelled goes on, leaves hooks, or a late one has no answer"""
    language, calls = lively("llama"), list[int]()
    options = replace(TWELVE, num_beams=3)
    short = alone(language, IDS[0], replace(options, max_new_tokens=4))

    def late() -> bool:
        calls.append(1)
        return len(calls) == 4

    growing = start_generation(language, padded(language, [IDS[0]]), options, between=late)
    assert finished(growing) == [short] and len(calls) == 4

    def cancelled() -> bool:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        finished(start_generation(language, padded(language, [IDS[0]]), options, between=cancelled))
    assert not language.lm._forward_pre_hooks
    assert alone(language, IDS[0], replace(options, max_new_tokens=4)) == short


# ---------------------------------------------------------------- a cache that outlives the call


@pytest.mark.parametrize("family", ["llama", "mistral", "opt", "gemma3_text"])
def test_a_next_turn_is_what_a_fresh_prompt_gives(family: str) -> None:
    """fails when sequences that continue a cache by different lengths answer differently from their whole prompts"""
    language = lively(family)
    prompts, turns = [IDS[0, :3], IDS[0]], [torch.tensor([7, 8, 9, 20]), torch.tensor([13, 14])]
    limits = [replace(TWELVE, max_new_tokens=number) for number in (4, 7)]
    cache = language.new_cache()
    first = finished(start_generation(language, padded(language, prompts), limits, cache=cache))
    assert (cache.num_rows, cache.length) == (2, len(IDS[0]) + 6)
    rest = [torch.tensor([answer[-1], *turn]) for answer, turn in zip(first, turns, strict=True)]
    read: list[int] = []
    hook = language.register_forward_pre_hook(lambda module, given: read.append(given[0].shape[1]))
    second = finished(start_generation(language, padded(language, rest), TWELVE, cache=cache))
    hook.remove()
    whole = [
        torch.cat([ids, torch.tensor(answer), turn]) for ids, answer, turn in zip(prompts, first, turns, strict=True)
    ]
    assert second == [alone(language, ids) for ids in whole]
    assert read == [5, 3] + [1] * 11


@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_an_answer_that_is_taken_back_leaves_no_trace(family: str) -> None:
    """fails when decoding again after a crop, also over several turns, differs from decoding afresh"""
    language = lively(family)
    cache = language.new_cache()
    fresh = finished(start_generation(language, padded(language, [IDS[0]]), TWELVE, cache=cache))
    for turn in ([5, 6, 7], [8, 9]):
        finished(start_generation(language, padded(language, [torch.tensor(turn)]), TWELVE, cache=cache))
    cache.crop(len(IDS[0]) - 1)
    assert finished(start_generation(language, padded(language, [IDS[0, -1:]]), TWELVE, cache=cache)) == fresh


@pytest.mark.parametrize("family", [*RUNNING, *REREAD])
def test_sequences_that_no_cache_can_keep_are_an_error_at_the_start(family: str) -> None:
    """fails when sequences with a recurrent state share a cache, or the error comes after all answers"""
    language = lively(family)
    with pytest.raises(
        ValueError, match=r"2 sequences cannot be kept in one cache: .* process its sequences one by one"
    ):
        start_generation(language, padded(language, [IDS[0], IDS[0]]), TWELVE, cache=language.new_cache())


def test_a_cache_that_was_emptied_takes_any_rows() -> None:
    """fails when a cache cropped to nothing still has the padding of its sequences"""
    language = lively("llama")
    cache = language.new_cache()
    finished(start_generation(language, padded(language, [IDS[0, :3], IDS[0]]), TWELVE, cache=cache))
    cache.crop(0)
    assert finished(start_generation(language, padded(language, [IDS[0]]), TWELVE, cache=cache))[0] == alone(
        language, IDS[0]
    )


def test_what_comes_before_the_first_id_is_read_after_the_prompts() -> None:
    """fails when embeddings appended to cached sequences displace the beginning of a turn"""
    language = lively("llama")
    media = torch.randn(2, 3, language.width, generator=torch.Generator().manual_seed(1))
    turns = padded(language, [IDS[0, 3:5], IDS[0, 5:]])
    assert turns.mask is not None
    cache = language.new_cache()
    language(padded(language, [IDS[0, :3], IDS[0, :3]]).embeds, cache=cache)
    growing = start_generation(language, turns, TWELVE, cache=cache)
    assert isinstance(growing, Decoding)
    assert growing.next_positions().tolist() == [[5], [7]]
    growing.append(media)
    whole = [torch.cat([turns.embeds[row, turns.mask[row]], media[row]]) for row in (0, 1)]
    prompts = [torch.cat([language.embed(IDS[0, :3]).detach(), row])[None] for row in whole]
    assert finished(growing) == [
        finished(start_generation(language, EmbeddedPrompts(one), TWELVE))[0] for one in prompts
    ]


def test_what_is_appended_is_read_like_a_prompt() -> None:
    """fails when embeddings in the middle of an answer are lost, come before its last id, or have other positions"""
    language = lively("llama")
    media = torch.randn(2, 3, language.width, generator=torch.Generator().manual_seed(1))
    prompts = padded(language, [IDS[0, :3], IDS[0]])
    growing = start_generation(language, prompts, replace(TWELVE, max_new_tokens=10))
    assert isinstance(growing, Decoding)
    for _ in range(4):
        growing.step()
    before = [list(ids) for ids in growing.answers]
    assert growing.next_positions().tolist() == [[3 + 4], [9 + 4]]
    growing.append(media)
    found = finished(growing)
    for row, start in ((0, 6), (1, 0)):
        embeds = torch.cat([prompts.embeds[row, start:], language.embed(torch.tensor(before[row])), media[row]])
        (rest,) = finished(start_generation(language, EmbeddedPrompts(embeds[None]), replace(TWELVE, max_new_tokens=6)))
        assert found[row] == before[row] + rest
    with pytest.raises(ValueError, match="2 sequences cannot be appended to 0 unfinished answers"):
        growing.append(media)
