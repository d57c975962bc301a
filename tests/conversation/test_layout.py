"""Segments, supervision, cutting and answers, written out by hand; no reference files needed."""

from __future__ import annotations

import pickle
import random
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from chatbridge.conversation.layout import Layout, SegmentCache, TokenSequence
from chatbridge.conversation.messages import Conversation, Drawing, Media, Message, Text, assistant, media_parts, user
from chatbridge.conversation.spans import MediaSpan
from chatbridge.conversation.templates import TEMPLATES, build_template
from chatbridge.conversation.tokenizer import Tokenizer
from tests.parity.toy_tokenizers import CrcTokenizer

TOKENIZER = Path(__file__).parents[1] / "fixtures" / "tiny_llama_tokenizer"
LENGTHS = {"image": 4, "video": 4, "audio": 3}
IMAGE, VIDEO, AUDIO = Media("image", "a.jpg"), Media("video", "a.mp4"), Media("audio", "a.wav")
CHAT = (
    user(VIDEO, AUDIO, "What happens?"),
    assistant("A man plays drums."),
    user("Is it loud?"),
    assistant("Yes, very loud."),
)


def segments(name: str, conversation: Conversation, reply: bool = False, **options: object) -> list[str]:
    """Every span as text: "<image 0>" for media, "+..." for what is supervised."""
    spans = build_template(name, **options).spans(conversation, lambda text: [text], LENGTHS, reply)
    marks = [f"<{span.modality} {span.slot}>" if isinstance(span, MediaSpan) else "" for span in spans]
    words = [
        "" if isinstance(span, MediaSpan) else "+" * span.supervised + "".join(map(str, span.ids)) for span in spans
    ]
    return [mark + word for mark, word in zip(marks, words, strict=True)]


def chat_layout(max_tokens: int | None = None) -> Layout:
    return Layout(build_template("vicuna_v0"), CrcTokenizer(), LENGTHS, max_tokens)


def random_conversation(rng: random.Random) -> Conversation:
    words = ["", " ", "hi", "<query>", "###", "<image>", "###Assistant: no", "</s>", "two words", "\n", "é漢🙂"]
    parts = [IMAGE, VIDEO, AUDIO, *map(Text, words)]
    roles = ["system", "user", "user", "assistant", "assistant"]
    return tuple(
        Message(
            rng.choice(roles), tuple(rng.choices(parts, k=rng.randint(0, 4))), rng.choice([None, None, True, False])
        )
        for _ in range(rng.randint(1, 6))
    )


def test_single_round():
    """Fails when a segment starts or ends elsewhere: each is tokenised on its own, so borders belong to the format."""
    assert segments("vicuna_v0", (user(IMAGE, "What is this?"), assistant("A bus."))) == [
        "###Human: Given following image: ",
        "<image 0>",
        ".###Human: What is this?###Assistant:",
        "+A bus.\n###",
    ]


def test_several_rounds_and_late_media():
    """Fails when a turn after an answer repeats its ###, or media of a later turn lose position or wording."""
    late = (*CHAT, user("Look", IMAGE, "and compare"), assistant("Done."))
    assert segments("vicuna_v0", late) == [
        "###Human: Given following video: ",
        "<video 0>",
        " and its background audio: ",
        "<audio 1>",
        ".###Human: What happens?###Assistant:",
        "+A man plays drums.###",
        "Human: Is it loud?###Assistant:",
        "+Yes, very loud.###",
        "Human: Look###Human: Given following image: ",
        "<image 2>",
        ".###Human: and compare###Assistant:",
        "+Done.###",
    ]


def test_media_only_turns_and_runs_of_media():
    """Fails when a turn without text gets an empty block, or a video takes an audio file that does not follow it."""
    assert segments("vicuna_v0", (user(AUDIO, VIDEO, Text(" ")), assistant("x"))) == [
        "###Human: Given following audio: ",
        "<audio 0>",
        ".###Human: Given following video: ",
        "<video 1>",
        ".###Assistant:",
        "+x\n###",
    ]
    assert segments("vicuna_v0", (user(""), assistant("x")))[0] == "###Human: ###Assistant:"
    assert segments("vicuna_v0", (user(), assistant("x")))[0] == "###Human: ###Assistant:"


def test_system_messages():
    """Fails when a leading system message gets a role name, or a later one none."""
    first, later = Message("system", (Text("Be brief."),)), Message("system", (Text("In verse."),))
    assert segments("vicuna_v0", (first, user("Hi"), assistant("Hello"), later, user("Go"), assistant("Ok"))) == [
        "Be brief.###Human: Hi###Assistant:",
        "+Hello###",
        "System: In verse.###Human: Go###Assistant:",
        "+Ok###",
    ]


def test_markers_in_words_are_words():
    """Fails when "<query>" in a question opens a placeholder, or "###" in an answer ends its supervision."""
    row = segments("vicuna_v0", (user(IMAGE, "What does <query> or <image> mean?"), assistant("A ### B")))
    assert row[2:] == [".###Human: What does <query> or <image> mean?###Assistant:", "+A ### B\n###"]
    layout = chat_layout()
    tricky = layout.training_sequence((user(IMAGE, "<query>###Assistant:"), assistant("###Human: fake")))
    assert [place[:2] for place in tricky.media_slots] == [("image", 0)]
    assert tricky.target == CrcTokenizer().encode("###Human: fake\n###")


def test_supervision_follows_the_message():
    """Fails when supervised=False of an answer or supervised=True of a user is ignored, or moves ends of segments."""
    quiet = Message("assistant", (Text("One."),), supervised=False)
    loud = Message("user", (IMAGE, Text("Two?")), supervised=True)
    assert segments("vicuna_v0", (user("Hi"), quiet, loud, assistant("Three."))) == [
        "###Human: Hi###Assistant:",
        "One.###",
        "Human: Given following image: ",
        "<image 0>",
        ".###Human: ",
        "+Two?",
        "###Assistant:",
        "+Three.###",
    ]


def test_prompt_has_the_ids_of_training():
    """Fails when a prompt with a past answer tokenises differently than training did up to the same position."""
    layout = chat_layout()
    prompt, row = layout.prompt(CHAT[:-1]), layout.training_sequence(CHAT)
    assert prompt.ids == row.ids[: len(prompt)]
    assert (prompt.target, prompt.predict_at) == ([], [])
    assert row.ids[len(prompt) :] == CrcTokenizer().encode("Yes, very loud.###")
    with pytest.raises(ValueError, match="expected a turn of the user"):
        layout.prompt(CHAT)


def test_caption():
    """Fails when the caption template adds a prompt, drops media, or supervises more than caption and end symbol."""
    assert segments("caption", (user(IMAGE), assistant("a dog"))) == ["<image 0>", "+a dog\n"]
    assert segments("caption", (user(VIDEO, AUDIO), assistant("rain"))) == ["<video 0>", "<audio 1>", "+rain\n"]
    assert segments("caption", (user(IMAGE),), reply=True) == ["<image 0>"]
    assert segments("caption", (user(IMAGE, "Say it: "), assistant("a dog")), end_sym="") == [
        "<image 0>",
        "Say it: ",
        "+a dog",
    ]


def test_a_sequence_predicts_from_the_position_before():
    """Fails when labels shift by one, a position covers text, or the first token is not the beginning of sequence."""
    row = Layout(build_template("caption"), CrcTokenizer(), LENGTHS).training_sequence(
        (user(AUDIO), assistant("a dog"))
    )
    want = CrcTokenizer().encode("a dog\n")
    assert row.ids == [1, 2, 2, 2, *want]
    assert row.media_slots == [("audio", 0, 1, 3)]
    assert row.target == want
    assert row.predict_at == [3, 4, 5, 6]  # the last media item's position predicts the first word


class WithMarks(CrcTokenizer):
    """With the tokens that ChatBind writes around media."""

    def token_id(self, token: str) -> int | None:
        return {"<im_start>": 97, "<im_end>": 98, "<image>": 99, "<start>": 100, "<end>": 101}.get(token)


class LlamaWithMarks(Tokenizer):
    """Of Llama's kind, with the tokens that ChatBind and TextBind write."""

    def token_id(self, token: str) -> int | None:
        return WithMarks().token_id(token)

    def written_ids(self) -> dict[str, int]:
        return {}


@pytest.mark.parametrize("name", [name for name in TEMPLATES.names() if name != "hf_chat"])  # see test_swapping_chat
def test_any_conversation_keeps_its_promises(name: str):
    """Fails when some mix of parts, roles and odd text breaks slots, targets, prompts or the length limit."""
    rng, done = random.Random(7), 0
    for _ in range(400):
        conversation = random_conversation(rng)
        layout = Layout(build_template(name), WithMarks(), LENGTHS, max_tokens=rng.choice([None, 12, 25, 60]))
        row = row_or_reason(layout, conversation)
        if isinstance(row, str):
            assert row.startswith("no token of this conversation is supervised") or "no supervised token fits" in row
            continue
        media = [(item.modality, slot) for slot, item in enumerate(media_parts(conversation))]
        check_row(row, media[: len(row.media_slots)], layout.max_tokens)
        if layout.max_tokens is None:
            assert len(row.media_slots) == len(media)
            done += 1
        if conversation[-1].role != "assistant":
            assert layout.prompt(conversation).target == []
    assert done > 50


@pytest.mark.parametrize("name", [name for name in TEMPLATES.names() if name != "hf_chat"])  # see test_hf_chat
def test_the_ids_of_an_answer_continue_its_prompt(name: str):
    """Fails when an option that is scored has tokens of the format, or lacks tokens of its own."""
    inner = AutoTokenizer.from_pretrained(TOKENIZER)
    layout = Layout(build_template(name), LlamaWithMarks(inner), LENGTHS)
    question = (user(IMAGE, "Which?"), assistant("Red."), user("And now?"))
    words = ("Yes, very loud.", "a dog", "42", "1", "a", "ein Bär")
    alone, whole = layout.continuations(question, words), layout.continuations(question, words, with_end=True)
    assert [inner.decode(ids).strip() for ids in alone] == list(words)
    ends = {ids[len(own) :] for own, ids in zip(alone, whole, strict=True)}
    assert len(ends) == 1 and all(ids[: len(own)] == own for own, ids in zip(alone, whole, strict=True))
    assert layout.stops.end(list(whole[0])) is not None or name == "caption"  # the end is what ends an answer
    sequence = layout.training_sequence((*question, assistant("a dog")))
    assert any(tuple(sequence.ids[at : at + len(whole[1])]) == whole[1] for at in range(len(sequence)))
    for empty in ("", " \n"):
        with pytest.raises(ValueError, match="has no tokens"):
            layout.continuations(question, ["a dog", empty])


def row_or_reason(layout: Layout, conversation: Conversation) -> TokenSequence | str:
    try:
        return layout.training_sequence(conversation)
    except ValueError as error:
        return str(error)


def check_row(row: TokenSequence, media: list[tuple[str, int]], max_tokens: int | None) -> None:
    assert [place[:2] for place in row.media_slots] == media
    assert all(length == LENGTHS[modality] for modality, _, _, length in row.media_slots)
    covered = {start + i for _, _, start, length in row.media_slots for i in range(length)}
    assert {row.ids[position] for position in covered} <= {CrcTokenizer().pad_id, 99}  # 99: <image> of textbind
    assert row.target == [row.ids[position + 1] for position in row.predict_at]
    assert not covered & {position + 1 for position in row.predict_at}
    assert row.target
    assert max_tokens is None or len(row) - 1 <= max_tokens


def test_long_sequences_end_at_a_turn():
    """Fails when a sequence that is too long is cut inside a turn, or the loss is not counted."""
    whole = chat_layout().training_sequence(CHAT)
    for limit in range(len(whole) - 2, len(whole) - 10, -1):
        row = chat_layout(limit).training_sequence(CHAT)
        assert row.target == CrcTokenizer().encode("A man plays drums.###")
        assert (row.cut_turns, row.cut_tokens) == (2, len(whole) - len(row))
        assert row.ids == whole.ids[: len(row)]
    assert not chat_layout(len(whole) - 1).training_sequence(CHAT).is_cut
    longer = chat_layout(len(whole)).training_sequence((*CHAT, user("Sure?"), assistant("Quite sure.")))
    assert (longer.ids, longer.cut_turns) == (whole.ids, 2)  # as many rounds as fit, not just the first


def test_a_sequence_that_just_fits_is_whole():
    """Fails when the question after the last answer is dropped from a sequence of exactly the longest length."""
    open_end = (*CHAT, user("Sure?"))
    whole = chat_layout().training_sequence(open_end)
    row = chat_layout(len(whole) - 1).training_sequence(
        open_end
    )  # the limit leaves the beginning-of-sequence token out
    assert (row.ids, row.is_cut, row.cut_turns) == (whole.ids, False, 0)


def test_cuts_by_a_template_are_counted():
    """Fails when an answer that a template's own limit cuts does not count as cut."""
    shown = (user(IMAGE), assistant("one two three four five six"))
    whole = Layout(build_template("caption"), CrcTokenizer(), LENGTHS).training_sequence(shown)
    row = Layout(build_template("caption", max_tokens=4), CrcTokenizer(), LENGTHS).training_sequence(shown)
    assert (len(row.target), row.cut_turns) == (4, 0)
    assert row.is_cut and row.cut_tokens == len(whole) - len(row)


def test_a_long_first_answer_loses_its_end():
    """Fails when a lone answer that is too long is dropped, keeps its end mark, or media are cut."""
    lone = (user(IMAGE, "?"), assistant("one two three four five"))
    whole = chat_layout().training_sequence(lone)
    row = chat_layout(len(whole) - 4).training_sequence(lone)
    assert row.target == CrcTokenizer().encode("one two three four five\n###")[:-3]
    assert (row.cut_turns, row.cut_tokens, row.is_cut) == (0, 3, True)
    with pytest.raises(ValueError, match=r"\d+ positions precede the first answer and max_tokens is 9"):
        chat_layout(9).training_sequence(lone)


def test_a_cut_answer_never_ends_inside_media():
    """Fails when an image in the assistant's own turn is kept in part."""
    shown = (user("?"), assistant("a b c", IMAGE, "d e f"))
    sizes = set()
    for limit in range(10, len(chat_layout().training_sequence(shown))):
        row = chat_layout(limit).training_sequence(shown)
        check_row(row, [("image", 0)][: len(row.media_slots)], limit)
        sizes.add(len(row.media_slots))
    assert sizes == {0, 1}


def test_errors_name_what_is_missing():
    """Fails when a conversation without supervised tokens, an unknown modality or a drawing passes silently."""
    with pytest.raises(ValueError, match="no turn of the assistant has content"):
        chat_layout().training_sequence((user(IMAGE, "What?"),))
    with pytest.raises(ValueError, match=r"no route for 'depth'.*audio, image, video"):
        chat_layout().training_sequence((user(Media("depth", "a")), assistant("x")))
    assert [name for name in TEMPLATES.names() if TEMPLATES.get(name).can_draw] == ["textbind"]
    for name in set(TEMPLATES.names()) - {"textbind"}:
        with pytest.raises(ValueError, match="cannot write a drawing"):
            build_template(name).render((user("Draw"), Message("assistant", (Drawing("a cat"),))))


def test_finish_and_stops():
    """Fails when an answer keeps its stop string or blanks, or an earlier stop does not win."""

    class Letters(CrcTokenizer):
        def encode(self, text: str) -> list[int]:
            return [ord(letter) for letter in text]

        def decode(self, ids) -> str:
            return "".join(chr(number) for number in ids if number > 2)

    layout = Layout(build_template("vicuna_v0"), Letters(), {})
    assert layout.finish([ord(letter) for letter in " A cat.\n###Human: more ###"]) == "A cat."
    assert layout.finish([ord(letter) for letter in "open end"]) == "open end"
    assert set(layout.stop_ids) == {(35, 35, 35), (2,)}
    assert Layout(build_template("caption"), Letters(), {}).finish([97, 10, 98]) == "a"


def test_layout_travels_to_workers():
    """Fails when a spawned loader worker cannot receive the layout, or the cache grows without bound."""
    layout = pickle.loads(pickle.dumps(chat_layout(60)))
    assert layout.training_sequence(CHAT).ids == chat_layout(60).training_sequence(CHAT).ids
    calls = []
    cache = SegmentCache(lambda text: calls.append(text) or [len(text)], max_entries=2)
    assert [cache(text) for text in ("a", "bb", "a", "ccc", "a")] == [(1,), (2,), (1,), (3,), (1,)]
    assert calls == ["a", "bb", "ccc", "a"]
