"""MULTIS annotations as the reference's data set and batches read them (golden multis_chatbridge)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chatbridge.conversation.layout import Layout, TokenSequence
from chatbridge.conversation.messages import Media, assistant, user
from chatbridge.conversation.templates import build_template
from chatbridge.conversation.text_cleaning import clean_caption
from chatbridge.datasets.builders._prompts import published_prompts, read_prompts
from chatbridge.processors.piece_choice import groups, sample_frames
from tests.parity.conversations import answered, read_string
from tests.parity.golden import Check
from tests.parity.token_sequences import LEFT_PADDING, labels_of
from tests.parity.toy_tokenizers import WordTokenizer

MARKS = {"image": -1, "video": -1, "audio": -2}  # what the reference's batches hold in the slots of each modality
TRUNCATED = "truncated"  # the batch whose sequences are longer than max_txt_len


def multis(check: Check) -> None:
    """Strings, both stages' batches, cleaned captions and frame choices of one sidecar."""
    facts = check.golden.about
    _strings(check, facts)
    tokenizer = tokenizer_of(facts["tokenizer"])
    for batch in facts["stage2_batches"]:
        _dialogue_batch(check, batch, tokenizer)
    for batch in facts["stage1_batches"]:
        _caption_batch(check, batch, tokenizer)
    for number, case in enumerate(facts["pre_caption"]):
        check.equal(f"pre_caption {number}", clean_caption(case["in"]), case["out"])
    for case in facts["split"]:
        _frame_choice(check, case)


def tokenizer_of(described: Mapping[str, Any]) -> WordTokenizer:
    """The toy tokenizer that a sidecar describes: its words, special tokens and the token that pads."""
    specials = described["specials"]
    return WordTokenizer(described["words"], specials, specials[described["pad_token"]])


def _strings(check: Check, facts: Mapping[str, Any]) -> None:
    prompts = read_prompts(published_prompts())
    template = build_template("vicuna_v0")
    for number, case in enumerate(facts["strings"]):
        of_task = prompts.get(case["task"])
        prompt = of_task[case["prompt_index"]] if of_task else None
        conversation = answered(case["annotation"], case["task"], prompt)
        check.equal(f"string {number}", template.render(conversation), case["conversation"])


def _dialogue_batch(check: Check, batch: Mapping[str, Any], tokenizer: WordTokenizer) -> None:
    lengths = dict.fromkeys(MARKS, batch["nslots"])
    for string, ids, labels in zip(batch["conversations"], batch["ids"], batch["labels"], strict=True):
        what = f"stage 2, {batch['name']}"
        read = read_string(string)
        if read is None:
            check.equal(f"{what}: the string is a typed conversation", False, True)
            continue
        sequence = Layout(read.template, tokenizer, lengths, batch["max_txt_len"]).training_sequence(read.conversation)
        kept = [i for i, number in enumerate(ids) if number != 0]
        if len(kept) < len(ids):
            check.deviates(LEFT_PADDING)
        check.equal(f"{what}: ids", _marked(sequence), [ids[i] for i in kept])
        check.equal(f"{what}: labels", labels_of(sequence), [labels[i] for i in kept])
        check.equal(f"{what}: is cut", sequence.is_cut, batch["name"] == TRUNCATED)


def _caption_batch(check: Check, batch: Mapping[str, Any], tokenizer: WordTokenizer) -> None:
    template = build_template("caption", max_tokens=batch["max_txt_len"], end_sym=batch["end_sym"])
    layout = Layout(template, tokenizer, dict.fromkeys(MARKS, batch["nslots"]))
    media = Media("audio" if batch["task"] == "ta" else "image", "a.bin")
    rows = zip(batch["captions"], batch["ids"], batch["attention_mask"], batch["labels"], strict=True)
    for caption, ids, mask, labels in rows:
        what, sequence = f"stage 1, {batch['name']}", layout.training_sequence((user(media), assistant(caption)))
        check.equal(f"{what}: ids", _marked(sequence), ids[: sum(mask)])
        check.equal(f"{what}: labels", labels_of(sequence), labels[: sum(mask)])
        num_surplus = max(0, len(caption.split()) + 1 - batch["max_txt_len"])
        check.equal(f"{what}: tokens cut", sequence.cut_tokens, num_surplus)


def _marked(sequence: TokenSequence) -> list[int]:
    """The ids, with MARKS in the media slots."""
    ids = list(sequence.ids)
    for modality, _, start, length in sequence.media_slots:
        ids[start : start + length] = [MARKS[modality]] * length
    return ids


def _frame_choice(check: Check, case: Mapping[str, Any]) -> None:
    count, wanted = case["n_items"], case["sample_num"]
    found = [list(range(first, first + size)) for first, size in groups(count, wanted)]
    check.equal(f"{wanted} of {count}: groups", found, case["groups"])
    check.equal(f"{wanted} of {count}: evaluation", sample_frames(count, wanted), case["eval_pick"])
