"""Questions with options about an image and audio, or about a video and its audio.

omnibench    batch-5_1142_20240817.jsonl of the repository, a line per question: {"index", "task type", "audio type",
             "question", "options": four, "answer": the text of one of them, "image_path", "audio_path", ...}; the files
             are in mm_data/image and mm_data/audio.
worldsense   worldsense_qa.json: {"<video>": {"duration", "domain", "sub_category", "audio_class": [...], "task0":
             {"question", "candidates": ["A. ...", ...], "answer": "B", "task_domain", "task_type"}, "task1": ...}}; the
             videos are videos/<video>.mp4.
daily_omni   qa.json: [{"Question", "Choice": ["A. ...", ...], "Answer": "B", "video_id", "Type", "video_category",
             "video_duration": "30s", ...}]; the files are Videos/<id>/<id>_video.mp4 and <id>_audio.wav.

Sources: multimodal-art-projection/OmniBench; honglyhly/WorldSense and open-compass/VLMEvalKit; Lliar-liar/Daily-Omni.
Sets whose questions have media between their words are in placed_choices.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from chatbridge.common.errors import DataError
from chatbridge.datasets.formats.choices import options_of
from chatbridge.datasets.formats.json_fields import BadRecord, Fields, kind_of
from chatbridge.datasets.formats.json_stream import json_values
from chatbridge.datasets.formats.records import ChoiceRecord, Format, Parsed, each_row, parsed

PREFIX = re.compile(r"\(?([A-Z])[.:)]\s*")  # "A. a dog", "(A) a dog"


def lettered_options(fields: Fields, *names: str) -> tuple[str, ...]:
    """The options without the letters that the file writes before them. raises BadRecord"""
    options = options_of(fields, *names)
    found = [PREFIX.match(option) for option in options]
    letters = "".join(one[1] for one in found if one is not None)
    if letters != ascii_uppercase[: len(options)]:
        return options
    texts = tuple(option[one.end() :].strip() for option, one in zip(options, found) if one is not None)
    if "" in texts:
        raise BadRecord(f"option {ascii_uppercase[texts.index('')]} of {names[0]!r} is empty")
    return texts


def answer_number(fields: Fields, options: Sequence[str], *names: str) -> int | None:
    """The number of the option whose letter is the answer; None where the file has none. raises BadRecord"""
    value = fields.record.get(names[0])
    if value is None or value == "":
        return None
    letters = ascii_uppercase[: len(options)]
    text = value.strip().upper() if isinstance(value, str) else ""
    if len(text) != 1 or text not in letters:
        raise BadRecord(f"{names[0]!r} is {kind_of(value)}, expected a letter from A to {letters[-1]}")
    return letters.index(text)


def _omnibench(fields: Fields) -> ChoiceRecord:
    options = options_of(fields, "options")
    given = "".join(fields.answers("answer")).strip()
    kind = "".join(fields.texts("audio type"))  # the official script does not distinguish Speech and speech
    if given and given not in options:
        raise BadRecord(f"'answer' is {given[:60]!r}, which is none of its options")
    return ChoiceRecord(
        id=fields.name("index"),
        files={"image": (fields.text("image_path"),), "audio": (fields.text("audio_path"),)},
        question=fields.text("question").strip(),
        options=options,
        answer=options.index(given) if given else None,
        details={**fields.kept("task type"), **({"audio type": kind.strip().lower()} if kind else {})},
    )


def worldsense(annotations: Path) -> Iterator[Parsed[ChoiceRecord]]:
    """One record per question, in the order of the file. raises DataError for another layout"""
    for value in json_values(annotations):
        if isinstance(value.key, int) or not isinstance(value.value, dict):
            found = "a list" if isinstance(value.key, int) else kind_of(value.value)
            raise DataError(
                f"{annotations}: expected an object from video to questions, found {found} at {value.place}"
            )
        video = str(value.key)
        tasks = [name for name in value.value if re.fullmatch(r"task\d+", name)]
        if value.fault is not None or not tasks:
            yield Parsed(value.place, None, value.fault or f"video {video} has no question ('task0', 'task1', ...)")
        for name in tasks if value.fault is None else ():
            one = value._replace(place=f"{value.place}, {name}", value=value.value[name])
            yield parsed(one, _worldsense, video, name, value.value)


def _worldsense(fields: Fields, video: str, task: str, of_video: dict[str, Any]) -> ChoiceRecord:
    options = lettered_options(fields, "candidates")
    kept = {name: of_video[name] for name in ("duration", "domain", "sub_category", "audio_class") if name in of_video}
    return ChoiceRecord(
        id=f"{video}_{task}",
        names=(video,),
        question=fields.text("question").strip(),
        options=options,
        answer=answer_number(fields, options, "answer"),
        details={**kept, **fields.kept("task_domain", "task_type"), "video": video},
    )


def _daily_omni(fields: Fields) -> ChoiceRecord:
    video = fields.name("video_id")
    options = lettered_options(fields, "Choice")
    kept = fields.kept("Type", "video_category", "video_duration", "content_parent_category", "content_fine_category")
    return ChoiceRecord(
        files={"video": (f"{video}/{video}_video.mp4",), "audio": (f"{video}/{video}_audio.wav",)},
        question=fields.text("Question").strip(),
        options=options,
        answer=answer_number(fields, options, "Answer"),
        details={**kept, "video": video},
    )


AUDIO_VISUAL_FORMATS = {
    "omnibench": Format(each_row(_omnibench)),
    "worldsense": Format(worldsense),
    "daily_omni": Format(each_row(_daily_omni)),
}
