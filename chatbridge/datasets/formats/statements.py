"""Sentences about images that are true or false, or follow from the image or not.

nlvr1     train.json, dev.json, test.json of NLVR, a record per line: {"sentence", "label": "true" | "false",
          "identifier": "1304-0", "directory": "56"}. A record has six images, which differ in the order of their boxes:
          <split>/images/<directory>/<split>-<identifier>-<0 to 5>.png; the split is in the name of the file.
nlvr2     [{"sentence", "label": "True" | "False", "images": [left, right]}], or a record per line as NLVR2 publishes
          them: {"identifier": "train-10171-0-0", "directory": 40, "sentence", "label"}, whose images are
          <directory>/train-10171-0-img0.png and -img1.png, with or without images/train before.
snli_ve   snli_ve_train.jsonl of SNLI-VE: {"Flickr30K_ID": "4705552913", "sentence2", "gold_label": "entailment" |
          "neutral" | "contradiction", "pairID"}. Where annotators did not agree the label is "-": no answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from chatbridge.common.errors import DataError, nearest
from chatbridge.datasets.formats.json_fields import BadRecord, Fields, kind_of
from chatbridge.datasets.formats.json_stream import rows
from chatbridge.datasets.formats.records import Format, Parsed, StatementRecord, each_row, parsed

NUM_ORDERS = 6  # images of one record of NLVR
SPLIT = re.compile(r"train|dev|test")
TRUTH = ("true", "false")
RELATIONS = ("entailment", "neutral", "contradiction")
NO_LABEL = ("", "-")


def nlvr1(annotations: Path) -> Iterator[Parsed[StatementRecord]]:
    """raises DataError when the name of the file has no split, or several"""
    splits = set(SPLIT.findall(annotations.stem.lower()))
    if len(splits) != 1:
        named = "names " + " and ".join(sorted(splits)) if splits else "names no split"
        hint = "call it train.json, dev.json or test.json"
        raise DataError(f"{annotations}: its name {named}, and images of NLVR are found by it; {hint}")
    return (parsed(value, _nlvr1, *splits) for value in rows(annotations))


def _nlvr1(fields: Fields, split: str) -> StatementRecord:
    name = fields.name("identifier")
    folder = "/".join((split, "images", *fields.files("directory")))
    images = tuple(f"{folder}/{split}-{name}-{number}.png" for number in range(NUM_ORDERS))
    return _statement(fields, "sentence", "label", TRUTH, name, files={"image": images})


def _nlvr2(fields: Fields) -> StatementRecord:
    name = fields.name("identifier") if "identifier" in fields.record else ""
    images = fields.files("images") if "images" in fields.record or not name else _published_pair(fields, name)
    if len(images) != 2:
        fields.require("images")
        raise BadRecord(f"'images' has {len(images)} files, expected two: the left one and the right one")
    return _statement(fields, "sentence", "label", TRUTH, name, files={"image": images})


def _published_pair(fields: Fields, name: str) -> tuple[str, ...]:
    """train-10171-0-0 is sentence 0 of the pair train-10171-0."""
    pair = name.rpartition("-")[0]
    folder = "".join(f"{one}/" for one in fields.files("directory"))
    return tuple(f"{folder}{pair}-img{number}.png" for number in range(2))


def _snli_ve(fields: Fields) -> StatementRecord:
    name = "".join(fields.files("pairID"))
    image = fields.name("Flickr30K_ID", "Flikr30kID")
    return _statement(fields, "sentence2", "gold_label", RELATIONS, name, names=(image,))


def _statement(
    fields: Fields,
    sentence: str,
    label: str,
    labels: tuple[str, ...],
    name: str,
    names: tuple[str, ...] = (),
    files: dict[str, tuple[str, ...]] | None = None,
) -> StatementRecord:
    """raises BadRecord for an empty sentence and a label that is none of `labels`"""
    text = fields.text(sentence)
    if not text.strip():
        raise BadRecord(f"{sentence!r} is empty")
    given = fields.record.get(label)
    written = str(given) if isinstance(given, bool) else "" if given is None else fields.text(label).strip()
    meant = written.lower()
    if meant not in (*labels, *NO_LABEL):
        guess = nearest(meant, labels)
        hint = f"; did you mean {guess!r}?" if guess else ""
        raise BadRecord(f"{label!r} is {kind_of(written)}, expected {' or '.join(labels)}{hint}")
    known = "" if meant in NO_LABEL else meant
    return StatementRecord(id=name, names=names, files=files, sentence=text, label=known, written=written,
                           labels=labels, details={"label": known} if known else {})  # fmt: skip


STATEMENT_FORMATS = {
    "nlvr1": Format(nlvr1, options=("labels",)),
    "nlvr2": Format(each_row(_nlvr2), options=("labels", "pair", "flips")),
    "snli_ve": Format(each_row(_snli_ve)),
}
