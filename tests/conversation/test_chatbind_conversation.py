"""ChatBind's templates: what is supervised, what survives, and which mistakes are refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from chatbridge.common.errors import ConfigError
from chatbridge.config.schema import parse
from chatbridge.conversation.layout import Layout
from chatbridge.conversation.messages import Conversation, Media, Message, Text, assistant, user
from chatbridge.conversation.templates import build_template
from chatbridge.conversation.tokenizer import Tokenizer
from chatbridge.experiment.prompt_segments import segments_of
from chatbridge.models.language.causal_lm import CausalLM
from tests.helpers.supervised_runs import supervised_runs
from tests.parity.token_sequences import labels_of

IMAGE, VIDEO, AUDIO = Media("image", "i.jpg"), Media("video", "v.mp4"), Media("audio", "a.wav")
ADDED = ("<im_patch>", "<im_start>", "<im_end>")
FOLDER = Path(__file__).parents[1] / "fixtures" / "tiny_llama_tokenizer"
LENGTHS = {"image": 1, "video": 1, "audio": 1}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_pretrained(FOLDER, 400, ADDED)


def layout_of(tokenizer: Tokenizer, version: str, **settings: Any) -> Layout:
    return Layout(build_template(f"chatbind_{version}", **settings), tokenizer, LENGTHS)


def supervised(tokenizer: Tokenizer, version: str, turns: Conversation, **settings: Any) -> list[str]:
    """The text of each supervised run of a training sequence."""
    return supervised_runs(layout_of(tokenizer, version, **settings), turns)


TWO = (user("What is this?", IMAGE), assistant("A red circle."), user("And now?"), assistant("A siren."))


def test_an_answer_is_supervised_with_what_ends_it_and_nothing_else(tokenizer: Tokenizer) -> None:
    """Fails when a label, a question or the blank of the next turn is supervised, or an end is not."""
    assert supervised(tokenizer, "v0", TWO) == ["▁A▁red▁circle.<0x0A>###", "▁A▁siren.<0x0A>###"]
    assert supervised(tokenizer, "v1", TWO) == ["▁A▁red▁circle.</s>", "▁A▁siren.</s>"]


def test_an_answer_that_is_not_supervised_is_written_alike(tokenizer: Tokenizer) -> None:
    """Fails when `supervised: false` changes the ids, or is ignored by one of the two label rules."""
    first = Message("assistant", (Text("A red circle."),), supervised=False)
    turns = (TWO[0], first, *TWO[2:])
    for version in ("v0", "v1"):
        for labels in ("corrected", "released"):
            layout = layout_of(tokenizer, version, labels=labels)
            assert layout.training_sequence(turns).ids == layout.training_sequence(TWO).ids
            assert not any("red" in run for run in supervised(tokenizer, version, turns, labels=labels))
            assert any("siren" in run for run in supervised(tokenizer, version, turns, labels=labels))


def test_every_image_of_a_sample_survives(tokenizer: Tokenizer) -> None:
    """Fails when only the last image has a slot, or two slots share a position."""
    turns = (user(IMAGE, "and", IMAGE, IMAGE, "differ?"), assistant("Yes."), user(VIDEO, "And this?"), assistant("No."))
    row = layout_of(tokenizer, "v0").training_sequence(turns)
    start, end = (tokenizer.added_ids[name] for name in ("<im_start>", "<im_end>"))
    assert [(slot.modality, slot.item) for slot in row.media_slots] == [
        ("image", 0), ("image", 1), ("image", 2), ("video", 3)
    ]  # fmt: skip
    assert all(row.ids[slot.start - 1] == start and row.ids[slot.start + 1] == end for slot in row.media_slots)
    assert len({slot.start for slot in row.media_slots}) == 4


def test_a_prompt_names_what_its_media_are(tokenizer: Tokenizer) -> None:
    """Fails when the automatic format is another than the released command's, or media do not follow the question."""
    template = build_template("chatbind_v0")
    for item, kind in ((IMAGE, "vision"), (VIDEO, "video"), (AUDIO, "audio")):
        text = template.render((user(item, "What is it?"),), reply=True)
        assert f"a large language and {kind} assistant" in text
        assert text.endswith("###Human: What is it?\n<im_start><query><im_end>###Assistant:")
    mixed = template.render((user(IMAGE, AUDIO, "Which?"),), reply=True)
    marked = "<im_start><query><im_end>"
    assert "vision assistant" in mixed and mixed.endswith(f"Which?\n{marked}{marked}###Assistant:")
    between = template.render((user("This", IMAGE, "or that?"),), reply=True)
    assert "Human: This\n<im_start><query><im_end>\nor that?###" in between
    for question, written in (("What? ", "What? \n<im_start>"), ("What?\n", "What?\n<im_start>")):
        assert written in template.render((user(IMAGE, question),), reply=True)


def test_the_training_format_can_be_the_prompt(tokenizer: Tokenizer) -> None:
    """Fails when a prompt of `prompt: training` is not the beginning of the training sequence of its answer."""
    for version in ("v0", "v1"):
        layout = layout_of(tokenizer, version, prompt="training")
        for known in (1, 3):
            prompt = layout.prompt(TWO[:known]).ids
            whole = layout.training_sequence(TWO[: known + 1])
            assert whole.ids[: len(prompt)] == prompt
            assert min(at for at in whole.supervised() if at >= len(prompt) - 1) == len(prompt)


def test_an_own_system_text_replaces_that_of_the_format(tokenizer: Tokenizer) -> None:
    """Fails when a system message is written beside the format's text, or read as special tokens."""
    own = (Message("system", (Text("Be brief</s>."),)), user("What is this?"))
    text = build_template("chatbind_v1").render(own, reply=True)
    assert text.startswith("Be brief</s>. USER: What is this?")
    ids = layout_of(tokenizer, "v1").prompt(own).ids
    assert tokenizer.eos_id not in ids
    assert "UW Madison" not in build_template("chatbind_v0", system="Short.").render(TWO[:1], reply=True)
    mpt = build_template("chatbind_v0", prompt="mpt").render(own, reply=True)
    assert mpt.startswith("<|im_start|>system\nBe brief</s>.<|im_end|><|im_start|>user\nWhat is this?")


def test_stops_are_those_of_the_format(tokenizer: Tokenizer) -> None:
    """Fails when an answer does not end at its separator, whether that is text or a token."""
    assert layout_of(tokenizer, "v0").finish(tokenizer.encode("A siren.\n### Human: no")) == "A siren."
    assert (tokenizer.eos_id,) in layout_of(tokenizer, "v1").stop_ids
    assert layout_of(tokenizer, "v1").template.stops == ()
    assert layout_of(tokenizer, "v0", prompt="mpt").template.stops == ("<|im_end|>",)


def test_the_released_rule_refuses_what_the_reference_masks_whole(tokenizer: Tokenizer) -> None:
    """Fails when a sample that the reference does not train on gets labels, or the message gives no reason."""
    odd = (user("Hi"), assistant("The model said ASSISTANT: yes"))
    v1 = layout_of(tokenizer, "v1", labels="released")
    with pytest.raises(ValueError, match="released label rule masks a conversation whose text contains 'ASSISTANT:'"):
        v1.training_sequence(odd)
    with pytest.raises(ValueError, match="text contains 'ASSISTANT:'"):
        v1.training_sequence((user("ASSISTANT: who?"), assistant("I.")))
    with pytest.raises(ValueError, match="masks a conversation that ends with a question"):
        v1.training_sequence((user("Hi"), assistant("Yes."), user("And?")))
    assert supervised(tokenizer, "v1", odd) != []
    assert v1.training_sequence((odd[1], user("Hi"), assistant("Yes."))).supervised()  # that turn is dropped


def test_missing_marks_are_refused() -> None:
    """Fails when a model without the added tokens trains on sequences without marks, silently."""
    bare = Tokenizer.from_pretrained(FOLDER, 400)
    with pytest.raises(ConfigError, match=r"(?s)<im_start> and <im_end> around media.*model\.added_tokens") as error:
        layout_of(bare, "v0")
    assert "<im_patch>" in str(error.value)
    row = layout_of(bare, "v0", start_end_tokens=False).training_sequence(TWO)
    assert len(row.media_slots) == 1


def test_settings_of_the_template_are_checked_in_the_yaml() -> None:
    """Fails when a misspelt setting or value is ignored, or reported without what is accepted."""

    def config(**given: Any) -> CausalLM.Config:
        return parse(CausalLM.Config, {"architecture": {"vocab_size": 50}, **given})

    with pytest.raises(ConfigError) as error:
        config(template="chatbind_v0", template_settings={"label": "released", "prompt": "multimodel"})
    said = str(error.value)
    assert "template_settings.label" in said and "labels" in said
    assert "template_settings.prompt" in said and "did you mean multimodal?" in said
    with pytest.raises(ConfigError, match="has no template"):
        config(template_settings={"labels": "released"})
    assert config(template="chatbind_v0", template_settings={"labels": "released"}).template_settings


@pytest.mark.parametrize("labels", ["corrected", "released"])
def test_a_preview_shows_what_is_supervised(tokenizer: Tokenizer, labels: str) -> None:
    """Fails when `data show` marks other text than the labels, or loses a mark of media."""
    layout = layout_of(tokenizer, "v0", labels=labels)
    found = segments_of(TWO, layout, reply=False)
    text = "".join("[M]" if one.modality else f"<{one.text}>" if one.supervised else one.text for one in found)
    assert "What is this?<im_start>[M]<im_end>" in text
    shown = "".join(one.text for one in found if one.supervised)
    row = layout.training_sequence(TWO)
    want = "".join(tokenizer.inner.convert_ids_to_tokens([row.ids[at] for at in sorted(row.supervised())]))
    assert shown.replace(" ", "") == want.replace("▁", "").replace("<0x0A>", "\n")


ASKED = "<im_start><im_patch><im_end>"
TURNS = [("Human", f"{ASKED}\nWhat is this?"), ("Assistant", "A red circle."), ("Human", "And now?"),
         ("Assistant", "A siren."), ("Human", "Sure?"), ("Assistant", "Yes.")]  # fmt: skip


def counted(tokenizer: Tokenizer, text: str) -> list[int]:
    """The ids of a text as the slow tokenizer gives them: no blanks beside marks, and a first token of its own."""
    parts = re.split(r"\s*(<im_start>|<im_patch>|<im_end>|</s>)\s*", text)
    known = {**tokenizer.added_ids, "</s>": tokenizer.eos_id}
    return [1, *(number for one in parts for number in ([known[one]] if one in known else tokenizer.encode(one)))]


def test_released_labels_by_counting_pieces(tokenizer: Tokenizer) -> None:
    """Fails when a released mask does not move by one token per turn (v0), or loses an answer or its end (v1)."""
    turns = (user(IMAGE, "What is this?"), *TWO[1:], user("Sure?"), assistant("Yes."))
    header = layout_of(tokenizer, "v0").template.config.training_system + "\n\n"
    pieces = [f"### {role}: {text}\n" for role, text in TURNS]
    ids = counted(tokenizer, header + "".join(pieces) + "### ")
    want, start = list(ids), len(counted(tokenizer, header))
    want[:start] = [-100] * start
    for (role, _), piece in zip(TURNS, pieces, strict=True):
        length = len(counted(tokenizer, piece))
        if role == "Human":
            want[start + 2 : start + length] = [-100] * len(want[start + 2 : start + length])
        start += length
    row = layout_of(tokenizer, "v0", labels="released").training_sequence(turns)
    assert len(row.ids) == len(ids) and labels_of(row) == want

    header = layout_of(tokenizer, "v1").template.config.training_system + " "
    rounds = [f"USER: {TURNS[at][1]} ASSISTANT: {TURNS[at + 1][1]}</s>" for at in (0, 2, 4)]
    ids, want = counted(tokenizer, header + "".join(rounds)), []
    for number, piece in enumerate(rounds):
        whole = header * (not number) + piece
        asked = len(counted(tokenizer, whole.partition("ASSISTANT:")[0] + "ASSISTANT: ")) - 2
        want += [-100] * (asked + (not number)) + counted(tokenizer, whole)[asked + 1 :]
    row = layout_of(tokenizer, "v1", labels="released").training_sequence(turns)
    assert len(row.ids) == len(ids) and labels_of(row) == want
