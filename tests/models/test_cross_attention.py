"""Gated cross-attention inside language models, with resamplers over two encoders."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from chatbridge.common.errors import ConfigError, DataError
from chatbridge.common.types import Batch, Segments
from chatbridge.models.chat_model import ChatModel
from chatbridge.models.language import causal_lm
from chatbridge.models.language._hf_modules import decoder_layers
from chatbridge.models.loading import load_weights
from chatbridge.models.memory import checkpoint_activations
from chatbridge.models.placement import place_model
from chatbridge.models.trainable import set_trainable
from chatbridge.runners.planned_step.measure import simulated
from chatbridge.runners.planned_step.synthetic_batch import PlannedBatch
from tests.helpers.fused_rows import (
    ARCHITECTURES,
    ROWS,
    SIX,
    Row,
    assert_asked_further,
    batch_of,
    check_admission,
    further,
    read_again,
    states,
)
from tests.helpers.gated_models import GATED, PARTS, gated
from tests.helpers.tiny_languages import ATTENTION, NO_HEAD_DIM, REREAD, RUNNING, SIZES
from tests.helpers.tiny_models import tiny_model
from tests.helpers.tolerances import FP32

REACHES = ("next", "previous", "all")
FAMILIES = {**ATTENTION, **RUNNING, **REREAD}
TEXTS: tuple[Row, ...] = ((1, 9, 4), (1, 30, 31, 12, 4))


@pytest.fixture(scope="module")
def models() -> dict[str, ChatModel]:
    return {reach: gated(media=reach) for reach in REACHES}


def reads(model: ChatModel, whole: Batch) -> list[list[bool]]:
    """Which media tokens each position of the first row reads."""
    context: Any = model.prepared(whole)[1]
    return context.reads[0].int().tolist()


def test_each_reach_reads_its_items(models: dict[str, ChatModel]) -> None:
    """Fails when a position reads another item than documented; the one of an item always reads itself."""
    whole = batch_of(ROWS[1])  # 1 image 8 audio 6 11 12 3; three tokens of the image, two of the audio
    image, audio, none, both = [1, 1, 1, 0, 0], [0, 0, 0, 1, 1], [0] * 5, [1] * 5
    assert reads(models["next"], whole) == [image, image, audio, audio, none, none, none, none]
    assert reads(models["previous"], whole) == [none, image, image, audio, audio, audio, audio, audio]
    assert reads(models["all"], whole) == [none, image, image, both, both, both, both, both]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_closed_gates_leave_the_language_model_as_it_is(architecture: str) -> None:
    """Fails when blocks with gates at zero change a logit by a single bit, or rename a tensor."""
    model = gated(architecture, gate=0.0)
    text = tiny_model(language={"name": "causal_lm", "architecture": ARCHITECTURES[architecture]}).language
    text.load_state_dict(model.language.state_dict())
    whole = batch_of(*ROWS)
    embeds, context = model.prepared(whole)
    model.fusion.show(context)
    found = model.language.logits(model.language(embeds, whole.positions))[..., :50]
    assert torch.equal(found, text.logits(text(embeds, whole.positions)))
    assert set(model.fusion.state_dict()) == {
        f"layers.1.{name}" for name in (
            "attention_gate", "feed_forward_gate", "attention.norm.weight", "attention.norm.bias",
            "attention.to_q.weight", "attention.to_kv.weight", "attention.to_out.weight", "feed_forward.norm.weight",
            "feed_forward.norm.bias", "feed_forward.up.weight", "feed_forward.down.weight",
        )
    }  # fmt: skip


@pytest.mark.parametrize("reach", REACHES)
def test_rows_do_not_depend_on_their_batch(models: dict[str, ChatModel], reach: str) -> None:
    """Fails when a row, also one without media, has other states in a batch than alone."""
    model = models[reach]
    together = states(model, batch_of(*ROWS))
    for number, row in enumerate(ROWS):
        torch.testing.assert_close(together[number, : len(row)], states(model, batch_of(row))[0], atol=FP32, rtol=FP32)


def assert_cached_answers_equal_uncached_ones(model: ChatModel, has_beams: bool = True) -> list[list[int]]:
    """The answers to ROWS, one by one and as a batch, with one beam and with three."""
    expected = [read_again(model, row) for row in ROWS]
    assert [model.generate(batch_of(row), SIX)[0] for row in ROWS] == expected
    assert model.generate(batch_of(*ROWS), SIX) == expected
    if has_beams:
        beams = replace(SIX, num_beams=3)
        assert model.generate(batch_of(*ROWS), beams) == [model.generate(batch_of(row), beams)[0] for row in ROWS]
    return expected


def test_cached_answers_equal_uncached_ones() -> None:
    """Fails when a token decoded with a cache, alone or in a batch, differs from one decoded from the whole sequence,
    or the beams of a prompt read the media of another."""
    answers = assert_cached_answers_equal_uncached_ones(gated(gate=2.0, media="next"))
    blind = gated(gate=0.0)
    assert [read_again(blind, row) for row in ROWS] != answers, "media change no answer"


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_of_language_models_reads_media(family: str) -> None:
    """Fails when the blocks do not reach the layers of a family, or its answers depend on the cache or the batch."""
    sizes = {key: value for key, value in SIZES.items() if key != "head_dim" or family not in NO_HEAD_DIM}
    language = {"architecture": {"model_type": family, **sizes, "initializer_range": 0.3, **FAMILIES[family]}}
    for reach in ("next", "previous"):
        model = gated(gate=2.0, media=reach, language={"name": "causal_lm", **language})
        text = model.language(model.language.embed(batch_of(ROWS[0]).ids))
        assert (states(model, batch_of(ROWS[0])) - text).abs().max() > 1e-3
        assert_cached_answers_equal_uncached_ones(model, family not in REREAD)  # transformers has no beams for them


WITH_MEDIA = (ROWS[0], ROWS[1], ROWS[3])
FURTHER: tuple[Row, ...] = ((7, ("image", 4), 5), (8, 9), (("audio", 5), 13))


@pytest.mark.parametrize("reach", ["previous", "all"])
def test_further_turns_read_the_media_of_all_turns(models: dict[str, ChatModel], reach: str) -> None:
    """Fails when a kept cache forgets the media of an earlier turn, or a cropped turn leaves its media behind."""
    model = models[reach]
    cache = model.language.new_cache()
    first = further(model, cache, WITH_MEDIA)
    cache.crop(cache.length - 2)
    assert_asked_further(model, cache, first, FURTHER, unread=3)


def test_media_that_would_change_what_was_read_are_refused(models: dict[str, ChatModel]) -> None:
    """Fails when a conversation goes on with states that a whole reading would not give: the first item of a
    conversation, or any with `next`."""
    for reach, row in (("previous", ROWS[2]), ("next", ROWS[2]), ("next", ROWS[0])):
        model = models[reach]
        cache = model.language.new_cache()
        (asked,) = further(model, cache, [row])
        with pytest.raises(DataError, match=r"read the whole conversation again with a new cache"):
            model.start_generation(batch_of((asked[-1], 7, ("image", 4), 5)), SIX, cache=cache)
        assert_asked_further(model, cache, [asked], [(8, 9)], unread=1)  # more text is no obstacle


def test_a_conversation_whose_media_were_cropped_is_refused(models: dict[str, ChatModel]) -> None:
    """Fails when text goes on with states that a cropped item has changed; a new item in its place changes them as
    well."""
    model = models["previous"]
    cache = model.language.new_cache()
    further(model, cache, [ROWS[0]])
    cache.crop(2)
    with pytest.raises(DataError, match="new cache"):
        model.start_generation(batch_of((7, 9)), SIX, cache=cache)
    asked = (("image", 4), 7)
    (row,) = further(model, cache, [asked])
    assert list(row[2:]) == read_again(model, (*ROWS[0][:2], *asked))


@pytest.mark.parametrize("reach", REACHES)
def test_packed_conversations_read_their_own_media(models: dict[str, ChatModel], reach: str) -> None:
    """Fails when a packed conversation reads the media of its neighbour, or one without media is changed by it."""
    model = models[reach]
    rows = (ROWS[0], ROWS[2], ROWS[1], ROWS[3])
    packed = batch_of([one for row in rows for one in row])
    numbers = torch.tensor([[n for n, row in enumerate(rows) for _ in row]])
    positions = torch.tensor([[t for row in rows for t in range(len(row))]])
    segments = Segments(numbers, torch.zeros_like(numbers), torch.full_like(numbers, packed.ids.shape[1]))
    hidden = states(model, replace(packed, positions=positions, segments=segments))[0]
    for found, row in zip(hidden.split([*map(len, rows)]), rows, strict=True):
        torch.testing.assert_close(found, states(model, batch_of(row))[0], atol=FP32, rtol=FP32)


def test_the_base_reads_no_media_of_a_side_text(models: dict[str, ChatModel]) -> None:
    """Fails when a side text reads media of another one, or the base reads those of a side text."""
    base, sides = (1, ("image", 0), 7), ((9, ("image", 1), 4), (11, ("audio", 2), 6))
    whole = batch_of((*base, *sides[0], *sides[1]))
    branch, anchor = torch.tensor([[0] * 3 + [1] * 3 + [2] * 3]), torch.tensor([[9] * 3 + [3] * 6])
    positions = torch.tensor([[0, 1, 2, 3, 4, 5, 3, 4, 5]])
    whole = replace(whole, positions=positions, segments=Segments(torch.zeros_like(branch), branch, anchor))
    for reach in ("previous", "all"):
        hidden = states(models[reach], whole)[0]
        for side, found in zip(sides, hidden[3:].split(3), strict=True):
            alone = states(models[reach], batch_of((*base, *side)))[0]
            torch.testing.assert_close(torch.cat([hidden[:3], found]), alone, atol=FP32, rtol=FP32)
    first, second, own = [1, 1, 1, 0, 0, 0, 0, 0], [0, 0, 0, 1, 1, 1, 0, 0], [0, 0, 0, 0, 0, 0, 1, 1]
    assert reads(models["next"], whole) == [first, first, [0] * 8, second, second, [0] * 8, own, own, [0] * 8]


def test_text_without_media_in_a_batch_with_media() -> None:
    """Fails when `feed_forward` does not change such a row as the reference does, or changes a batch of text alone."""
    skip, run = gated(), gated(text_only="feed_forward")
    text = batch_of(ROWS[2])
    alone = states(skip, text)[0]
    assert torch.equal(states(run, text)[0], alone)
    assert (states(run, batch_of(*ROWS))[2, :4] - alone).abs().amax(1).min() > 1e-3
    torch.testing.assert_close(states(run, batch_of(*ROWS))[0], states(skip, batch_of(*ROWS))[0])


def test_placement_augmentation_tosses_a_coin_in_training_alone() -> None:
    """Fails when training batches always have one reach, a frozen fusion never has the other, or answers toss too."""
    model = gated(media="next", placement_augmentation=True)
    set_trainable(model, ["bridges.*"])
    whole = batch_of(ROWS[0])
    seen = {mode: set[str]() for mode in (True, False)}
    for mode in seen:
        model.train(mode)
        contexts: list[Any] = [model.prepared(whole)[1] for _ in range(20)]
        seen[mode] = {context.reach for context in contexts}
    assert seen == {True: {"next", "previous"}, False: {"next"}}


def test_a_step_moves_every_tensor_of_the_blocks() -> None:
    """Fails when a tensor of the blocks or of a resampler gets no gradient through the frozen language model."""
    model = gated()
    set_trainable(model, ["fusion.*", "bridges.*"])
    model.train()
    model(batch_of(*ROWS)).total.backward()
    still = [name for name, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert still == []


def test_other_numbers_of_items_than_slots_are_an_error(models: dict[str, ChatModel]) -> None:
    """Fails when an item without a position, or a position without an item, is read as if nothing were wrong."""
    whole = batch_of(ROWS[0])
    twice = {"image": whole.media["image"].repeat(2, 1, 1, 1)}  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(DataError, match="image: 2 media items for the slots of 1: more items than slots"):
        models["next"](replace(whole, media=twice))
    with pytest.raises(DataError, match="image: 0 media items for the slots of 1: more slots than items"):
        models["next"](replace(whole, media={}))


def test_a_language_model_without_layers_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails when blocks that have no layer to stand before end in a traceback."""
    monkeypatch.setattr(causal_lm, "decoder_layers", lambda lm: decoder_layers(SimpleNamespace(
        config=lm.config, base_model=torch.nn.Identity())))  # fmt: skip
    (found,) = problems_of()
    assert found.startswith("model.fusion: SimpleNamespace: no decoder layers found")


class ReadValues(TorchDispatchMode):
    """Counts the values that the host waits for."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_a_step_does_not_wait_for_the_device(models: dict[str, ChatModel]) -> None:
    """Fails when the layout of the media is read from the device although the batch knows it, or differs then."""
    model, whole = models["previous"], batch_of(*ROWS)
    tokens, width = model.media_tokens(whole.media), whole.ids.shape[1]
    known = {name: tuple((slots[:, 0] // width).tolist()) for name, slots in whole.media_slots.items()}
    for batch, expected in ((whole, 1), (replace(whole, media_rows=known), 0)):
        embeds = model.language.embed(batch.ids)
        with ReadValues() as read:
            context: Any = model.fusion.prepare(embeds, tokens, batch)[1]
        assert read.count == expected
        assert context.tokens.shape == (4, 5, 24) and context.num_tokens.tolist() == [3, 5, 0, 3]
    one = batch_of(ROWS[1])
    with ReadValues() as read:
        model.fusion.prepare(model.language.embed(one.ids), model.media_tokens(one.media), one)
    assert read.count == 0


@pytest.mark.parametrize(("trained", "dtypes"), [(["language.*"], {}), (["bridges.*"], {"fusion": torch.bfloat16})])
def test_frozen_blocks_read_states_of_any_dtype(trained: list[str], dtypes: dict[str, torch.dtype]) -> None:
    """Fails when a block that is stored in bf16 cannot read the fp32 states of a language model that trains, or its
    gates are rounded: all it adds would be off by up to 0.4 %."""
    model, run = gated(gate=0.7), torch.float32 if dtypes else torch.bfloat16
    set_trainable(model, trained)
    place_model(model.train(), "cpu", run, dtypes)
    stored = {name.removeprefix("layers.1."): p.dtype for name, p in model.fusion.named_parameters()}
    assert {name for name, dtype in stored.items() if dtype == torch.bfloat16} == {
        "attention.to_q.weight", "attention.to_kv.weight", "attention.to_out.weight", "feed_forward.up.weight",
        "feed_forward.down.weight",
    }  # fmt: skip
    exact = gated(gate=0.7)(batch_of(*ROWS)).total
    torch.testing.assert_close(model(batch_of(*ROWS)).total, exact, rtol=0.02, atol=0)


def problems_of(**changes: Any) -> list[str]:
    with pytest.raises(ConfigError) as error:
        tiny_model(**{**PARTS, "fusion": GATED, **changes})
    return [f"{one.path}: {one.message}" for one in error.value.problems]


def test_settings_that_cannot_be_are_reported() -> None:
    """Fails when a wrong setting ends in a traceback or passes."""
    (found,) = problems_of(fusion={**GATED, "every": 3})
    assert found.startswith("model.fusion: every: 3, but the language model has 2 decoder layers")
    (found,) = problems_of(fusion={**GATED, "media": "all", "placement_augmentation": True})
    assert "chooses between next and previous, but media is all" in found
    (found,) = problems_of(fusion={**GATED, "token": {"image": "<image>", "video": "", "audio": "<image>"}})
    assert found.startswith("fusion.token.video: is empty")
    tokens = {"image": "<image>", "video": "<image>", "audio": "<image>", "vidoe": "<image>"}
    assert problems_of(fusion={**GATED, "token": tokens}) == ["fusion.token.vidoe: is a token of no modality"]
    found = problems_of(fusion={**GATED, "token": {"image": "<image>"}})
    assert found == [f"fusion.token: has none for {one}, which has a route" for one in ("video", "audio")]


def test_blocks_are_recomputed_one_by_one() -> None:
    """Fails when activation checkpointing of `fusion` misses the blocks, or media are lost in the backward
    pass."""
    gradients = []
    for patterns in ([], ["fusion", "language", "bridges.*"]):
        model = gated()
        set_trainable(model, ["fusion.*", "bridges.*"])
        lines = checkpoint_activations(model.train(), patterns)
        assert ("fusion: activations are recomputed in 1 layer" in lines) == bool(patterns)
        model(batch_of(*ROWS)).total.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=FP32, rtol=FP32)


def test_a_step_is_simulated_without_memory() -> None:
    """Fails when the memory of a step cannot be planned, because the layers need values."""
    model = gated(placement_augmentation=True)
    set_trainable(model, ["fusion.*"])
    shape = PlannedBatch(rows=4, length=40, points=20, media={"image": (4, 3, 28, 28), "audio": (4, 1, 32, 32)})
    parts = simulated(model.to("meta"), shape, torch.float32).parts
    assert parts["gradients"] == 4 * sum(p.numel() for p in model.fusion.parameters())
    assert parts["activations: language"] > 0


@pytest.mark.parametrize("trained", [["fusion.*"], ["bridges.*"]], ids=["trained", "frozen"])
def test_blocks_in_a_language_model_in_bf16(trained: list[str]) -> None:
    """Fails when blocks, trained in fp32 or frozen in bf16, break the dtype of the language model or lose precision."""
    model = gated()
    expected = model(batch_of(*ROWS)).total.detach()
    set_trainable(model, trained)
    load_weights(model, "cpu", torch.bfloat16)
    total = model(batch_of(*ROWS)).total
    total.backward()
    torch.testing.assert_close(total.detach(), expected, atol=0.0, rtol=0.05)
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize(("architecture", "reach"), [("llama", "previous"), ("gpt2", "next"), ("qwen2", "all")])
def test_conversations_join_and_leave_with_their_media(architecture: str, reach: str) -> None:
    """Fails when a running answer reads the media of a conversation that joins or left, or none of its own; also for
    text alone, with and without a cache of an earlier turn, at every step of another one."""
    model = gated(architecture, media=reach, gate=2.0)
    check_admission(model, [*ROWS, *TEXTS])


def test_text_alone_stays_as_it_is_beside_media() -> None:
    """Fails when the feed-forward part, which changes text in the reference's batches, changes who joins one."""
    check_admission(gated(text_only="feed_forward", gate=2.0), [*ROWS, *TEXTS])


def test_others_are_answered_within_a_beam_search() -> None:
    """Fails when a beam search reads the media of those who are answered between its steps, or they read its own."""
    model = gated(gate=2.0)
    beams = replace(SIX, num_beams=2)
    for asked, beside in ((TEXTS[1], ROWS[0]), (ROWS[1], TEXTS[0]), (ROWS[0], ROWS[1])):
        expected, other = model.generate(batch_of(asked), beams), model.generate(batch_of(beside), SIX)
        decoding = model.new_decoding()
        decoding.admit(model.prompts(batch_of(beside)), SIX)
        growing = model.start_generation(batch_of(asked), beams, between=lambda it=decoding: bool(it.step()) and False)
        growing.step()
        while not decoding.is_done:
            decoding.step()
        assert (growing.answers, decoding.answers) == (expected, other)
