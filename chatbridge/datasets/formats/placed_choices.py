"""Questions whose words or options have media between them.

A record's texts have a mark per media file, <image 1>, <audio 2> (the second audio file of the question), which a
prompt replaces by the file. Files that no text names come first.

av_odyssey   a row per question: {"question_id", "question_type_id", "subfield", "data_type", "question", "options":
             ["A. [img1]", ...], "answer": "B", and names of files: "image_path", "audio_path", "video_path" (lists) or
             "image_1", "audio_1", "video_1", ...}. Texts name them [img1], [audio2], [video1]. The release is parquet
             with the files inside; `python -m dataset_prep.av_odyssey` writes them out, with such rows.
xmodbench    <task>_<modality>_<modality>.json: [{"question", "conditions": {"modality": "Audio", "input": a path},
             "options": {"A": {"modality": "Image", "input": a path}, ...}, "correct_answer": "B"}]; with the modality
             Text the input is the text. Paths are below the folder Data of Data.zip, whatever their prefix. A
             record may have "category", in the files of every subject ("Animal Sounds"), and in those of a pair of
             modalities, data/audio_text.jsonl, with the folder: "01_perception/finegrained".

Sources: AV-Odyssey/AV-Odyssey, EvolvingLMMs-Lab/lmms-eval (av_odyssey); XingruiWang/XModBench and lmms-eval
(xmod_bench).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from chatbridge.conversation.modalities import MODALITIES
from chatbridge.datasets.formats.audio_visual_choices import answer_number, lettered_options
from chatbridge.datasets.formats.json_fields import BadRecord, Fields, kind_of
from chatbridge.datasets.formats.records import ChoiceRecord, Format, each_row

MARK = re.compile(r"<([a-z]+) (\d+)>")
TAG = re.compile(r"\[(img|audio|video)(\d+)\]")
OF_TAG = {"img": "image", "audio": "audio", "video": "video"}
VISION, TEXT = "vision", "text"  # inputs of XModBench beside the modalities
INPUTS = (*OF_TAG.values(), VISION, TEXT)
FAMILIES = {"speech": "linguistic", "external": "knowledge", "exteral": "knowledge"}  # folder -> name in its paper
# of the paths in XModBench's files; what is before it belongs to the machine that wrote them
ROOT = re.compile(r"^(?:.*/)?Data/", re.DOTALL)


def _av_odyssey(fields: Fields) -> ChoiceRecord:
    files = {name: found for name in OF_TAG.values() if (found := _numbered_files(fields, name))}
    question = _marked(fields.text("question").strip())
    options = tuple(map(_marked, lettered_options(fields, "options")))
    return ChoiceRecord(
        id=fields.name("question_id"),
        files=files,
        question=_checked(question, options, files),
        options=options,
        answer=answer_number(fields, options, "answer"),
        details=fields.kept("question_type_id", "subfield", "data_type"),
        placed=True,
    )


def _numbered_files(fields: Fields, kind: str) -> tuple[str, ...]:
    """The names of the files of a modality: a list, or one field each."""
    listed = fields.files(f"{kind}_path")
    return listed or tuple(name for number in range(1, 9) for name in fields.files(f"{kind}_{number}"))


def _marked(text: str) -> str:
    return TAG.sub(lambda tag: mark(OF_TAG[tag[1]], int(tag[2])), text)


def mark(modality: str, number: int) -> str:
    """The mark of a file of a record, counted from 1 within its modality."""
    return f"<{modality} {number}>"


def _checked(question: str, options: Sequence[str], files: Mapping[str, Sequence[str]]) -> str:
    """The question after the marks of the files that no text names. raises BadRecord for a mark without a file"""
    named = [(one[1], int(one[2])) for text in (question, *options) for one in MARK.finditer(text)]
    for modality, number in named:
        if not 1 <= number <= len(files.get(modality, ())):
            raise BadRecord(f"its text names {modality} {number}, but it has {len(files.get(modality, ()))}")
    there = [(modality, number) for modality, names in files.items() for number in range(1, len(names) + 1)]
    unnamed = "".join(mark(*one) for one in there if one not in named)
    return f"{unnamed}\n{question}" if unnamed else question


def _xmodbench(fields: Fields) -> ChoiceRecord:
    files: dict[str, list[str]] = {}
    condition = Fields(fields.get("conditions"))
    kind = condition.text("modality")
    question = f"{fields.text('question').strip()}\n{kind.capitalize()}: {_input(condition, files)}"
    listed = fields.get("options")
    if not isinstance(listed, dict) or list(listed) != [chr(65 + number) for number in range(len(listed))]:
        raise BadRecord(f"'options' is {kind_of(listed)}, expected an object from A, B, ... to options")
    options = tuple(_input(Fields(one), files) for one in listed.values())
    if len(options) < 2:
        raise BadRecord(f"'options' has {len(options)} options, expected 2 or more")
    others = dict.fromkeys(Fields(one).text("modality") for one in listed.values())
    return ChoiceRecord(
        files={modality: tuple(names) for modality, names in files.items()},
        question=question,
        options=options,
        answer=answer_number(fields, options, "correct_answer"),
        details={**_subject(fields), "condition": kind.lower(), "option": ", ".join(others).lower()},
        placed=True,
    )


def _subject(fields: Fields) -> dict[str, str]:
    """The category of a record, and the family that the folder before it names."""
    category = "".join(fields.texts("subtask") or fields.texts("category"))
    number, _, family = category.partition("/")[0].partition("_")
    named = {"family": FAMILIES.get(family.lower(), family.lower())} if "/" in category and number.isdecimal() else {}
    return {**named, **({"category": category} if category else {})}


def _input(fields: Fields, files: dict[str, list[str]]) -> str:
    """The text of an input, or the mark of its file, which is added to `files`. raises BadRecord"""
    kind = fields.text("modality").lower()
    if kind not in INPUTS:
        raise BadRecord(f"'modality' is {fields.text('modality')!r}, expected one of {', '.join(INPUTS)}")
    value, modality = "".join(fields.answers("input")).strip(), "image" if kind == VISION else kind
    if not value:
        raise BadRecord(f"'input' of the modality {kind} is empty")
    if modality == TEXT:
        return value
    ending = value.rpartition(".")[2].lower()
    if modality == "image" and ending in MODALITIES.get("video").endings.lookup:
        modality = "video"  # a few files call both of them vision
    files.setdefault(modality, []).append(ROOT.sub("", value).removeprefix("./"))
    return mark(modality, len(files[modality]))


PLACED_FORMATS = {"av_odyssey": Format(each_row(_av_odyssey)), "xmodbench": Format(each_row(_xmodbench))}
