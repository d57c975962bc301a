"""MiniGPT-4's token sequences of both stages and its chat prompts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from chatbridge.conversation.layout import Layout, TokenSequence
from chatbridge.conversation.messages import Conversation, Media, Message, Part, Text, assistant
from chatbridge.conversation.templates import build_template
from chatbridge.conversation.templates.base import Template
from chatbridge.conversation.text_cleaning import clean_blip_caption
from tests.parity.golden import Check
from tests.parity.token_sequences import labels_of, marked
from tests.parity.toy_tokenizers import WordTokenizer

HERE = "<Img><ImageHere></Img>"
PUBLISHED = (  # prompts/alignment.txt; cases that name no prompt give its number
    "Describe this image in detail.",
    "Take a look at this image and describe what you notice.",
    "Please provide a detailed description of the picture.",
    "Could you describe the contents of this image for me?",
)
PADDING_WORD = "a padding token inside an answer, or as its end symbol, is supervised; the reference masks it"
FRONT_CUT = "a prompt that is too long is not cut at its front, which contains the system text and the image"


def rows(check: Check) -> None:
    """Ids and labels of training batches: stage 1, stage 2, instructions per sample, and the first public code."""
    for case in check.golden.about["cases"]:
        tokenizer = _tokenizer(check, case)
        layout = Layout(_template(case, tokenizer), tokenizer, {"image": case["nslots"]})
        given = case["answers_after_text_processor"]
        if case.get("text_processor") == "blip_caption":
            check.equal(f"{case['name']}: texts", [clean_blip_caption(text) for text in case["answers"]], given)
        for index, (asked, answer) in enumerate(zip(_instructions(case, len(given)), given, strict=True)):
            row = layout.training_sequence((Message("user", asked), assistant(answer)))
            _row(check, f"{case['name']}, row {index}", case, index, row, tokenizer.pad_id)


def chat(check: Check) -> None:
    """Prompt strings and ids after every question."""
    for case in check.golden.about["cases"]:
        template = build_template(f"minigpt4_{case['template']}", system=case["system"])
        tokenizer = _tokenizer(check, case)
        layout = Layout(template, tokenizer, {"image": case["nslots"]})
        for index, (turns, step) in enumerate(zip(_asked(case["script"]), case["steps"], strict=True)):
            what = f"{case['name']}, question {index}"
            prompt = template.render(turns, reply=True, placeholder="<ImageHere>")
            check.equal(f"{what}: prompt", prompt, step["prompt"])
            ids, want = marked(layout.prompt(turns), -1), step["input_ids_with_minus1_for_image_slots"]
            if len(ids) + case["gen"]["max_new_tokens"] > case["gen"].get("max_length", 2000):
                check.deviates(FRONT_CUT)
                ids = ids[-len(want) :]
            check.equal(f"{what}: ids", ids, want)


def _tokenizer(check: Check, case: Mapping[str, Any]) -> WordTokenizer:
    about = check.golden.about["tokenizer"]
    pad = case.get("pad_token") or about.get("pad_token") or "</s>"
    return WordTokenizer(about["words"], about["specials"], about["specials"][pad])


def _template(case: Mapping[str, Any], tokenizer: WordTokenizer) -> Template:
    """Stage 1 has no prompt; otherwise the wrapping and the end symbol are the case's own."""
    end, limit = case["end_sym"], case["max_txt_len"]
    if "prompt_template" not in case:
        return build_template("caption", end_sym=end, max_tokens=limit)
    opening, _, closing = case["prompt_template"].partition("{}")
    wrap = {"user": "", "assistant": ""} if "instruction_input" in case else {"user": opening, "assistant": closing}
    if end == "</s>":
        return build_template("minigpt4_llama2", max_tokens=limit, **wrap)
    return build_template("minigpt4_vicuna0", max_tokens=limit, end_sym=end, **wrap)


def _instructions(case: Mapping[str, Any], count: int) -> list[tuple[Part, ...]]:
    """Return the question about each sample, with the image at its position."""
    if "prompt_template" not in case:
        return [(_picture(),)] * count
    if "instruction_input" in case:
        return [_parts(text) for text in case["instruction_input"]]
    opening, _, closing = case["prompt_template"].partition("{}")
    wrapped = case.get("prompt") or opening + f"{HERE} {PUBLISHED[case['prompt_index']]}" + closing
    return [_parts(wrapped.removeprefix(opening).removesuffix(closing))] * count


def _parts(text: str) -> tuple[Part, ...]:
    """Split a string with image markers into text and images; the space after a marker belongs to the template."""
    found: list[Part] = []
    for number, words in enumerate(re.split(re.escape(HERE), text)):
        found += [_picture()] if number else []
        words = words.removeprefix(" ") if number else words
        found += [Text(words)] if words else []
    return tuple(found)


def _picture() -> Media:
    return Media("image", "picture.jpg")


def _row(check: Check, what: str, case: Mapping[str, Any], index: int, row: TokenSequence, pad_id: int) -> None:
    """Compare without the padding at the end; the reference masks the labels of the padding token everywhere."""
    length, labels = sum(case["attention_mask"][index]), labels_of(row)
    if pad_id in labels:
        check.deviates(PADDING_WORD)
    labels = [-100 if label == pad_id else label for label in labels]
    ids, wanted = case["input_ids_with_minus1_for_image_slots"][index], case["labels"][index]
    check.equal(f"{what}: ids", marked(row, -1), ids[:length])
    check.equal(f"{what}: labels", labels, wanted[:length])
    check.equal(f"{what}: labels after the sequence", set(wanted[length:]) <= {-100}, True)


def _asked(script: Sequence[Mapping[str, Any]]) -> list[Conversation]:
    """The conversation at each question of a script; every upload is a message, and a question directly after it
    joins that message."""
    turns: list[Message] = []
    found: list[Conversation] = []
    for entry in script:
        if "image" in entry:
            turns.append(Message("user", (_picture(),)))
        if "ask" in entry:
            joins = bool(turns) and turns[-1].role == "user"
            before: tuple[Part, ...] = turns.pop().parts if joins else ()
            turns.append(Message("user", (*before, Text(entry["ask"]))))
            found.append(tuple(turns))
            turns.append(assistant(entry.get("reply", "")))
    return found
