"""The records of the instruction data of Multimodal-GPT: read from the published files, written in its own layouts.

vqa, okvqa    two files (VQAv2, OK-VQA)   -> {"image", "question", "answer": [ten], "question_id"}
aokvqa        aokvqa_v1p0_train.json      -> its fields and {"image"}, which the published file does not have
coco_caption  dataset_coco.json           -> {"image", "caption": [five]}; also captions_train2014.json
ocr_vqa       dataset.json                -> {"filename", "questions": [...], "answers": [...]}
nlvrv2        train.json (one per line)   -> {"sentence", "label", "images": [left, right], "identifier"}

The other sets keep the published records: text_ocr (TextVQA), gqa, nlvrv1, clevr, snlive, dolly, alpaca_gpt4, baize.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from chatbridge.common.errors import DataError
from chatbridge.datasets.formats.coco import coco, coco_names, karpathy
from chatbridge.datasets.formats.instructions import INSTRUCTION_FORMATS
from chatbridge.datasets.formats.json_fields import BadRecord, Fields
from chatbridge.datasets.formats.json_stream import json_values, rows, section
from chatbridge.datasets.formats.records import AnnotationRecord, Parsed, each, parsed
from chatbridge.datasets.formats.single_answer_vqa import gqa, ocrvqa
from chatbridge.datasets.formats.vqa import SUBSETS, vqav2
from dataset_prep.annotation_file import Record

NLVR_SPLITS = ("train", "dev", "test")
NLVR_IMAGES = 6  # of one NLVR record: its three boxes in six orders
ENTAILMENTS = ("entailment", "neutral", "contradiction")


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
    put: Callable[[Record, Sequence[str]], Record] | None = None
    fault: tuple[str, str] | None = None


def _one(key: str) -> Callable[[Record, Sequence[str]], Record]:
    return lambda record, names: {key: names[0], **{name: value for name, value in record.items() if name != key}}


def _several(record: Record, names: Sequence[str]) -> Record:
    return {**record, "images": list(names)}


def _example(read: AnnotationRecord, record: Record, key: str | None, answers: Sequence[Any]) -> Example:
    """An example with one image, from a record of formats/; without an answer it cannot be used."""
    return Example(read.id, record, (read.names,), _one(key) if key else None, _unless(answers))


def vqa(path: Path, questions: Path | None = None) -> Iterator[Parsed[Example]]:
    """VQAv2 and OK-VQA: every answer, equal ones too."""
    for found in vqav2(path, questions):
        if found.record is None:
            yield Parsed(found.place, None, found.fault)
            continue
        ((question, answers),) = found.record.questions
        fields = {"question": question, "answer": list(answers), "question_id": found.record.id}
        yield Parsed(found.place, _example(found.record, fields, "image", answers))


def _aokvqa(fields: Fields) -> Example:
    """Records of the published file, and of LAVIS's, which has the image."""
    fields.text("question")
    choices, rationales = fields.answers("choices"), fields.texts("rationales")
    correct = fields.record.get("correct_choice_idx")
    if correct is not None and (type(correct) is not int or not 0 <= correct < len(choices)):
        raise BadRecord(f"the correct choice is {correct!r}, expected 0 to {len(choices) - 1}")
    names = fields.files("image") or coco_names(fields.number("image_id"), *SUBSETS)
    fault = ("has no answer", "") if correct is None else None if rationales else ("has no rationale", "")
    return Example(fields.name("question_id"), fields.record, (names,), _one("image"), fault)


def coco_caption(path: Path, split: Sequence[str] | None = None) -> Iterator[Parsed[Example]]:
    """Karpathy's file with `split`, of which several are joined; COCO's without."""
    for found in coco(path) if split is None else karpathy(path):
        if found.record is None:
            yield Parsed(found.place, None, found.fault)
        elif split is None or found.record.details["split"] in split:
            captions = [text for text in found.record.captions if text.strip()]
            example = _example(found.record, {"caption": captions}, "image", captions)
            yield Parsed(found.place, example)


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
        fields = {"questions": [pair[0] for pair in pairs], "answers": [pair[1] for pair in pairs]}
        yield Parsed(found[0].place, Example(names[0], fields, (names,), _one("filename"), _unless(pairs)))


def _unless(answers: Sequence[Any]) -> tuple[str, str] | None:
    return None if answers else ("has no answer", "")


def _text_ocr(fields: Fields) -> Example:
    fields.text("question")
    image = fields.name("image_id")
    return Example(image, fields.record, ((f"{image}.jpg",),), fault=_unless(fields.answers("answers")))


def _clevr(fields: Fields) -> Example:
    fields.text("question")
    image = f"{fields.name('split')}/{fields.text('image_filename')}"
    asked = fields.record.get("question_index", fields.record["question"])
    return Example(f"{image}: {asked}", fields.record, ((image,),), fault=_unless(fields.answers("answer")))


def _nlvrv2(fields: Fields) -> Example:
    """The published file names no images: train-10171-0-0 is about train/10171's train-10171-0-img0.png and -img1."""
    fields.text("sentence")
    label, identifier = str(fields.get("label")), fields.name("identifier") if "images" not in fields.record else ""
    images = tuple((name,) for name in fields.files("images"))
    if not images:
        pair, folders = identifier.rpartition("-")[0], _nlvr2_folders(fields.record, identifier.partition("-")[0])
        images = tuple(tuple(f"{folder}{pair}-img{side}.png" for folder in folders) for side in range(2))
    if len(images) != 2:
        raise BadRecord(f"'images' has {len(images)} names, expected the left and the right image")
    kept = {"sentence": fields.record["sentence"], "label": label, "images": [], **fields.kept("identifier")}
    fault = None if label.lower() in ("true", "false") else ("its label is neither true nor false", label)
    return Example(identifier or " + ".join(names[0] for names in images), kept, images, _several, fault)


def _nlvr2_folders(record: Mapping[str, Any], split: str) -> tuple[str, ...]:
    """Where the images of a split may be: train's are in numbered folders."""
    inside = (f"{split}/{record['directory']}/",) if "directory" in record else ()
    return tuple(f"{above}{one}" for one in (*inside, f"{split}/", "") for above in ("images/", ""))


def nlvrv2(path: Path) -> Iterator[Parsed[Example]]:
    """The published file has one record per line, LAVIS's is a list of records with the names of the images."""
    return (parsed(value, _nlvrv2) for value in rows(path))


def nlvrv1(path: Path, split: Sequence[str] | None = None) -> Iterator[Parsed[Example]]:
    """Each record has six images, which must exist. Their names have the split of the file, which its name tells."""
    (part,) = split or (path.stem,)
    if part not in NLVR_SPLITS:
        raise DataError(f"{path}: its name is not a split of NLVR ({', '.join(NLVR_SPLITS)}); give one with --split")

    def read(fields: Fields) -> Example:
        fields.text("sentence")
        folder, identifier = fields.name("directory"), fields.name("identifier")
        label = str(fields.get("label"))
        names = tuple((f"{part}/images/{folder}/{part}-{identifier}-{k}.png",) for k in range(NLVR_IMAGES))
        fault = None if label.lower() in ("true", "false") else ("its label is neither true nor false", label)
        return Example(identifier, fields.record, names, fault=fault)

    return (parsed(value, read) for value in rows(path))


def _snlive(fields: Fields) -> Example:
    fields.text("sentence2")
    label, image = fields.text("gold_label"), fields.name("Flickr30K_ID")
    fault = None if label in ENTAILMENTS else ("its label is none of " + ", ".join(ENTAILMENTS), label)
    return Example(f"{image}: {fields.record['sentence2']}", fields.record, ((f"{image}.jpg",),), fault=fault)


def gqa_questions(path: Path) -> Iterator[Parsed[Example]]:
    """The published object from question ids to records, of which each gets its id for the file that is written."""
    for value, found in zip(json_values(path), gqa(path, full_answers=True), strict=True):
        if found.record is None:
            yield Parsed(found.place, None, found.fault)
            continue
        ((_, answers),) = found.record.questions
        yield Parsed(found.place, _example(found.record, {str(value.key): value.value}, None, answers))


def _instructions(layout: str) -> Callable[[Path], Iterator[Parsed[Example]]]:
    """The records of a text-only file that has an answer to each."""

    def read(path: Path) -> Iterator[Parsed[Example]]:
        for value, found in zip(section(path, ""), INSTRUCTION_FORMATS[layout].read(path), strict=True):
            if found.record is None:
                yield Parsed(found.place, None, found.fault)
                continue
            fault = None if _is_answered(found.record) else ("has no answer", "")
            yield Parsed(found.place, Example(found.place, value.value, fault=fault))

    return read


def _is_answered(record: AnnotationRecord) -> bool:
    """Whether some answer has text: a chat of Baize ends with an open turn of the human."""
    return any(role == "assistant" and text.strip() for role, text in getattr(record, "turns", ()))


@dataclass(frozen=True)
class InstructionSet:
    """One set.

    published  name of the published file
    read       (path, and `questions` or `split` where `asks` has it) -> examples
    images     the default folder of its images; None: text-only. COCO's are looked up by their number
    layout     of the file that is written, see dataset_prep.annotation_file
    splits     that --split accepts
    by_split   one file is written per split, with the split in its name
    """

    published: str
    read: Callable[..., Iterable[Parsed[Example]]]
    images: str | None = None
    layout: str = "list"
    asks: tuple[str, ...] = ()
    splits: tuple[str, ...] = ()
    by_split: bool = False

    @property
    def is_coco(self) -> bool:
        return self.images == COCO

    def file_name(self, name: str, path: Path, split: Sequence[str] | None) -> str:
        """Of the file that is written for the set `name` from the list `path`."""
        part = f"_{split[0] if split else path.stem}" if self.by_split else ""
        return f"{name}{part}.{'jsonl' if self.layout == 'lines' else 'json'}"


COCO = "data/multis/coco/images"
PAIR, SPLIT = ("questions",), ("split",)
KARPATHY = ("train", "restval", "val", "test")
SETS = {
    "vqa": InstructionSet("v2_mscoco_train2014_annotations.json", vqa, COCO, asks=PAIR),
    "okvqa": InstructionSet("mscoco_train2014_annotations.json", vqa, COCO, asks=PAIR),
    "aokvqa": InstructionSet("aokvqa_v1p0_train.json", each(_aokvqa, ""), COCO),
    "coco_caption": InstructionSet("dataset_coco.json", coco_caption, COCO, asks=SPLIT, splits=KARPATHY),
    "ocr_vqa": InstructionSet(
        "dataset.json", ocr_vqa, "data/ocr_vqa/images", asks=SPLIT, splits=("train", "val", "test")
    ),
    "text_ocr": InstructionSet("TextVQA_0.5.1_train.json", each(_text_ocr, "data"), "data/textvqa/images", "data"),
    "gqa": InstructionSet("train_balanced_questions.json", gqa_questions, "data/gqa/images", "ids"),
    "clevr": InstructionSet("CLEVR_train_questions.json", each(_clevr, "questions"), "data/clevr/images", "questions"),
    "nlvrv1": InstructionSet("train.json", nlvrv1, "data/nlvr", "lines", SPLIT, NLVR_SPLITS, by_split=True),
    "nlvrv2": InstructionSet("train.json", nlvrv2, "data/nlvr2/images"),
    "snlive": InstructionSet("snli_ve_train.jsonl", each(_snlive, ""), "data/flickr30k/images", "lines"),
    "dolly": InstructionSet("databricks-dolly-15k.jsonl", _instructions("dolly"), layout="lines"),
    "alpaca_gpt4": InstructionSet("alpaca_gpt4_data.json", _instructions("alpaca")),
    "baize": InstructionSet("quora_chat_data.json", _instructions("baize")),
}
