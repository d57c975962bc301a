"""MiniGPT-4's sequences and prompts against those of its own code for the same texts."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from chatbridge.conversation.layout import Layout, TokenSequence
from chatbridge.conversation.messages import Conversation, Media, Message, Text, assistant, user
from chatbridge.conversation.templates import build_template
from chatbridge.conversation.text_cleaning import clean_blip_caption
from chatbridge.datasets.builders._prompts import read_prompts

IMAGE = Media("image", "p.jpg")
BY_END = {"###": "minigpt4_vicuna0", "</s>": "minigpt4_llama2"}


class WordPunct:
    """Tokenizer wordpunct-v1 of the goldens' README. Text that reads like a special token is text here."""

    bos_id, eos_id, pad_id = 1, 2, 3

    def __init__(self, words: Sequence[str], pad: str = "$$"):
        self.words = list(words)
        self.pad = pad

    def encode(self, text: str) -> list[int]:
        ids: list[int] = []
        for number, piece in enumerate(re.split(re.escape(self.pad), text)):
            ids += [self.pad_id] if number else []
            words = re.findall(r"\n|\w+|[^\w\s]", piece)
            ids += [4 + self.words.index(word) if word in self.words else 0 for word in words]
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        return " ".join(self.words[number - 4] for number in ids if number > 3)


def golden(reference: Path, name: str) -> tuple[list[dict[str, Any]], WordPunct]:
    content = json.loads((reference / "golden" / f"minigpt4_{name}.json").read_text())
    return content["cases"], WordPunct(content.get("tokenizer", {}).get("words", ()))


def marked(row: TokenSequence) -> list[int]:
    """The ids as the goldens write them: -1 where the image stands."""
    ids = list(row.ids)
    for _, _, start, length in row.media_slots:
        ids[start : start + length] = [-1] * length
    return ids


def labels(row: TokenSequence) -> list[int]:
    found = [-100] * len(row.ids)
    for at, target in zip(row.predict_at, row.target, strict=True):
        found[at + 1] = target
    return found


def assert_rows(case: dict[str, Any], rows: Sequence[TokenSequence], masked: int | None = None) -> None:
    """Equal to the golden without its padding; the reference masks the label `masked` wherever it stands."""
    wanted = zip(case["input_ids_with_minus1_for_image_slots"], case["labels"], case["attention_mask"], strict=True)
    for row, (ids, wanted_labels, mask) in zip(rows, wanted, strict=True):
        length = sum(mask)
        assert marked(row) == ids[:length]
        assert [-100 if label == masked else label for label in labels(row)] == wanted_labels[:length]


def asked(case: dict[str, Any]) -> list[Conversation]:
    """The conversations of a stage-2 case."""
    words = re.search(r"</Img> (.*?)(?: ###Assistant: | \[/INST\] )", case["prompt"])
    assert words is not None
    return [(user(IMAGE, words.group(1)), assistant(answer)) for answer in case["answers"]]


def test_stage1_sequences(reference: Path) -> None:
    """Fails when stage 1 has a prompt, another end symbol or cap, or the caption is cleaned differently."""
    cases, tokenizer = golden(reference, "stage1")
    for case in cases:
        captions = [clean_blip_caption(answer) for answer in case["answers"]]
        assert captions == case["answers_after_text_processor"]
        template = build_template("caption", end_sym=case["end_sym"], max_tokens=case["max_txt_len"])
        layout = Layout(template, tokenizer, {"image": case["nslots"]})
        assert_rows(case, [layout.training_sequence((user(IMAGE), assistant(caption))) for caption in captions])


def test_stage2_sequences(reference: Path) -> None:
    """Fails when prompts are wrapped differently, the cap counts more than the answer, or the end is not supervised.

    The one disagreement is meant: a "$$" of the answer is supervised here and masked there.
    """
    cases, tokenizer = golden(reference, "stage2")
    assert len(cases) == 5
    for case in cases:
        template = build_template(BY_END[case["end_sym"]], max_tokens=case["max_txt_len"])
        layout = Layout(template, tokenizer, {"image": case["nslots"]})
        rows = [layout.training_sequence(conversation) for conversation in asked(case)]
        assert_rows(case, rows, masked=tokenizer.pad_id)
        learns_padding = any(tokenizer.pad_id in row.target for row in rows)
        assert learns_padding == (case["name"] == "pad_symbol_inside_answer")


def test_instructions_without_the_template(reference: Path) -> None:
    """Fails when an instruction of its own per sample (used raw by the reference) cannot be expressed."""
    (case,), tokenizer = golden(reference, "multi_image")
    template = build_template("minigpt4_llama2", user="", assistant="")
    layout = Layout(template, tokenizer, {"image": case["nslots"]})
    questions = [text.removeprefix("<Img><ImageHere></Img> ") for text in case["instruction_input"]]
    pairs = zip(questions, case["answers"], strict=True)
    assert_rows(
        case, [layout.training_sequence((user(IMAGE, question), assistant(answer))) for question, answer in pairs]
    )


def test_sequences_of_the_first_public_code(reference: Path) -> None:
    """Fails when the sequences differ. The first commit could not supervise an end symbol equal to its padding."""
    cases, tokenizer = golden(reference, "v0_code")
    for case in cases:
        if case["name"] == "v0_stage1":
            template = build_template("caption", max_tokens=case["max_txt_len"])
            conversations = [(user(IMAGE), assistant(text)) for text in case["answers_after_text_processor"]]
        else:
            template = build_template(BY_END[case["end_sym"]], max_tokens=case["max_txt_len"])
            prompt = read_prompts(PROMPTS)["ti-cap"]
            words = prompt[case["prompt_index"]]
            conversations = [(user(IMAGE, words), assistant(text)) for text in case["answers"]]
        layout = Layout(template, tokenizer, {"image": case["nslots"]})
        rows = [layout.training_sequence(conversation) for conversation in conversations]
        assert_rows(case, rows, masked=tokenizer.eos_id)
        assert all((tokenizer.eos_id in row.target) == (case["end_sym"] == "</s>") for row in rows)


def test_chat_prompts(reference: Path) -> None:
    """Fails when the system text, the marks, past answers or their tokens differ from the reference's chat."""
    cases, tokenizer = golden(reference, "chat")
    checked = 0
    for case in cases:
        template = build_template(f"minigpt4_{case['template']}")
        layout = Layout(template, tokenizer, {"image": case["nslots"]})
        turns: list[Message] = []
        asks = [entry for entry in case["script"] if "ask" in entry]
        for number, (entry, step) in enumerate(zip(asks, case["steps"], strict=True)):
            words = Text(entry["ask"])
            turns.append(Message("user", (words,) if number else (IMAGE, words)))
            ids = marked(layout.prompt(tuple(turns)))
            wanted = step["input_ids_with_minus1_for_image_slots"]
            assert template.render(tuple(turns), reply=True, placeholder="<ImageHere>") == step["prompt"]
            # the reference cuts a long context at its front, the system text and the image first: nothing is cut here
            assert ids[-len(wanted) :] == wanted and (len(ids) == len(wanted)) == (case["name"] != "vicuna_context_cut")
            checked += 1
            turns.append(assistant(entry["reply"]))
    assert checked == 5


def test_text_processor(reference: Path) -> None:
    """Fails when captions of stage 1 are cleaned differently."""
    cases, _ = golden(reference, "text_processor")
    assert all(clean_blip_caption(case["in"]) == case["out"] for case in cases)


PROMPTS = Path(__file__).parents[2] / "configs" / "prompts" / "minigpt4_alignment.txt"


def test_alignment_prompts() -> None:
    """Fails when the four published prompts are not read, or a line without an image counts."""
    assert read_prompts(PROMPTS)["ti-cap"] == (
        "Describe this image in detail.",
        "Take a look at this image and describe what you notice.",
        "Please provide a detailed description of the picture.",
        "Could you describe the contents of this image for me?",
    )


def test_prompt_lines_with_text_before_the_image(tmp_path: Path) -> None:
    """Fails when text before the image are dropped silently."""
    file = tmp_path / "prompts.txt"
    file.write_text("no image here\n\nLook: <Img><ImageHere></Img> What is it?\n")
    with pytest.raises(ValueError, match="line 3 has text before <ImageHere>"):
        read_prompts(file)
    file.write_text("no image here\n")
    with pytest.raises(ValueError, match="no line has <ImageHere>"):
        read_prompts(file)


@pytest.mark.parametrize("name", ["minigpt4_vicuna0", "minigpt4_llama2"])
def test_several_rounds_train(name: str) -> None:
    """Fails when a second round is not opened, or its answer not supervised."""
    template = build_template(name)
    text = template.render((user(IMAGE, "one"), assistant("two"), user("three"), assistant("four")))
    want = {
        "minigpt4_vicuna0": "###Human: <Img><query></Img> one ###Assistant: two###Human: three ###Assistant: four###",
        "minigpt4_llama2": "[INST] <Img><query></Img> one [/INST] two</s><s>[INST] three [/INST] four</s>",
    }[name]
    assert text == want


def test_answers_end_at_the_stop(reference: Path) -> None:
    """Fails when generation over Vicuna does not stop at ###, or over Llama-2 at a heading."""
    _, tokenizer = golden(reference, "chat")
    vicuna, llama = (Layout(build_template(f"minigpt4_{n}"), tokenizer, {"image": 2}) for n in ("vicuna0", "llama2"))
    assert tuple(tokenizer.encode("###")) in vicuna.stop_ids and (2,) in llama.stop_ids
    assert llama.stop_ids == ((2,),) and vicuna.template.stops == ("###",)
