"""Multimodal-GPT's template: sections, rounds, what is supervised, and what does not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from chatbridge.conversation.layout import Layout
from chatbridge.conversation.messages import Media, Message, Text, assistant, user
from chatbridge.conversation.templates import build_template
from chatbridge.conversation.templates.mmgpt import ALPACA
from chatbridge.conversation.tokenizer import Tokenizer
from tests.helpers.supervised_runs import supervised_runs

IMAGE, AUDIO = Media("image", "i.jpg"), Media("audio", "a.wav")
ADDED = ("<|endofchunk|>", "<image>", "<PAD>")
FOLDER = Path(__file__).parents[1] / "fixtures" / "tiny_llama_tokenizer"
TWO = (user(IMAGE, "What is this?"), assistant("A red circle."), user("And now?"), assistant("A siren."))


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_pretrained(FOLDER, 400, ADDED)


def layout_of(tokenizer: Tokenizer, **settings: Any) -> Layout:
    ids = dict.fromkeys(("image", "audio"), tokenizer.added_ids["<image>"])
    return Layout(build_template("mmgpt", **settings), tokenizer, {"image": 1, "audio": 1}, slot_ids=ids)


def test_rounds_are_between_their_own_begin_and_end_tokens(tokenizer: Tokenizer) -> None:
    """Fails when a label or an inner <s> is supervised, an </s> is not, or a round misses either."""
    layout = layout_of(tokenizer)
    row = layout.training_sequence(TWO)
    assert [row.ids.count(one) for one in (tokenizer.bos_id, tokenizer.eos_id)] == [2, 2]
    assert row.ids[0] == tokenizer.bos_id and row.ids[-1] == tokenizer.eos_id
    assert supervised_runs(layout, TWO) == ["A▁red▁circle.</s>", "A▁siren.</s>"]
    first = Message("assistant", (Text("A red circle."),), supervised=False)
    assert supervised_runs(layout, (TWO[0], first, *TWO[2:])) == ["A▁siren.</s>"]


def test_line_breaks_beside_an_image_have_no_tokens(tokenizer: Tokenizer) -> None:
    """Fails when the image is not between its label and the next one, as the slow tokenizer wrote it."""
    row = layout_of(tokenizer).training_sequence(TWO)
    (slot,) = row.media_slots
    assert row.ids[slot.start] == tokenizer.added_ids["<image>"]
    before = tokenizer.encode(f"{ALPACA}\n\n### Image:")
    after = tokenizer.encode("### Instruction:\nWhat is this?\n\n### Response:\nA red circle.")
    assert row.ids[: slot.start] == [tokenizer.bos_id, *before]
    assert row.ids[slot.start + 1 :][: len(after)] == after


def test_sections_of_media_precede_the_instruction() -> None:
    """Fails when a turn's media stay inside its text, share a section across modalities, or a text form has one."""
    template = build_template("mmgpt")
    text = template.render((user("This", IMAGE, "or that?", IMAGE, AUDIO),), reply=True, placeholder="<x>")
    sections = "### Image:\n<x><x>\n\n### Audio:\n<x>\n\n### Instruction:\nThis or that?\n\n### Response:\n"
    assert text == f"<s>{ALPACA}\n\n{sections}"
    assert template.render((user("Hi"),), reply=True) == f"<s>{ALPACA}\n\n### Instruction:\nHi\n\n### Response:\n"
    assert template.render((user(IMAGE),), reply=True) == f"<s>{ALPACA}\n\n### Image:\n<query>\n\n### Response:\n"
    own = (Message("system", (Text("Be brief."),)), user("Hi"))
    assert template.render(own, reply=True) == "<s>Be brief.\n\n### Instruction:\nHi\n\n### Response:\n"


def test_a_prompt_is_one_text_or_the_training_form(tokenizer: Tokenizer) -> None:
    """Fails when earlier answers of the released prompt have </s>, or those of the training form do not."""
    chat = TWO[:3]
    released = layout_of(tokenizer).prompt(chat)
    assert tokenizer.eos_id not in released.ids and released.ids.count(tokenizer.bos_id) == 1
    layout = layout_of(tokenizer, prompt="training")
    prompt, whole = layout.prompt(chat).ids, layout.training_sequence(TWO)
    assert whole.ids[: len(prompt)] == prompt
    assert min(at for at in whole.supervised() if at >= len(prompt) - 1) == len(prompt)
    one = TWO[:1]  # without earlier answers both are alike
    assert layout.prompt(one).ids == layout_of(tokenizer).prompt(one).ids


def test_a_round_that_is_too_long_loses_its_end(tokenizer: Tokenizer) -> None:
    """Fails when a cut answer keeps its </s>, the limit counts another round, or a cut is not counted."""
    whole = layout_of(tokenizer).training_sequence(TWO)
    ends = [at for at, one in enumerate(whole.ids) if one == tokenizer.eos_id]
    row = layout_of(tokenizer, max_round_tokens=ends[0]).training_sequence(TWO)
    assert row.ids == whole.ids[: ends[0]] + whole.ids[ends[0] + 1 :]
    assert (row.cut_tokens, row.num_cut, row.cut_turns) == (1, 1, 0)
    assert layout_of(tokenizer, max_round_tokens=ends[0] + 1).training_sequence(TWO).ids == whole.ids
    with pytest.raises(ValueError, match=r"precede the first answer and max_round_tokens is 60: no token .* fits"):
        layout_of(tokenizer, max_round_tokens=60).training_sequence((user("How? " * 60), assistant("So.")))
    with pytest.raises(ValueError, match="the media of a turn begin after position .* do not fit"):
        layout_of(tokenizer, max_round_tokens=20).training_sequence(TWO)
    unlimited = layout_of(tokenizer, max_round_tokens=None).training_sequence((user("How? " * 600), assistant("So.")))
    assert len(unlimited) > 600


def test_an_answer_begins_after_the_last_label_of_a_response(tokenizer: Tokenizer) -> None:
    """Fails when `answer: last` keeps what precedes the label, or `whole` drops it."""
    ids = tokenizer.encode("No.\n\n### Response:\nYes.")
    assert layout_of(tokenizer).finish(ids) == "Yes."
    assert layout_of(tokenizer, answer="whole").finish(ids) == "No.\n\n### Response:\nYes."
    assert layout_of(tokenizer).stop_ids == ((tokenizer.eos_id,),)
