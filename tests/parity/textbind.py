"""TextBind's token sequences, labels, positions, masks and batches, in training, prompts and the first stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from chatbridge.common.types import Batch, Sample
from chatbridge.conversation.attention import visible
from chatbridge.conversation.fitting import Limit
from chatbridge.conversation.layout import Layout, TokenSequence
from chatbridge.conversation.messages import Conversation, Drawing, Media, Message, Part, Text, assistant, user
from chatbridge.conversation.templates import build_template
from chatbridge.conversation.templates._textbind_cut import cut_base
from chatbridge.datasets.builders._prompts import with_request
from chatbridge.datasets.collate import stack
from chatbridge.datasets.formats.json_fields import Fields
from chatbridge.datasets.formats.textbind import read_record
from tests.parity.golden import Check, read_sidecar
from tests.parity.llama_pieces import LlamaPieces
from tests.parity.toy_tokenizers import WordTokenizer

NO_TARGET = "a sequence without a supervised token is an error here; the reference computes its loss over nothing"
FILLER = "no zero images are added, and nothing is written over the last column of a row"
MEMBERS = ("textbind_basic.json", "textbind_generated.json")
Mask = list[list[list[int]]]


class SpecialWords(WordTokenizer):
    """`wordpunct-v1` with the tokens of the template."""

    def token_id(self, token: str) -> int | None:
        return self.specials.get(token)


def rows(check: Check) -> None:
    """Ids, labels, positions, slots and masks of training sequences, and of those that are cut."""
    for case in check.golden.about["cases"]:
        row = _training_row(check, case, check.golden.about["tokenizer"])
        _row(check, case["name"], row, case)
        for side_texts, key in (
            ("cumulative", "attention_allowed"),
            ("isolated", "attention_allowed_if_branches_were_isolated"),
        ):
            if key in case:
                row = _training_row(check, case, check.golden.about["tokenizer"], side_texts)
                mask = _mask(_batch([row]))[0]
                check.equal(f"{case['name']}: {key}", mask, case[key])


def batch(check: Check) -> None:
    """Padded batches: ids, labels, positions, masks, image slots and the order of images."""
    found = [read_sidecar(check.golden.file(name)) for name in MEMBERS]
    records = {case["name"]: (case, about["tokenizer"]) for about in found for case in about["cases"]}
    for case in check.golden.about["cases"]:
        own = [records[name] for name in case["members"]]
        numbered = [{**one, "settings": case["settings"]} for one, _ in own]
        made = [_training_row(check, one, tokenizer) for one, (_, tokenizer) in zip(numbered, own, strict=True)]
        _compare_batch(check, case, made)


def prompts(check: Check) -> None:
    """Prompts; the past answer of one ends with a typed `</s>`, which this tokenizer reads as the token."""
    for case in check.golden.about["cases"]:
        layout = _layout(case, check.golden.about["tokenizer"])
        record = read_record(Fields(case["record"]), captions=False)
        row = layout.prompt(record.conversation(None, with_question=True))
        check.equal(f"{case['name']}: ids", row.ids, case["input_ids"])
        check.equal(f"{case['name']}: slots", _slots(row), case["input_image_index"])
        check.equal(f"{case['name']}: images", len(row.media_slots), case["num_input_images"])


def stage1(check: Check) -> None:
    """Captions of web pairs, asked for with one of the 20 requests."""
    for number, case in enumerate(check.golden.about["cases"]):
        layout = _layout(case, case["tokenizer"])
        asked = user(*with_request(Media("image", "x"), case["template"]))
        row = layout.training_sequence((asked, assistant(case["caption"])))
        _row(check, f"request {number}", row, case)


def llama_tokens(check: Check) -> None:
    """Strings of training as ids of the public vocabulary: white space beside the three tokens has no ids."""
    layout = Layout(build_template("textbind"), LlamaPieces(check.golden.about["facts"]), {"image": 2})
    for case in check.golden.about["textbind"]:
        check.equal(repr(case["text"]), _ids_of(case["text"], layout), case["ids"])


def _layout(case: Mapping[str, Any], tokenizer: Mapping[str, Any], side_texts: str = "cumulative") -> Layout:
    """The toy tokenizer keeps line breaks beside the three tokens, and its own pad id is 0."""
    template = build_template("textbind", token_space="kept", truncation="released", side_texts=side_texts)
    words = SpecialWords(tokenizer["words"], tokenizer["specials"], 0)
    lengths = {"image": case["settings"]["num_query_tokens"]}
    return Layout(template, words, lengths, case["settings"]["max_input_length"])


def _training_row(
    check: Check, case: Mapping[str, Any], tokenizer: Mapping[str, Any], side_texts: str = "cumulative"
) -> TokenSequence:
    layout = _layout(case, tokenizer, side_texts)
    conversation = read_record(Fields(case["record"])).conversation(None)
    if case.get("num_targets_after_shift") == 0:
        check.deviates(NO_TARGET)
        return _unsupervised(layout, conversation)
    return layout.training_sequence(conversation)


def _unsupervised(layout: Layout, conversation: Conversation) -> TokenSequence:
    """The row that is cut before its first answer, of a layout that refuses it."""
    assert layout.limit is not None
    spans = layout.template.spans(conversation, layout.tokenizer.encode, layout.media_lengths, False, layout._specials)
    try:
        layout.training_sequence(conversation)
    except ValueError:
        return layout._sequence_of(list(cut_base(spans, Limit(layout.limit))))
    raise AssertionError("a row without a supervised token was made")


def _row(check: Check, what: str, row: TokenSequence, case: Mapping[str, Any]) -> None:
    order = _base_first(row)
    check.equal(f"{what}: ids", [row.ids[at] for at in order], case["input_ids"])
    check.equal(f"{what}: labels", _labels(row, order), case["labels"])
    check.equal(f"{what}: positions", [row.positions[at] for at in order], case["position_ids"])
    check.equal(f"{what}: slots", _slots(row, order), case["input_image_index"])
    check.equal(f"{what}: images", len(row.media_slots), case["num_input_images"])


def _base_first(row: TokenSequence) -> list[int]:
    """Indices in the order of the reference, which appends the captions to the base."""
    branches = [0] * len(row) if row.segments is None else [segment.branch for segment in row.segments]
    return sorted(range(len(row)), key=lambda at: branches[at])


def _labels(row: TokenSequence, order: Sequence[int]) -> list[int]:
    """The labels of the reference: what the token before predicts; before an image it predicts `<start>`, which is not
    a label of the caption then."""
    points = dict(zip(row.predict_at, row.target, strict=True))
    assert len(points) == len(row.predict_at)
    last: dict[int, int] = {}  # branch -> its last token so far
    labels = []
    for index in order:
        branch = 0 if row.segments is None else row.segments[index].branch
        labels.append(points.get(last.get(branch, -1), -100))
        last[branch] = index
    return labels


def _slots(row: TokenSequence, order: Sequence[int] | None = None) -> list[int]:
    """Positions of the image slots in the reference's order."""
    places = {at: number for number, at in enumerate(order or range(len(row)))}
    ranges = (range(slot.start, slot.start + slot.length) for slot in row.media_slots)
    return [places[at] for at in chain.from_iterable(ranges)]


def _batch(made: Sequence[TokenSequence]) -> Batch:
    """The batch of rows whose k-th image has the value k."""
    shown: list[Sample] = []
    for number, row in enumerate(made):
        items = tuple(torch.full((1,), float(k)) for k in range(1, len(row.media_slots) + 1))
        parts: tuple[Part, ...] = tuple(Media("image", "x") for _ in items)
        shown.append(Sample(str(number), "s", (Message("user", parts),), items))
    return stack(shown, made, 0)


def _mask(found: Batch) -> list[Mask]:
    """Columns that each row may see as ranges, in the reference's order, without padding."""
    masks: list[Mask] = []
    for number, length in enumerate(found.lengths.tolist()):
        segments = found.segments
        if segments is None:
            masks.append([[[0, at + 1]] for at in range(length)])
            continue
        order = segments.branch[number, :length].argsort(stable=True)
        seen = visible(segments)[number][order][:, order]
        masks.append([_ranges(row) for row in seen])
    return masks


def _ranges(row: Tensor) -> list[list[int]]:
    """bool[L] -> half-open ranges of True."""
    padded = torch.cat([row.new_zeros(1), row, row.new_zeros(1)]).int()
    steps = padded.diff()
    starts, ends = (steps == 1).nonzero().flatten().tolist(), (steps == -1).nonzero().flatten().tolist()
    return [list(pair) for pair in zip(starts, ends, strict=True)]


def _compare_batch(check: Check, case: Mapping[str, Any], made: Sequence[TokenSequence]) -> None:
    found, what = _batch(made), case["name"]
    width, size = found.ids.shape[1], case["settings"]["num_query_tokens"]
    check.equal(f"{what}: width", width, len(case["input_ids"][0]))
    check.deviates(FILLER)
    for number, row in enumerate(made):
        order, end = _base_first(row), len(row)
        padding = list(range(end, width))
        places = torch.tensor([*order, *padding])
        check.equal(f"{what}: ids {number}", found.ids[number][places].tolist(), case["input_ids"][number])
        labels = [*_labels(row, order), *([-100] * len(padding))]
        check.equal(f"{what}: labels {number}", labels, case["labels"][number])
        check.equal(
            f"{what}: positions {number}",
            [row.positions[at] for at in order],
            case["position_ids"][number][:end],
        )
        images, slots = len(row.media_slots), _slots(row, order)
        check.equal(f"{what}: slots {number}", slots, case["input_image_index"][number][: images * size])
        filler = set(case["input_image_index"][number][images * size :])
        check.equal(f"{what}: filler {number}", filler <= {width - 1}, True)
        pixels = [float(one) for one in case["input_images_first_pixel"][number] if one]
        at = [k for k, owner in enumerate(found.media_rows.get("image", ())) if owner == number]
        values: Any = found.media.get("image")
        check.equal(f"{what}: images {number}", [float(values[k]) for k in at], pixels)
    for number, (mask, want) in enumerate(zip(_mask(found), case["attention_allowed"], strict=True)):
        check.equal(f"{what}: mask {number}", mask, want[: len(mask)])


def _ids_of(text: str, layout: Layout) -> list[int]:
    """The ids of a question, an answer or a caption, which the golden gives as one string."""
    if text.startswith("<s>"):
        asked = text.removeprefix("<s>[INST] ").removesuffix(" [/INST]")
        system, found, question = asked.removeprefix("<<SYS>>\n").rpartition("\n<</SYS>>\n\n")
        turns = (Message("system", (Text(system),)), user(*_parts(question))) if found else (user(*_parts(asked)),)
        return layout.prompt(turns).ids
    if text.endswith(" </s>"):
        row = layout.training_sequence((user("Hi"), assistant(*_parts(text.removesuffix(" </s>")))))
        return row.ids[len(layout.prompt((user("Hi"),))) :]
    drawn = layout.training_sequence((user("Hi"), assistant(Drawing(text, "x"))))
    return drawn.ids[
        drawn.ids.index(layout.template.drawing_ids[0]) + 1 : drawn.ids.index(layout.template.drawing_ids[1])
    ]


def _parts(text: str) -> list[Part]:
    """Text and images; `<image><image>` are the two slots of one."""
    pieces = [Text(piece) for piece in text.split("<image><image>")]
    return [part for piece in pieces for part in (Media("image", "x"), piece)][1:]
