"""Contract of fusions with layers inside the language model, tested with a small one in a plugin."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from chatbridge.common.errors import ConfigError
from chatbridge.common.types import Batch, Segments
from chatbridge.config.constraints import Choice
from chatbridge.config.registry import add_plugins
from chatbridge.experiment.media_plan import slot_tokens
from chatbridge.models.chat_model import ChatModel
from chatbridge.models.fusion import FUSIONS
from chatbridge.models.language import causal_lm
from chatbridge.models.language._hf_modules import decoder_layers
from chatbridge.models.loading import load_weights
from chatbridge.models.trainable import set_trainable
from tests.helpers.fused_rows import (
    ARCHITECTURES,
    ROWS,
    SIX,
    TURNS,
    assert_asked_further,
    batch_of,
    further,
    read_again,
    states,
)
from tests.helpers.tiny_languages import REREAD, RUNNING
from tests.helpers.tiny_languages import SIZES as TINY
from tests.helpers.tiny_models import tiny_model
from tests.helpers.tolerances import FP32


@pytest.fixture(autouse=True)
def plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FUSIONS, "packages", [*FUSIONS.packages])
    add_plugins([FUSIONS], ["lab_of_fusions"])


def fused(architecture: str = "llama", gate: float = 1.0, **changes: Any) -> ChatModel:
    language = {"name": "causal_lm", "architecture": ARCHITECTURES[architecture]}
    fusion = {"name": "toy_cross_attention", "gate": gate}
    return tiny_model(**{"language": language, "fusion": fusion, "added_tokens": ["<image>"], **changes}).eval()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_fusion_changes_states_and_no_names(architecture: str) -> None:
    """Fails when layers among the decoder's rename a tensor of the language model, do nothing, or do something while
    their gates are closed."""
    model, closed = fused(architecture), fused(architecture, gate=0.0)
    inline = tiny_model(language={"name": "causal_lm", "architecture": ARCHITECTURES[architecture]})
    ours = [name for name in model.state_dict() if name.startswith("language.")]
    assert ours == [name for name in inline.state_dict() if name.startswith("language.")]
    assert {name.split(".")[0] for name in model.state_dict()} - {"fusion", "added_tokens"} == {
        name.split(".")[0] for name in inline.state_dict()
    }
    whole = batch_of(*ROWS)
    text = model.language(model.language.embed(whole.ids), whole.positions)
    torch.testing.assert_close(states(closed, whole), text)
    seen = states(model, whole) - text
    assert seen[0, 2:6].abs().amax(-1).min() > 1e-3, "positions from the item on do not see it"
    assert seen[0, :2].abs().max() == 0 and seen[2, :4].abs().max() == 0, (
        "a position sees an item that is not before it"
    )


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_each_position_sees_the_latest_item_before_it(architecture: str) -> None:
    """Fails when an item is seen before its slot, or directly after the next one's."""
    model = fused(architecture)
    whole = batch_of(ROWS[1])
    before = states(model, whole)
    other = replace(whole, media={**whole.media, "audio": whole.media["audio"] + 1})
    changed = (states(model, other) - before).abs().amax(-1)[0]
    assert changed[:3].max() == 0 and changed[3:].min() > 1e-4
    seen = model.fusion.prepare(*_prepared(model, whole))[1].mask[0]
    assert seen.sum(1).tolist() == [0, 3, 3, 3, 3, 3, 3, 3] and not (seen[2] & seen[3]).any()


def _prepared(model: ChatModel, whole: Batch) -> tuple[Tensor, dict[str, Tensor], Batch]:
    return model.language.embed(whole.ids), model.media_tokens(whole.media), whole


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_rows_do_not_depend_on_their_batch(architecture: str) -> None:
    """Fails when a row has other states or losses in a batch with longer sequences, or with sequences that have more
    media or none."""
    model = fused(architecture)
    together = states(model, batch_of(*ROWS))
    for number, row in enumerate(ROWS):
        torch.testing.assert_close(together[number, : len(row)], states(model, batch_of(row))[0], atol=FP32, rtol=FP32)
    losses = [model(batch_of(row)).total for row in ROWS]
    torch.testing.assert_close(model(batch_of(*ROWS)).total, torch.stack(losses).sum(), atol=FP32, rtol=FP32)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_step_moves_the_fusion_and_the_added_token_alone(architecture: str) -> None:
    """Fails when a tensor of the fusion gets no gradient through the frozen language model, or anything else moves."""
    model = fused(architecture)
    set_trainable(model, ["fusion.*", "added_tokens.embedding.*"])
    model.train()
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    model(batch_of(*ROWS)).total.backward()
    optimizer.step()
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    tied = {"added_tokens.head.<image>"} if architecture == "gpt2" else set()
    fusion = {name for name in before if name.startswith("fusion.")}
    assert moved == fusion | {"added_tokens.embedding.<image>"} | tied


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_layers_that_are_repeated_in_the_backward_pass_see_the_same(architecture: str) -> None:
    """Fails when gradient checkpointing of the language model loses the context of the layers."""
    gradients = []
    for is_checkpointed in (False, True):
        model = fused(architecture)
        set_trainable(model, ["fusion.*", "language.*"])
        model.train()
        if is_checkpointed:
            lm = model.language.lm
            getattr(lm, "activation_checkpointing_enable", lm.gradient_checkpointing_enable)()
        model(batch_of(*ROWS)).total.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=FP32, rtol=FP32)


def test_packed_rows_see_their_own_media() -> None:
    """Fails when a conversation attends to the media of the one packed before it."""
    model = fused()
    first, second = ROWS[0], ROWS[2]
    packed = batch_of((*first, *second))
    numbers = torch.tensor([[0] * len(first) + [1] * len(second)])
    positions = torch.tensor([[*range(len(first)), *range(len(second))]])
    segments = Segments(numbers, torch.zeros_like(numbers), torch.full_like(numbers, packed.ids.shape[1]))
    hidden = states(model, replace(packed, positions=positions, segments=segments))[0]
    for found, row in ((hidden[: len(first)], first), (hidden[len(first) :], second)):
        torch.testing.assert_close(found, states(model, batch_of(row))[0], atol=FP32, rtol=FP32)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_cached_answers_equal_uncached_ones(architecture: str) -> None:
    """Fails when a token decoded with a cache, alone or among sequences of different lengths that end at different
    times, differs
    from one that was decoded from the whole sequence."""
    model = fused(architecture)
    expected = [read_again(model, row) for row in ROWS]
    assert [model.generate(batch_of(row), SIX)[0] for row in ROWS] == expected
    assert model.generate(batch_of(*ROWS), SIX) == expected
    ends = (2, 6, 1, 4)  # the first and third row leave before the others
    options = [replace(SIX, max_new_tokens=end) for end in ends]
    assert model.generate(batch_of(*ROWS), options) == [one[:end] for one, end in zip(expected, ends, strict=True)]
    blind = fused(architecture, gate=0.0)
    assert [read_again(blind, row) for row in ROWS] != expected, "media change no answer"


def test_beams_see_the_media_of_their_row() -> None:
    """Fails when the beams of a prompt see the media of another prompt, none, or always those of the first
    positions."""
    model, options = fused(), replace(SIX, num_beams=3)
    together = model.generate(batch_of(*ROWS), options)
    assert together == [model.generate(batch_of(row), options)[0] for row in ROWS]
    assert together != fused(gate=0.0).generate(batch_of(*ROWS), options)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_further_turns_see_all_media_of_their_row(architecture: str) -> None:
    """Fails when a kept cache forgets the media of an earlier turn, or a row without a new item loses its last one."""
    model = fused(architecture)
    cache = model.language.new_cache()
    first = further(model, cache, ROWS)
    cache.crop(cache.length - 2)  # rows of different lengths: each loses its last two tokens
    assert_asked_further(model, cache, first, TURNS, unread=3)


@pytest.mark.parametrize("family", ["rwkv", "jamba"])
def test_layers_that_read_again_or_by_columns_see_what_each_column_sees(family: str) -> None:
    """Fails when a model without a cache shows its first columns the media of the last ones, or one with a recurrent
    state, which reads a further turn column by column, shows every column the whole turn."""
    sizes = {"model_type": family, **TINY, "initializer_range": 0.3, **{**RUNNING, **REREAD}[family]}
    model = fused(language={"name": "causal_lm", "architecture": sizes})
    cache = model.language.new_cache()
    (first,) = further(model, cache, ROWS[:1])
    assert list(first[len(ROWS[0]) :]) == read_again(model, ROWS[0])
    assert_asked_further(model, cache, [first], TURNS[:1], unread=1)


def test_a_crop_forgets_the_media_of_the_turn_that_is_taken_back() -> None:
    """Fails when a sequence continues with an item of a turn that was cropped from the cache."""
    model = fused()
    cache = model.language.new_cache()
    first = further(model, cache, ROWS[:1])
    length = cache.length
    for turn in (TURNS[0], TURNS[1], TURNS[2]):
        assert_asked_further(model, cache, first, [turn], unread=1)
        cache.crop(length)


def test_media_in_the_middle_of_an_answer_are_seen_from_there_on() -> None:
    """Fails when an item that is put into an answer is not visible to the following tokens, or changes the tokens
    before it."""
    model = fused()
    growing = model.start_generation(batch_of(ROWS[0]), SIX)
    for _ in range(3):
        growing.step()
    drawn = ("image", 7)
    model.append(growing, batch_of((drawn,)))
    answered = list(growing.answers[0])
    while not growing.is_done:
        growing.step()
    assert growing.answers[0] == [*answered, *read_again(model, (*ROWS[0], *answered, drawn), 3)]


def test_hooks_outlive_the_reading_of_weights(tmp_path: Path) -> None:
    """Fails when weights from a folder come in a new language model without the hooks of the fusion and the added
    tokens."""
    model = fused()
    model.language.lm.save_pretrained(tmp_path)
    read = fused(language={"name": "causal_lm", "weights": str(tmp_path)})
    load_weights(read)
    own = {name: value for name, value in model.state_dict().items() if not name.startswith("language.")}
    read.load_state_dict(own, strict=False)
    torch.testing.assert_close(states(read, batch_of(*ROWS)), states(model, batch_of(*ROWS)))


def test_a_frozen_language_model_in_bf16_takes_layers_in_fp32() -> None:
    """Fails when trainable layers or tokens lose their precision in a frozen language model, or break its dtype."""
    model = fused()
    expected = model(batch_of(*ROWS)).total.detach()
    set_trainable(model, ["fusion.*", "added_tokens.embedding.*"])
    load_weights(model, "cpu", torch.bfloat16)
    total = model(batch_of(*ROWS)).total
    total.backward()
    torch.testing.assert_close(total.detach(), expected, atol=0.0, rtol=0.05)  # bf16 has 3 digits, two layers deep
    trained = [p for p in model.parameters() if p.requires_grad]
    assert {p.grad.dtype for p in trained if p.grad is not None} == {torch.float32}
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in trained)


def test_a_model_can_be_copied_after_a_step() -> None:
    """Fails when a copy needs the tensors of the last context, or shares its layers with the original."""
    model = fused()
    model(batch_of(*ROWS))
    other = copy.deepcopy(model)
    with torch.no_grad():
        for layer in other.fusion.layers:
            layer.gate.zero_()
    assert other.fusion.shown is None
    assert not torch.equal(states(other, batch_of(*ROWS)), states(model, batch_of(*ROWS)))
    torch.testing.assert_close(states(other, batch_of(*ROWS)), states(fused(gate=0.0), batch_of(*ROWS)))


def test_a_language_model_whose_layers_cannot_be_found_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails when a fusion over such a model ends in a traceback, or the message has neither the setting nor the
    next step."""

    def without_lists(lm: Any) -> nn.ModuleList:
        return decoder_layers(SimpleNamespace(config=lm.config, base_model=nn.Identity()))

    monkeypatch.setattr(causal_lm, "decoder_layers", without_lists)
    with pytest.raises(ConfigError, match=r"no decoder layers found.*fusion: \{name: inline\}") as error:
        fused()
    assert [problem.path for problem in error.value.problems] == ["model.fusion"]
    tiny_model()  # which asks for none


def test_settings_that_a_fusion_refuses_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails when a ValueError of a fusion's constructor ends in a traceback, in a run or in `data check`."""

    def refuse(self: Any, config: Any, width: int) -> None:
        raise ValueError(f"3 heads do not divide the width {width}")

    part: Any = FUSIONS.get("toy_cross_attention")
    choice = Choice("toy_cross_attention", part.Config(), part)
    assert slot_tokens(choice, ["image"]) == {"image": "<image>"}
    monkeypatch.setattr(FUSIONS.get("toy_cross_attention"), "__init__", refuse)
    with pytest.raises(ConfigError, match="3 heads do not divide") as error:
        fused()
    assert [problem.path for problem in error.value.problems] == ["model.fusion"]
    assert slot_tokens(choice, ["image"]) == {}
