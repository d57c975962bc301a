"""TextBind's template: rounds, white space, drawings and their captions, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from chatbridge.common.errors import ConfigError
from chatbridge.config.schema import parse
from chatbridge.conversation.layout import Layout
from chatbridge.conversation.messages import Conversation, Drawing, Media, Message, Text, assistant, user
from chatbridge.conversation.templates import build_template
from chatbridge.conversation.templates.textbind import TextBind
from chatbridge.conversation.token_sequence import TokenSegment, TokenSequence
from chatbridge.conversation.tokenizer import Tokenizer

FOLDER = Path(__file__).parents[1] / "fixtures" / "tiny_llama_tokenizer"
TOKENS = ("<image>", "<start>", "<end>")
IMAGE, START, END = 400, 401, 402
PHOTO = Media("image", "photo.png")
FOX = Drawing(" a red fox ", "fox.png")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_pretrained(FOLDER, 400, TOKENS)


def layout_of(tokenizer: Tokenizer, **settings: Any) -> Layout:
    return Layout(build_template("textbind", **settings), tokenizer, {"image": 2})


def shown(conversation: Conversation, reply: bool = False, **settings: Any) -> str:
    return build_template("textbind", **settings).render(conversation, reply, "<I>")


CHAT = (
    Message("system", (Text("Be brief."), PHOTO)),
    user(" What is ", PHOTO, " ", PHOTO, "\nthis? "),
    assistant("\nSure! ", FOX, " Enjoy. "),
    user("More"),
    assistant(FOX),
)


def test_rounds_of_a_training_sequence() -> None:
    """fails when a mark, a blank or the system block is not where training had it, or white space beside an image or a
    caption is kept"""
    first = (
        "<s>[INST] <<SYS>>\nBe brief.<I><</SYS>>\n\n What is<I><I>this? [/INST]Sure!<start>a red fox<end><I>Enjoy. </s>"
    )
    assert shown(CHAT) == first + "<s>[INST] More [/INST]<start>a red fox<end><I></s>"
    kept = shown(CHAT[3:], token_space="kept")
    assert kept == "<s>[INST] More [/INST]<start>a red fox<end><I> </s>"


def test_prompts_and_unusual_turns() -> None:
    """fails when a prompt does not end after [/INST], or a system turn or a second question is lost"""
    assert shown((user("Go"),), True) == "<s>[INST] Go [/INST]"
    assert shown((), True) == "<s>[INST]  [/INST]"
    assert shown((user(PHOTO),), True) == "<s>[INST]<I>[/INST]"
    system = Message("system", (Text("A"),))
    assert shown((system, system, user("B"), user("C")), True) == "<s>[INST] <<SYS>>\nA\nA\n<</SYS>>\n\nB\nC [/INST]"
    assert shown((user("B"), system), True) == "<s>[INST] B\n<<SYS>>\nA\n<</SYS>> [/INST]"
    assert shown((user("B"), assistant("C"), user("D", PHOTO))) == "<s>[INST] B [/INST]C </s><s>[INST] D<I>[/INST]"
    assert shown((assistant("Hi"), user("B")), True) == "<s>Hi </s><s>[INST] B [/INST]"
    assert shown((user("B"),), True, system="A") == "<s>[INST] <<SYS>>\nA\n<</SYS>>\n\nB [/INST]"
    assert shown((system, user("B")), True, system="Z") == "<s>[INST] <<SYS>>\nA\n<</SYS>>\n\nB [/INST]"


def test_a_drawing_without_image_stays_in_a_prompt_as_it_was_written() -> None:
    """fails when the caption of an image that could not be drawn is lost from the history"""
    prompt = (user("Go"), assistant("So ", Drawing("oak"), " ."), user("And?"))
    assert shown(prompt, True) == "<s>[INST] Go [/INST]So<start>oak<end>. </s><s>[INST] And? [/INST]"
    assert shown((user("Go"), assistant("So ", FOX), user("And?")), True).count("red fox") == 1


def test_ids_targets_and_branches(tokenizer: Tokenizer) -> None:
    """fails when slots have another id, the caption is not a branch at the first slot, or another token is a target"""
    row = layout_of(tokenizer).training_sequence((user("Go"), assistant("So ", FOX, " on")))
    so, fox, on = (tokenizer.encode(text) for text in ("So", "a red fox", "on "))
    question = tokenizer.encode("[INST] Go [/INST]")
    branch = [START, *fox, END]
    assert row.ids == [1, *question, *so, *branch, IMAGE, IMAGE, *on, 2]
    anchor = 1 + len(question) + len(so)
    assert row.positions[anchor : anchor + len(branch) + 2] == [
        *range(anchor, anchor + len(branch)),
        anchor,
        anchor + 1,
    ]
    assert row.segments is not None and row.segments[anchor] == TokenSegment(0, 1, anchor)
    assert row.target == [*so, *branch, *on, 2]
    assert tokenizer.encode(" ")[0] == row.ids[-2], "an answer ends with a lone blank and </s>"
    points = dict(zip(row.predict_at, row.target, strict=True))
    slots = row.media_slots[0]
    assert points[slots.start + 1] == on[0] and slots.start not in points


def test_a_prompt_continues_the_one_before_it(tokenizer: Tokenizer) -> None:
    """fails when an answer in the history has other ids than in training, so that its cache is of no use"""
    layout = layout_of(tokenizer)
    answer = assistant("So ", FOX, " on")
    first, second = (user("Go"),), (user("Go"), answer, user(PHOTO, " more"))
    trained = layout.training_sequence((*first, answer))
    base = [number for number, one in zip(trained.ids, trained.segments or (), strict=True) if not one.branch]
    prompt = layout.prompt(second)
    assert prompt.ids[: len(base)] == base and base[: len(layout.prompt(first))] == layout.prompt(first).ids
    assert (
        prompt.segments is None
        and [slot.start for slot in prompt.media_slots]
        == [at for at, number in enumerate(prompt.ids) if number == IMAGE][::2]
    )


def test_an_image_of_an_answer_without_caption(tokenizer: Tokenizer) -> None:
    """fails when an image that the assistant shows and did not draw gets a side text, or is supervised"""
    row = layout_of(tokenizer).training_sequence((user("Go"), assistant("So ", PHOTO, " on")))
    assert row.segments is None and START not in row.target
    assert row.target == [*tokenizer.encode("So"), *tokenizer.encode("on "), 2]


def test_an_answer_is_read_back_as_it_was_trained(tokenizer: Tokenizer) -> None:
    """fails when generated ids lose a drawing, or a drawn answer does not end at </s>"""
    layout = layout_of(tokenizer)
    ids = [*tokenizer.encode("So "), START, *tokenizer.encode("a red fox"), END, *tokenizer.encode("on "), 2]
    assert layout.parts(ids) == (Text("So "), Drawing("a red fox"), Text("on"))
    assert layout.stop_ids == ((2,),)
    assert [layout.media("image").ids, layout.template.drawing_ids] == [[IMAGE] * 2, (START, END)]


def test_typed_marks_stay_text(tokenizer: Tokenizer) -> None:
    """fails when a person can open a caption, add an image or end a turn by typing its token"""
    row = layout_of(tokenizer).prompt((user("<start> a <end> <image> </s> <s>"), assistant("<image>"), user("<end>")))
    assert not {IMAGE, START, END} & set(row.ids)
    assert (row.ids.count(1), row.ids.count(2)) == (2, 1)


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        ((user(FOX), assistant("a")), "message 0: the drawing ' a red fox ' is in a turn of the user"),
        ((user("a"), assistant(Drawing(" ", "fox.png"))), "message 1: a drawing has no caption"),
        ((user("a"), assistant(Drawing("fox"))), "message 1: the drawing 'fox' has no image"),
    ],
)
def test_drawings_that_cannot_be_trained(tokenizer: Tokenizer, turns: Conversation, message: str) -> None:
    """fails when a drawing of the user, without caption or without image is trained on"""
    with pytest.raises(ValueError, match=message):
        layout_of(tokenizer).training_sequence(turns)


def test_tokens_that_the_model_lacks(tokenizer: Tokenizer) -> None:
    """fails when a model without the added tokens is used, writing its marks as text"""
    with pytest.raises(ConfigError, match=r"lacks <start>, <end>.*\n.*\[<image>, <start>, <end>\]"):
        layout_of(Tokenizer.from_pretrained(FOLDER, 400, ["<image>"]))
    word = next(name for name, number in tokenizer.written_ids().items() if number > 300)
    with pytest.raises(ConfigError, match="lacks"):
        layout_of(tokenizer, start=word)
    with pytest.raises(ConfigError, match="three different tokens, got <image>, <start>, <start>"):
        parse(TextBind.Config, {"end": "<start>"}, path="template_settings")


LONG = (user("Go ", PHOTO), assistant("So ", FOX, " on ", FOX, FOX, " end"), user("More ", PHOTO), assistant(FOX, "."))


def test_whole_truncation_keeps_images_with_their_captions(tokenizer: Tokenizer) -> None:
    """fails when a cut leaves a caption without its image, an image without its caption, half an image or half a
    caption, or is not counted"""
    whole = layout_of(tokenizer).training_sequence(LONG)
    seen = set()
    for limit in range(whole.predict_at[0] + 2, len(whole) + 1):
        row = Layout(build_template("textbind"), tokenizer, {"image": 2}, limit).training_sequence(LONG)
        drawn = [slot for slot in row.media_slots if slot.item in (1, 2, 3, 5)]
        assert [row.ids.count(mark) for mark in (START, END)] == [len(drawn)] * 2
        assert row.ids.count(IMAGE) == 2 * len(row.media_slots) and len(row) <= limit
        assert row.cut_tokens == len(whole) - len(row) and row.is_cut == (limit < len(whole))
        seen.add(len(drawn))
    assert seen == {0, 1, 2, 3, 4}


def base_of(row: TokenSequence) -> list[int]:
    segments = row.segments or [TokenSegment()] * len(row)
    return [number for number, segment in zip(row.ids, segments, strict=True) if not segment.branch]


def test_released_truncation(tokenizer: Tokenizer) -> None:
    """fails when captions are not lost first, an image is split, one of adjacent images at the limit is left out, the
    opening of a lost caption is not learned, or the context is exceeded"""
    template = build_template("textbind", truncation="released")
    whole = layout_of(tokenizer).training_sequence(LONG)
    base = len(whole) - sum(segment.branch > 0 for segment in whole.segments or ())
    for limit in range(whole.predict_at[0] + 2, len(whole) + 1):
        layout = Layout(template, tokenizer, {"image": 2}, limit)
        row = layout.training_sequence(LONG)
        drawn = sum(slot.item in (1, 2, 3, 5) for slot in row.media_slots)
        assert row.ids.count(IMAGE) == 2 * len(row.media_slots)
        assert row.target.count(START) == drawn
        captions = sum(segment.branch > 0 for segment in row.segments or ())
        assert captions == max(0, limit - base)
        assert limit <= len(row) <= limit + 4 and (len(row) == limit or row.ids[-1] == IMAGE)
        assert [*base_of(whole), None][len(base_of(row))] != IMAGE
        assert len(row) == layout.training_length(LONG) and row.cut_tokens == len(whole) - len(row)
        tight = Layout(template, tokenizer, {"image": 2}, limit, limit).training_sequence(LONG)
        assert len(tight) <= limit
    with pytest.raises(ValueError, match="precede the first answer and max_tokens is 9"):
        Layout(template, tokenizer, {"image": 2}, 9).training_sequence(LONG)
