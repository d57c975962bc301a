"""Strings, ids and labels of conversations."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from chatbridge.conversation.layout import Layout, TokenSequence
from chatbridge.conversation.templates import build_template
from chatbridge.conversation.text_cleaning import clean_blip_caption, clean_blip_question, clean_caption
from tests.parity.conversations import FOREIGN, answered, chatted, read_string
from tests.parity.golden import Check
from tests.parity.toy_tokenizers import CrcTokenizer

LEFT_PADDING = (
    "padding on the left hides the beginning of the sequence from all rows but the longest; ours is on the right, "
    "and sequences are compared without it"
)
NOTHING_SUPERVISED = "a sequence without a supervised token is refused; the reference trained on it (its loss is NaN)"
CUT = "sequences that are too long end after an answer; the reference cuts at the maximum length"
LINE_BREAK = "a line break or tab inside a web caption becomes a blank, because a line break reads as its end"


def labels_of(row: TokenSequence) -> list[int]:
    """Return the targets as the reference's labels: at the position of the token itself."""
    labels = [-100] * len(row)
    for position, target in zip(row.predict_at, row.target, strict=True):
        labels[position + 1] = target
    return labels


def marked(row: TokenSequence, mark: int) -> list[int]:
    """Return the ids with `mark` in the media slots."""
    ids = list(row.ids)
    for _, _, start, length in row.media_slots:
        ids[start : start + length] = [mark] * length
    return ids


def prompt_layout(check: Check) -> None:
    """Compare ids, media slots and labels of stage-2 sequences."""
    toy = check.golden.about["toy_tokenizer"]
    numbers = {"bos_id": toy["bos"], "eos_id": toy["eos"], "pad_id": toy["pad"]}
    tokenizer = CrcTokenizer(vocab_size=toy["vocab"], **numbers)
    for number, case in enumerate(check.golden.about["cases"]):
        visual, sound = (case["num_query_tokens"] * 2)[:2]
        lengths = {"image": visual, "video": visual, "audio": sound}
        for index, sample in enumerate(case["samples"]):
            _layout_row(check, f"case {number}, row {index}", case, sample, (tokenizer, lengths))


def _layout_row(check: Check, what: str, case: Mapping[str, Any], sample: Mapping[str, Any], toys: Any) -> None:
    tokenizer, lengths = toys
    read = read_string(sample["conversation"])
    if read is None:
        check.deviates(FOREIGN)
        return
    keep = [i for i, number in enumerate(sample["ids"]) if number != -1]
    ids, labels = [sample["ids"][i] for i in keep], [sample["labels"][i] for i in keep]
    if len(keep) < len(sample["ids"]):
        check.deviates(LEFT_PADDING)
    layout = Layout(read.template, tokenizer, lengths, case["max_txt_len"])
    if read.is_prompt:
        row = layout.prompt(read.conversation)
    else:
        laid = supervised_sequence(check, what, layout, read.conversation, any(label != -100 for label in labels))
        if laid is None:
            return
        row = laid
    if row.is_cut and len(row) < len(ids):
        check.deviates(CUT)
        ids, labels = ids[: len(row)], labels[: len(row)]
    check.equal(f"{what}: ids", marked(row, -2), ids)
    check.equal(f"{what}: labels", labels_of(row), labels)


def supervised_sequence(
    check: Check, what: str, layout: Layout, conversation: Any, has_any: bool
) -> TokenSequence | None:
    """Return the training sequence; None if both sides find no supervised token in it."""
    try:
        row = layout.training_sequence(conversation)
    except ValueError as error:
        check.equal(f"{what}: {error}", False, has_any)
        check.deviates(NOTHING_SUPERVISED)
        return None
    check.equal(f"{what}: has supervised tokens", True, has_any)
    return row


def conversation_format(check: Check) -> None:
    """Strings of the stage-2 data set and of the chat demo."""
    for index, case in enumerate(check.golden.about["training"]):
        conversation = answered(case["annotation"], case["task"], case["prompt_template"])
        string = build_template("vicuna_v0").render(conversation)
        check.equal(f"training {index}", string, case["conversation"])
    template = build_template("vicuna_v0", past_gap=" ")
    for index, case in enumerate(check.golden.about["demo"]):
        conversation = chatted(case["messages"])
        if conversation is None:
            check.deviates(FOREIGN)
            continue
        prompt = template.render(conversation, reply=True, placeholder="<ImageHere>")
        check.equal(f"demo {index}", prompt, case["prompt"])


def text_preprocess(check: Check) -> None:
    """Cleaned captions and questions."""
    cleaners = {"blip_caption": clean_blip_caption, "blip_question": clean_blip_question}
    for index, case in enumerate(check.golden.about["cases"]):
        for name, clean in cleaners.items():
            check.equal(f"{name} {index}", clean(case["text"]), case[name])
        want = case["valor_caption"]
        if re.search(r"[^\S ]", want):
            check.deviates(LINE_BREAK)
            want = re.sub(r"\s+", " ", want).strip()
        check.equal(f"valor_caption {index}", clean_caption(case["text"]), want)


def minigpt4_text_processor(check: Check) -> None:
    for index, case in enumerate(check.golden.about["cases"]):
        check.equal(f"case {index}", clean_blip_caption(case["in"]), case["out"])
