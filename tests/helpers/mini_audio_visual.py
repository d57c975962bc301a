"""Sets about images or videos with audio in miniature, field for field as they are published."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from chatbridge.config.schema import parse
from chatbridge.datasets.builders import BUILDERS, Record
from tests.helpers.miniature import Miniature, ask, reply
from tests.helpers.tiny_media import jpeg, mp4, wav, write_json

OMNIBENCH = [
    {"task type": "Action and Activity", "audio type": "speech", "question": "What are the men doing?",
     "audio content": "A: Four letters.", "image content": "Two men sit on a couch.", "audio_path": "1_24.mp4.mp3",
     "image_path": "1_024.png", "index": 0, "answer": "They solve a puzzle.",
     "options": ["They cook.", "They read.", "They solve a puzzle.", "They sleep."]},
    {"task type": "Object Identification", "audio type": "Music", "question": "Which instrument plays?",
     "audio content": "", "image content": "A stage.", "audio_path": "6-002.mp3", "image_path": "6-002.jpg", "index": 1,
     "answer": "The left one", "options": ["The left one", "The right one", "Both", "None"]},
]  # fmt: skip
WORLDSENSE = {
    "AbcdEfgh": {
        "video_id": "AbcdEfgh", "video_duration": "60s", "duration": "<1min", "domain": "Music", "sub_category": "Jazz",
        "audio_class": ["Music", "Speech"], "video_caption": "A band plays.",
        "task0": {"task_domain": "Understanding", "task_type": "Audio Recognition", "question": "What is heard first?",
                  "answer": "B", "candidates": ["A. A drum", "B. A trumpet", "C. A piano", "D. A violin"]},
        "task1": {"task_domain": "Reasoning", "task_type": "Event Sorting", "question": "What comes last?",
                  "answer": "D", "candidates": ["A. Talk", "B. Song", "C. Bow", "D. Applause"]},
    },
    "Zyxwvuts": {
        "video_id": "Zyxwvuts", "video_duration": "15s", "duration": "<1min", "domain": "Sports",
        "sub_category": "Tennis", "audio_class": ["Event"], "video_caption": "A match.",
        "task0": {"task_domain": "Recognition", "task_type": "Audio Counting", "question": "How many hits?",
                  "answer": "A", "candidates": ["A. 2", "B. 3", "C. 4", "D. 5"]},
    },
}  # fmt: skip
DAILY_OMNI = [
    {"Type": "AV Event Alignment", "Question": "What is heard while the car turns?", "Answer": "A",
     "Choice": ["A. A horn", "B. A bell", "C. A voice", "D. Rain"], "video_id": "G_VTkkb34gw",
     "content_parent_category": "Sports", "content_fine_category": "Career Highlights", "video_category": "Autos",
     "video_duration": "30s"},
    {"Type": "Inference", "Question": "Why does she laugh?", "Answer": "C",
     "Choice": ["A. A joke", "B. A fall", "C. A song", "D. A dog"], "video_id": "G_VTkkb34gw",
     "content_parent_category": "Sports", "content_fine_category": "Career Highlights", "video_category": "Autos",
     "video_duration": "30s"},
]  # fmt: skip
AV_ODYSSEY = [
    {"question_id": "1_0", "question_type_id": 1, "subfield": "Timbre", "data_type": "image", "answer": "B",
     "question": "Which image fits this sound? [audio1]",
     "options": ["A. [img1]", "B. [img2]", "C. [img3]", "D. [img4]"],
     "image_1": "1_0_1.jpg", "image_2": "1_0_2.jpg", "image_3": "1_0_3.jpg", "image_4": "1_0_4.jpg",
     "audio_1": "1_0.wav", "audio_2": None, "audio_3": None, "audio_4": None, "video_1": None},
    {"question_id": "14_3", "question_type_id": 14, "subfield": "Hallucination", "data_type": "video", "answer": "A",
     "question": "Does the audio [audio1] belong to the video [video1]?",
     "options": ["A. Yes, it does", "B. No", "C. In part", "D. Cannot be told"], "image_1": None, "image_2": None,
     "image_3": None, "image_4": None, "audio_1": "14_3.wav", "audio_2": None, "audio_3": None, "audio_4": None,
     "video_1": "14_3.mp4"},
]  # fmt: skip
XMODBENCH = [
    {"question": "Which image most likely makes this sound? Answer with A, B, C, or D", "category": "Natural Sounds",
     "conditions": {"modality": "Audio", "input": "/AudioBench/benchmark/Data/landscape/rain/a#1#11.wav"},
     "options": {letter: {"modality": "Image", "input": f"/AudioBench/benchmark/Data/landscape/{name}.jpg"}
                 for letter, name in zip("ABCD", ("rain/a#1#11", "fire/b#2#12", "wind/c#3#13", "sea/d#4#14"))},
     "correct_answer": "A"},
    {"index": 7, "question": "Which phrase describes the sound?", "category": "03_speech/recognition",
     "conditions": {"modality": "Audio", "input": "Data/landscape/fire/b#2#12.wav"},
     "options": {letter: {"modality": "Text", "input": text}
                 for letter, text in zip("ABCD", ("Rain", "Fire", "Wind", "Sea"))},
     "correct_answer": "B"},
]  # fmt: skip
PROMPT = "<QUESTION>\n<OPTIONS>\nAnswer with the letter of the option."


@cache
def _content(ending: str) -> bytes:
    return {"jpg": jpeg, "png": jpeg, "wav": wav, "mp3": wav, "mp4": mp4}[ending]()


def _media(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(_content(name.rpartition(".")[2]))
    return folder


def opened_choices(node: dict[str, Any]) -> list[Record]:
    """The records of a source of the builder `choices`."""
    part = BUILDERS.get("choices")
    found = part(parse(part.Config, {key: value for key, value in node.items() if key != "name"}), "set")
    return [found.record(number, np.random.default_rng(0)) for number in range(len(found))]


def omnibench_node(folder: Path, records: Any = None, **changed: Any) -> dict[str, Any]:
    """A source of the builder `choices`, with its media."""
    images = _media(folder / "mm_data" / "image", "1_024.png", "6-002.jpg")
    sounds = _media(folder / "mm_data" / "audio", "1_24.mp4.mp3", "6-002.mp3")
    path = write_json(folder / "omnibench.json", OMNIBENCH if records is None else records)
    return {"name": "choices", "format": "omnibench", "annotations": str(path), "media": ["image", "audio"],
            "image_folder": str(images), "audio_folder": str(sounds), "prompt": f"<image> <audio> {PROMPT}",
            **changed}  # fmt: skip


def worldsense_node(folder: Path, records: Any = None, **changed: Any) -> dict[str, Any]:
    videos = _media(folder / "videos", "AbcdEfgh.mp4", "Zyxwvuts.mp4")
    sounds = _media(folder / "audios", "AbcdEfgh.wav", "Zyxwvuts.wav")
    path = write_json(folder / "worldsense_qa.json", WORLDSENSE if records is None else records)
    return {"name": "choices", "format": "worldsense", "annotations": str(path), "media": ["video", "audio"],
            "video_folder": str(videos), "audio_folder": str(sounds), "prompt": f"<video> <audio> {PROMPT}",
            **changed}  # fmt: skip


def daily_omni_node(folder: Path, records: Any = None, **changed: Any) -> dict[str, Any]:
    name = "G_VTkkb34gw"
    videos = _media(folder / "Videos", f"{name}/{name}_video.mp4", f"{name}/{name}_audio.wav")
    path = write_json(folder / "qa.json", DAILY_OMNI if records is None else records)
    return {"name": "choices", "format": "daily_omni", "annotations": str(path), "media": ["video", "audio"],
            "video_folder": str(videos), "audio_folder": str(videos), "prompt": f"<video> <audio> {PROMPT}",
            **changed}  # fmt: skip


def av_odyssey_node(folder: Path, records: Any = None, **changed: Any) -> dict[str, Any]:
    media = _media(folder / "av_odyssey", *(f"1_0_{number}.jpg" for number in (1, 2, 3, 4)), "1_0.wav", "14_3.wav",
                   "14_3.mp4")  # fmt: skip
    path = write_json(folder / "av_odyssey.json", AV_ODYSSEY if records is None else records)
    return {"name": "choices", "format": "av_odyssey", "annotations": str(path), "media": ["image", "video", "audio"],
            **{f"{kind}_folder": str(media) for kind in ("image", "video", "audio")}, "prompt": PROMPT,
            **changed}  # fmt: skip


def xmodbench_node(folder: Path, records: Any = None, **changed: Any) -> dict[str, Any]:
    names = ("rain/a#1#11", "fire/b#2#12", "wind/c#3#13", "sea/d#4#14")
    media = _media(folder / "Data", *(f"landscape/{name}.jpg" for name in names), "landscape/rain/a#1#11.wav",
                   "landscape/fire/b#2#12.wav")  # fmt: skip
    path = write_json(folder / "landscapes_audio_vision.json", XMODBENCH if records is None else records)
    return {"name": "choices", "format": "xmodbench", "annotations": str(path), "media": ["image", "audio"],
            "image_folder": str(media), "audio_folder": str(media), "prompt": PROMPT, **changed}  # fmt: skip


AVHBENCH = [
    {"video_id": "00191", "task": "Video-driven Audio Hallucination", "text": "Is the man making sound in the audio?",
     "label": "Yes"},
    {"video_id": "00191", "task": "Audio-driven Video Hallucination", "text": "Is the dog visible in the video?",
     "label": "No"},
    {"video_id": "00191_swap", "task": "AV Matching", "text": "Are the contexts of audio and video matching?",
     "label": "No"},
    {"video_id": "00191", "task": "AV Captioning", "text": "Describe what you see and hear in a single sentence.",
     "label": "A man lies in bed and snores."},
]  # fmt: skip


def avhbench_node(folder: Path, records: Any = None, **changed: Any) -> dict[str, Any]:
    """A source of the builders `questions` and `captions`."""
    videos = _media(folder / "video", "00191.mp4", "00191_swap.mp4", "00191.wav", "00191_swap.wav")
    path = write_json(folder / "QA.json", AVHBENCH if records is None else records)
    return {"name": "questions", "format": "avhbench", "annotations": str(path), "tag": "tva-qa",
            "video_folder": str(videos), "audio_folder": str(videos), **changed}  # fmt: skip


AVHBENCH_FILES = {
    "avhbench": Miniature(
        builder="questions", settings={"format": "avhbench", "tag": "tva-qa"}, files={"QA": AVHBENCH}, count=3,
        id="QA.json, record 0", media=("00191.mp4", "00191.wav"), references=("Yes",),
        details={"task": "Video-driven Audio Hallucination", "video": "00191", "audio": "own"},
        first=(ask("Is the man making sound in the audio?", "00191.mp4", "00191.wav"), reply("Yes")),
        breaks=((0, "label"), "Maybe", "record 0: 'label' is 'Maybe', expected Yes or No"),
    ),
    "avhbench_captions": Miniature(
        builder="captions", settings={"format": "avhbench", "tag": "tva-cap"}, files={"QA": AVHBENCH}, count=1,
        id="QA.json, record 3", media=("00191.mp4", "00191.wav"), references=("A man lies in bed and snores.",),
        details={"task": "AV Captioning"},
        first=(ask("PROMPT", "00191.mp4", "00191.wav"), reply("A man lies in bed and snores.")),
        breaks=((3, "label"), 7, "record 3: 'label' holds the number 7, expected text"),
    ),
}  # fmt: skip
