"""MULTIS strings and rows against the reference (../shared/reference/golden); other cases: test_weights_parity."""

from __future__ import annotations

import json
from pathlib import Path

from chatbridge.conversation.layout import Layout, TokenSequence
from chatbridge.conversation.messages import Media, assistant, user
from chatbridge.conversation.templates import build_template
from chatbridge.conversation.text_cleaning import clean_caption
from tests.helpers.toy_tokenizers import WordTokenizer
from tests.parity.conversations import answered, read_string
from tests.parity.token_sequences import labels_of


def golden(shared: Path, name: str) -> dict:
    return json.loads((shared / "golden" / f"{name}.json").read_text())


def marked(row: TokenSequence, marks: dict[str, int]) -> list[int]:
    ids = list(row.ids)
    for modality, _, start, length in row.media_slots:
        ids[start : start + length] = [marks[modality]] * length
    return ids


def test_multis_strings(shared: Path):
    """Fails when a MULTIS annotation reads differently, the end of a dialogue of one round included."""
    facts = golden(shared, "multis_chatbridge")
    tags = json.loads((Path(__file__).parents[2] / "configs" / "prompts" / "multis.json").read_text())
    for case in facts["strings"]:
        prompts = tags.get(case["task"])
        conversation = answered(case["annotation"], case["task"], prompts and prompts[case["prompt_index"]])
        assert build_template("vicuna_v0").render(conversation) == case["conversation"]


def test_multis_rows(shared: Path):
    """Fails when ids or labels of the stage-2 batches differ, padding in front removed; cut rows included."""
    facts = golden(shared, "multis_chatbridge")
    tokenizer = WordTokenizer(facts["tokenizer"]["words"])
    marks = {"image": -1, "video": -1, "audio": -2}
    for batch in facts["stage2_batches"]:
        for string, ids, wanted in zip(batch["conversations"], batch["ids"], batch["labels"], strict=True):
            template = build_template("vicuna_v0", single_gap="\n" if string.endswith("\n###") else "")
            layout = Layout(template, tokenizer, dict.fromkeys(marks, batch["nslots"]), batch["max_txt_len"])
            read = read_string(string)
            assert read is not None
            row = layout.row(read.conversation)
            keep = [i for i, number in enumerate(ids) if number != 0]
            assert marked(row, marks) == [ids[i] for i in keep]
            assert labels_of(row) == [wanted[i] for i in keep]
            assert row.is_cut == (batch["name"] == "truncated")


def test_caption_rows(shared: Path):
    """Fails when a stage-1 row differs, the padding behind it removed."""
    facts = golden(shared, "multis_chatbridge")
    tokenizer = WordTokenizer(facts["tokenizer"]["words"])
    marks = {"image": -1, "audio": -2}
    for batch in facts["stage1_batches"]:
        template = build_template("caption", max_tokens=batch["max_txt_len"], end_sym=batch["end_sym"])
        layout = Layout(template, tokenizer, dict.fromkeys(marks, batch["nslots"]))
        media = Media("audio" if batch["task"] == "ta" else "image", "a.bin")
        rows = zip(batch["captions"], batch["ids"], batch["attention_mask"], batch["labels"], strict=True)
        for caption, ids, mask, wanted in rows:
            row = layout.row((user(media), assistant(caption)))
            assert marked(row, marks) == ids[: sum(mask)]
            assert labels_of(row) == wanted[: sum(mask)]
            assert row.cut_tokens == max(0, len(caption.split()) + 1 - batch["max_txt_len"])


def test_text_cleaning(shared: Path):
    """Fails when a cleaned text differs from what the public loaders made of it."""
    for case in golden(shared, "multis_chatbridge")["pre_caption"]:
        assert clean_caption(case["in"]) == case["out"]


def test_prompt_inventory(shared: Path):
    """Fails when the shipped prompts differ from the published ones."""
    shipped = json.loads((Path(__file__).parents[2] / "configs" / "prompts" / "multis.json").read_text())
    assert shipped == json.loads((shared / "data" / "multis_task_prompts.json").read_text())
    assert sum(map(len, shipped.values())) == 105
