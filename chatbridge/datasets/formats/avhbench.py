"""AVHBench: yes or no about a video and its audio, and captions of both.

avhbench   [{"video_id": "00191" or "00191_swap" (with the audio of another video), "task": "Audio-driven Video
           Hallucination", "Video-driven Audio Hallucination", "AV Matching" or "AV Captioning", "text": the question,
           "label": "Yes", "No" or the caption}]; the video is video/<video_id>.mp4. `questions` reads the first three
           tasks, `captions` the last; `split` chooses among them. The release has a file per video, which
           `python -m dataset_prep.avhbench` joins.

Source: kaist-ami/AVHBench.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from chatbridge.common.errors import nearest
from chatbridge.datasets.formats.json_fields import BadRecord, Fields
from chatbridge.datasets.formats.json_stream import rows
from chatbridge.datasets.formats.records import CaptionRecord, Format, Parsed, QuestionRecord, parsed

VIDEO, AUDIO, MATCHING = "Audio-driven Video Hallucination", "Video-driven Audio Hallucination", "AV Matching"
CAPTIONING = "AV Captioning"
TASKS = (VIDEO, AUDIO, MATCHING, CAPTIONING)
ANSWERS = ("yes", "no")
SWAPPED = "_swap"  # ends the id of a video whose audio was exchanged


def avhbench_questions(annotations: Path) -> Iterator[Parsed[QuestionRecord]]:
    """A record per question; captions are left out."""
    for value in rows(annotations):
        one = parsed(value, _question)
        if one.record is None or one.record.details["task"] != CAPTIONING:
            yield one


def avhbench_captions(annotations: Path) -> Iterator[Parsed[CaptionRecord]]:
    """A record per caption; questions are left out."""
    for value in rows(annotations):
        one = parsed(value, _caption)
        if one.record is None or one.record.details["task"] == CAPTIONING:
            yield one


def _question(fields: Fields) -> QuestionRecord:
    task, label = _task(fields), fields.text("label").strip()
    if task != CAPTIONING and label and label.lower() not in ANSWERS:
        raise BadRecord(f"'label' is {label[:40]!r}, expected Yes or No")
    video = fields.name("video_id")
    return QuestionRecord(
        names=(video,),
        questions=((fields.text("text").strip(), (label,) if label else ()),),
        details=_details(task, video),
    )


def _caption(fields: Fields) -> CaptionRecord:
    task, video = _task(fields), fields.name("video_id")
    captions = fields.texts("label")
    return CaptionRecord(names=(video,), captions=captions, details=_details(task, video))


def _task(fields: Fields) -> str:
    task = fields.text("task").strip()
    if task not in TASKS:
        guess = nearest(task, TASKS)
        meant = f"; did you mean {guess!r}?" if guess else ""
        raise BadRecord(f"'task' is {task[:60]!r}, expected one of {', '.join(TASKS)}{meant}")
    return task


def _details(task: str, video: str) -> dict[str, str]:
    return {"task": task, "split": task, "video": video, "audio": "other" if video.endswith(SWAPPED) else "own"}


QUESTIONS = Format(avhbench_questions, has_splits=True)
CAPTIONS = Format(avhbench_captions, has_splits=True)
