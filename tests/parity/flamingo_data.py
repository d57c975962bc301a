"""Multimodal-GPT's datasets: each annotation file through our readers, to the recorded texts, ids and labels."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from chatbridge.common import seeds
from chatbridge.config.schema import parse
from chatbridge.conversation.layout import Layout
from chatbridge.conversation.messages import Conversation, assistant, user
from chatbridge.datasets.builders import BUILDERS, Dataset
from tests.parity.flamingo_text import IMAGE, layout_of
from tests.parity.golden import Check
from tests.parity.token_sequences import labels_of

INPUT = {"input_header": "\n\n### Input:\n"}
PROMPTED = {"prompts": "configs/prompts/mmgpt.json"}
LISTED = {"tag": "ti-qa", "answer": "majority", "options": 0.5, **INPUT}
JUDGED = {"name": "statements", "options": 0.5, **INPUT, **PROMPTED}
SETTINGS: dict[str, dict[str, Any]] = {  # type of the reference -> our source
    "llava": {"name": "dialogues", "format": "llava", "tag": "ti-det", "max_turns": 2, "line_breaks": "remove"},
    "llava_dial": {"name": "dialogues", "format": "llava", "tag": "ti-conv", "line_breaks": "remove",
                   "pairing": "overlapping"},
    "aokvqa": {"name": "questions", "format": "aokvqa", "tag": "ti-whyqa", "explain": True, **PROMPTED},
    "vqa": {"name": "questions", "format": "vqa", **LISTED},
    "okvqa": {"name": "questions", "format": "vqa", **LISTED},
    "minigpt4": {"name": "captions", "tag": "ti-cap", **PROMPTED},
    "coco_caption": {"name": "captions", "format": "coco_caption", "tag": "ti-cap", **PROMPTED},
    "ocr_vqa": {"name": "questions", "format": "ocrvqa_list", "tag": "ti-qa"},
    "text_ocr": {"name": "questions", "format": "textvqa", **LISTED},
    "gqa": {"name": "questions", "format": "gqa", "tag": "ti-qa", "full_answers": True},
    "clevr": {"name": "questions", "format": "clevr", "tag": "ti-qa"},
    "nlvrv1": {"format": "nlvr1", "tag": "ti-verify", **JUDGED},
    "nlvrv2": {"format": "nlvr2", "tag": "ti-verify", "labels": "file", **JUDGED},
    "snlive": {"format": "snli_ve", "tag": "ti-entail", **JUDGED},
    "dolly": {"name": "instructions", "format": "dolly", **INPUT},
    "alpaca_gpt4": {"name": "instructions", "format": "alpaca", **INPUT},
    "baize": {"name": "instructions", "format": "baize", "line_breaks": "remove"},
}  # fmt: skip
MOST_DRAWS = 3000  # of prompts, captions, options, orders and flips of one record
UNNAMED = {"text_ocr": "question_id"}  # an id that the public file has and the recorded record does not
EMPTY = "a sample whose instruction fills all 512 tokens is refused: it would train nothing (the reference: NaN)"


def data(check: Check) -> None:
    """Ids and labels of every item; the padded rows of a batch; what happens beyond 512 tokens."""
    with layout_of(check) as layout, TemporaryDirectory() as folder:
        for name, case in check.golden.about["datasets"].items():
            source = source_of(Path(folder), case)
            check.equal(f"{name}: number of samples", len(source), len(case["items"]))
            rows = [_row(check, f"{name}, item {index}", layout, source, index, item)
                    for index, item in enumerate(case["items"])]  # fmt: skip
            _batch(check, name, rows, case["collated"])
        _long(check, layout)


def source_of(folder: Path, case: Mapping[str, Any]) -> Dataset:
    """The source of a recorded dataset, its files and empty images under `folder`."""
    kind, has_lines = case["type"], case["file_format"] == "json lines"
    content, folder = case["annotation"], folder / case["type"]
    folder.mkdir()
    if (key := UNNAMED.get(kind)) is not None:
        content = {"data": [{key: number, **one} for number, one in enumerate(content["data"])]}
    file = folder / ("train.jsonl" if has_lines else "train.json")
    file.write_text("\n".join(map(json.dumps, content)) if has_lines else json.dumps(content))
    settings = dict(SETTINGS[kind])
    part: Any = BUILDERS.get(settings.pop("name"))
    if "tag" in settings:
        for name in ("dog.jpg", "car.jpg", "bird.jpg", *(f"train/images/56/train-1304-0-{k}.png" for k in range(6))):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(b"not decoded here")
        (folder / "train" / "dog.jpg").write_bytes(b"of clevr")
        settings["image_folder"] = str(folder)
    return part(parse(part.Config, {"annotations": str(file), **settings}), kind)


def _row(check: Check, what: str, layout: Layout, source: Dataset, index: int, item: Mapping[str, Any]) -> Any:
    """The sequence of the draw that made the recorded texts; compared with the recorded ids and labels."""
    texts = [(turn["instruction"], turn["answer"]) for turn in item.get("turns", (item,))]
    want = "".join(f"<s>{asked}{answer}</s>" for asked, answer in texts)
    drawn = (source.record(index, seeds.stream(0, what, number)).conversation for number in range(MOST_DRAWS))
    said: dict[str, Conversation] = {}
    while want not in said and (one := next(drawn, None)) is not None:
        said[layout.template.render(one, placeholder="<image>")] = one
    check.equal(f"{what}: text", want if want in said else next(iter(said)), want)
    if want not in said:
        return None
    row = layout.training_sequence(said[want])
    check.equal(f"{what}: ids", _filled(layout, row), item["input_ids"])
    check.equal(f"{what}: labels", labels_of(row), item["labels"])
    return row


def _filled(layout: Layout, row: Any) -> list[int]:
    """The ids, with that of <image> where ours have the padding id until the fusion fills them."""
    ids = list(row.ids)
    tokenizer: Any = layout.tokenizer
    for _, _, start, length in row.media_slots:
        ids[start : start + length] = [tokenizer.token_id("<image>")] * length
    return ids


def _batch(check: Check, name: str, rows: Sequence[Any], want: Mapping[str, Any]) -> None:
    """The recorded batch pads on the right, as ours does."""
    if None in rows:
        return
    longest = max(map(len, rows))
    mask = [[1] * len(row) + [0] * (longest - len(row)) for row in rows]
    labels = [labels_of(row) + [-100] * (longest - len(row)) for row in rows]
    check.equal(f"{name}: attention mask of the batch", mask, want["attention_mask"])
    check.equal(f"{name}: labels of the batch", labels, want["labels"])


def _long(check: Check, layout: Layout) -> None:
    """An answer is cut at 512 tokens and has no end then; an instruction that fills them all is refused."""
    about = check.golden.about
    row = layout.training_sequence(_asked("Talk.", "word " * 600))
    check.equal("a long answer: length", len(row), about["truncation"]["length"])
    is_ended = row.ids[-1] == layout.tokenizer.eos_id
    check.equal("a long answer: ends with </s>", is_ended, about["truncation"]["ends_with_eos"])
    try:
        kept = len(layout.training_sequence(_asked("word " * 600, "Yes.")))
    except ValueError:
        kept = 0
        check.deviates(EMPTY)
    check.equal("a long instruction: labels kept", kept, about["truncation_instruction"]["labels_kept"])


def _asked(question: str, answer: str) -> Conversation:
    return user(IMAGE, question), assistant(answer)
