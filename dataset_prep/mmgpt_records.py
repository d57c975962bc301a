"""The records of the instruction data of Multimodal-GPT: read from the published files, written in its own layouts.

vqa, okvqa    two files (VQAv2, OK-VQA)   -> {"image", "question", "answer": [ten], "question_id"}
aokvqa        aokvqa_v1p0_train.json      -> its fields and {"image"}, which the published file does not have
coco_caption  dataset_coco.json           -> {"image", "caption": [five]}; also captions_train2014.json
ocr_vqa       dataset.json                -> {"filename", "questions": [...], "answers": [...]}
nlvrv2        train.json (one per line)   -> its fields and {"images": [left, right]}

The other sets keep the published records: text_ocr (TextVQA), gqa, nlvrv1, clevr, snlive, dolly, alpaca_gpt4, baize.
All files are read by chatbridge.datasets.formats, as a run reads them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from chatbridge.datasets.formats.coco import coco, karpathy
from chatbridge.datasets.formats.instructions import INSTRUCTION_FORMATS
from chatbridge.datasets.formats.json_stream import JsonValue, json_values, rows, section
from chatbridge.datasets.formats.records import AnnotationRecord, Format, Parsed
from chatbridge.datasets.formats.single_answer_vqa import SINGLE_ANSWER_FORMATS, ocrvqa
from chatbridge.datasets.formats.statements import STATEMENT_FORMATS
from chatbridge.datasets.formats.vqa import VQA_FORMATS, vqav2
from dataset_prep.annotation_file import Record

NO_ANSWER = ("has no answer", "")
Put = Callable[[Record, Sequence[str]], Record]


@dataclass(frozen=True)
class Example:
    """One record to write.

    images   the possible names of each of its images; all images must exist
    put      the record with the names of the existing files; without it the names are not in the record
    fault    reason and detail of a record that cannot be used
    """

    id: str
    record: Record
    images: tuple[tuple[str, ...], ...] = ()
    put: Put | None = None
    fault: tuple[str, str] | None = None


def _one(key: str) -> Put:
    return lambda record, names: {key: names[0], **{name: value for name, value in record.items() if name != key}}


def _several(record: Record, names: Sequence[str]) -> Record:
    return {**record, "images": list(names)}


def _example(place: str, read: AnnotationRecord, record: Record, put: Put | None = None) -> Example:
    """The example of a record that formats/ has read; without an answer it cannot be used."""
    images = tuple((name,) for name in read.files.get("image", ())) if read.files is not None else ()
    if read.names:
        images = (read.names,)
    return Example(read.id or place, record, images, put, None if read.is_answered else NO_ANSWER)


def published(
    layout: Format[Any], values: Callable[[Path], Iterable[JsonValue]], put: Put | None = None, **settings: Any
) -> Callable[[Path], Iterator[Parsed[Example]]]:
    """A reader of files whose records are written as they are published, apart from `put`.

    layout    reads each record; `settings` are the ones of the YAML
    values    the records of the file unread, as many as `layout` reads
    """

    def read(path: Path) -> Iterator[Parsed[Example]]:
        for value, found in zip(values(path), layout.read(path, **settings), strict=True):
            if found.record is None:
                yield Parsed(found.place, None, found.fault)
                continue
            record = {value.key: value.value} if isinstance(value.key, str) else value.value
            yield Parsed(found.place, _example(found.place, found.record, record, put))

    return read


def vqa(path: Path, questions: Path | None = None) -> Iterator[Parsed[Example]]:
    """VQAv2 and OK-VQA: every answer, equal ones too."""
    for found in vqav2(path, questions):
        if found.record is None:
            yield Parsed(found.place, None, found.fault)
            continue
        ((question, answers),) = found.record.questions
        record = {"question": question, "answer": list(answers), "question_id": found.record.id}
        yield Parsed(found.place, _example(found.place, found.record, record, _one("image")))


def coco_caption(path: Path, split: Sequence[str] | None = None) -> Iterator[Parsed[Example]]:
    """Karpathy's file with `split`, of which several are joined; COCO's without."""
    for found in coco(path) if split is None else karpathy(path):
        if found.record is None:
            yield Parsed(found.place, None, found.fault)
        elif split is None or found.record.details["split"] in split:
            record = {"caption": list(found.record.captions)}
            yield Parsed(found.place, _example(found.place, found.record, record, _one("image")))


def ocr_vqa(path: Path, split: Sequence[str] | None = None) -> Iterator[Parsed[Example]]:
    """One record per cover of the splits (train), with the questions that have an answer."""
    for names, group in groupby(ocrvqa(path), lambda one: one.record.names if one.record else one.place):
        found = list(group)
        if isinstance(names, str):
            yield from (Parsed(one.place, None, one.fault) for one in found)
            continue
        records = [one.record for one in found if one.record]
        if records[0].details["split"] not in (split or ("train",)):
            continue
        pairs = [(question, *answers) for one in records for question, answers in one.questions if answers]
        record = {"questions": [pair[0] for pair in pairs], "answers": [pair[1] for pair in pairs]}
        fault = None if pairs else NO_ANSWER
        yield Parsed(found[0].place, Example(names[0], record, (names,), _one("filename"), fault))


def plain_list(path: Path) -> Iterator[JsonValue]:
    return section(path, "")


def section_of(name: str) -> Callable[[Path], Iterator[JsonValue]]:
    return lambda path: section(path, name)


@dataclass(frozen=True)
class InstructionSet:
    """One set.

    published  name of the published file
    read       (path, and `questions` or `split` where `asks` has it) -> examples
    images     the default folder of its images; None: text-only. COCO's are looked up by their number
    layout     of the file that is written, see dataset_prep.annotation_file
    splits     that --split accepts
    has_names  the names of the images are written, so these may be in any folder
    by_split   one file is written per split, with the split of the published one in its name
    """

    published: str
    read: Callable[..., Iterable[Parsed[Example]]]
    images: str | None = None
    layout: str = "list"
    asks: tuple[str, ...] = ()
    splits: tuple[str, ...] = ()
    has_names: bool = False
    by_split: bool = False

    @property
    def is_coco(self) -> bool:
        return self.images == COCO

    def file_name(self, name: str, path: Path) -> str:
        """Of the file that is written for the set `name` from the list `path`."""
        part = f"_{path.stem}" if self.by_split else ""
        return f"{name}{part}.{'jsonl' if self.layout == 'lines' else 'json'}"


COCO = "data/multis/coco/images"
SPLIT = ("split",)
KARPATHY = ("train", "restval", "val", "test")
SETS = {
    "vqa": InstructionSet("v2_mscoco_train2014_annotations.json", vqa, COCO, asks=("questions",)),
    "okvqa": InstructionSet("mscoco_train2014_annotations.json", vqa, COCO, asks=("questions",)),
    "aokvqa": InstructionSet(
        "aokvqa_v1p0_train.json", published(VQA_FORMATS["aokvqa"], plain_list, _one("image"), explain=True), COCO
    ),
    "coco_caption": InstructionSet("dataset_coco.json", coco_caption, COCO, asks=SPLIT, splits=KARPATHY),
    "ocr_vqa": InstructionSet(
        "dataset.json", ocr_vqa, "data/ocr_vqa/images", asks=SPLIT, splits=("train", "val", "test"), has_names=True
    ),
    "text_ocr": InstructionSet(
        "TextVQA_0.5.1_train.json", published(VQA_FORMATS["textvqa"], section_of("data")), "data/textvqa/images", "data"
    ),
    "gqa": InstructionSet(
        "train_balanced_questions.json", published(SINGLE_ANSWER_FORMATS["gqa"], json_values, full_answers=True),
        "data/gqa/images", "ids",
    ),
    "clevr": InstructionSet(
        "CLEVR_train_questions.json", published(SINGLE_ANSWER_FORMATS["clevr"], section_of("questions")),
        "data/clevr/images", "questions",
    ),
    "nlvrv1": InstructionSet(
        "train.json", published(STATEMENT_FORMATS["nlvr1"], rows), "data/nlvr", "lines", by_split=True
    ),
    "nlvrv2": InstructionSet(
        "train.json", published(STATEMENT_FORMATS["nlvr2"], rows, _several), "data/nlvr2/images", has_names=True
    ),
    "snlive": InstructionSet(
        "snli_ve_train.jsonl", published(STATEMENT_FORMATS["snli_ve"], rows), "data/flickr30k/images", "lines"
    ),
    "dolly": InstructionSet(
        "databricks-dolly-15k.jsonl", published(INSTRUCTION_FORMATS["dolly"], plain_list), layout="lines"
    ),
    "alpaca_gpt4": InstructionSet("alpaca_gpt4_data.json", published(INSTRUCTION_FORMATS["alpaca"], plain_list)),
    "baize": InstructionSet("quora_chat_data.json", published(INSTRUCTION_FORMATS["baize"], plain_list)),
}  # fmt: skip
