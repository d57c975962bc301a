"""Choice sets about an image or a video with audio, in their published layouts."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chatbridge.common.errors import ConfigError, DataError, MediaError
from chatbridge.config.merge import load
from chatbridge.config.schema import parse
from chatbridge.conversation.messages import Media, Text
from chatbridge.datasets.builders import BUILDERS, Dataset, Record
from tests.helpers.mini_audio_visual import (
    AV_ODYSSEY,
    DAILY_OMNI,
    OMNIBENCH,
    WORLDSENSE,
    XMODBENCH,
    av_odyssey_node,
    daily_omni_node,
    omnibench_node,
    worldsense_node,
    xmodbench_node,
)
from tests.helpers.miniature import replaced


def opened(node: dict[str, Any]) -> Dataset:
    part = BUILDERS.get("choices")
    return part(parse(part.Config, {key: value for key, value in node.items() if key != "name"}), "set")


def records(node: dict[str, Any]) -> list[Record]:
    found = opened(node)
    return [found.record(number, np.random.default_rng(0)) for number in range(len(found))]


def shown(record: Record) -> list[str]:
    """The parts of the question: texts as they are, media as "modality:file"."""
    return [
        part.text if isinstance(part, Text) else f"{part.modality}:{Path(part.ref).name}"
        for part in record.conversation[0].parts
        if isinstance(part, (Text, Media))
    ]


ENDING = "\nAnswer with the letter of the option."


def test_omnibench(tmp_path: Path):
    """fails when an answer that is a text gets another letter, or image and audio of a question are exchanged"""
    first, second = records(omnibench_node(tmp_path))
    listed = "A. They cook.\nB. They read.\nC. They solve a puzzle.\nD. They sleep."
    assert shown(first) == ["image:1_024.png", "audio:1_24.mp4.mp3", f"What are the men doing?\n{listed}{ENDING}"]
    assert (first.id, first.references, second.references) == ("0", ("C",), ("A",))
    assert first.details["task type"] == "Action and Activity" and second.details["audio type"] == "music"
    lines = tmp_path / "batch.jsonl"
    lines.write_text("".join(json.dumps(one) + "\n" for one in OMNIBENCH), encoding="utf-8")
    assert [one.references for one in records(omnibench_node(tmp_path, annotations=str(lines)))] == [("C",), ("A",)]


def test_worldsense(tmp_path: Path):
    """fails when a task of a video is lost, the letters of the file are shown twice, or the audio is another video's"""
    found = records(worldsense_node(tmp_path))
    assert [one.id for one in found] == ["AbcdEfgh_task0", "AbcdEfgh_task1", "Zyxwvuts_task0"]
    assert shown(found[0]) == [
        "video:AbcdEfgh.mp4", "audio:AbcdEfgh.wav",
        f"What is heard first?\nA. A drum\nB. A trumpet\nC. A piano\nD. A violin{ENDING}",
    ]  # fmt: skip
    assert [one.references for one in found] == [("B",), ("D",), ("A",)]
    assert found[1].details["video"] == "AbcdEfgh" and found[1].details["task_type"] == "Event Sorting"
    assert found[0].details["audio_class"] == ["Music", "Speech"]
    tracks = worldsense_node(tmp_path / "other", audio_folder=str(tmp_path / "videos"))
    assert shown(records(tracks)[0])[1] == "audio:AbcdEfgh.mp4", "the audio track of the video"


def test_daily_omni(tmp_path: Path):
    """fails when the two files of a video are not found in its folder, or two questions share an id"""
    first, second = records(daily_omni_node(tmp_path))
    assert shown(first)[:2] == ["video:G_VTkkb34gw_video.mp4", "audio:G_VTkkb34gw_audio.wav"]
    assert shown(first)[2] == f"What is heard while the car turns?\nA. A horn\nB. A bell\nC. A voice\nD. Rain{ENDING}"
    assert (first.references, second.references) == (("A",), ("C",)) and first.id != second.id
    assert first.details["video_duration"] == "30s" and second.details["Type"] == "Inference"


def test_av_odyssey_has_its_media_between_its_words(tmp_path: Path):
    """fails when an image is not at its option, the audio not in the question, or a rotation leaves images in place"""
    first, second = records(av_odyssey_node(tmp_path))
    assert shown(first) == [
        "Which image fits this sound?", "audio:1_0.wav", "\nA.", "image:1_0_1.jpg", "\nB.", "image:1_0_2.jpg", "\nC.",
        "image:1_0_3.jpg", "\nD.", "image:1_0_4.jpg", ENDING,
    ]  # fmt: skip
    assert shown(second)[:4] == ["Does the audio", "audio:14_3.wav", "belong to the video", "video:14_3.mp4"]
    assert (first.id, first.references, second.references) == ("1_0", ("B",), ("A",))
    assert second.details["options"]["A"] == "Yes, it does" and first.details["subfield"] == "Timbre"
    rotated = records(av_odyssey_node(tmp_path, rotate=True))[1]
    assert rotated.references == ("A",) and shown(rotated)[3] == "image:1_0_2.jpg"
    listed = replaced(AV_ODYSSEY[:1], (0, "question"), "Which image?")  # nothing names the audio
    assert shown(records(av_odyssey_node(tmp_path, listed))[0])[:2] == ["audio:1_0.wav", "\nWhich image?\nA."]
    lists = [
        {**AV_ODYSSEY[0], "image_path": [f"1_0_{number}.jpg" for number in (1, 2, 3, 4)], "audio_path": ["1_0.wav"]}
    ]
    assert shown(records(av_odyssey_node(tmp_path, lists))[0]) == shown(first)


def test_xmodbench_has_options_of_any_modality(tmp_path: Path):
    """fails when a path of the machine that wrote the file is looked up, or options of text lose their text"""
    first, second = records(xmodbench_node(tmp_path))
    question = XMODBENCH[0]["question"]
    assert shown(first)[:6] == [f"{question}\nAudio:", "audio:a#1#11.wav", "\nA.", "image:a#1#11.jpg", "\nB.",
                                "image:b#2#12.jpg"]  # fmt: skip
    assert shown(second)[2] == f"\nA. Rain\nB. Fire\nC. Wind\nD. Sea{ENDING}"
    assert (first.references, second.references) == (("A",), ("B",))
    assert (first.details["condition"], first.details["option"]) == ("audio", "image")
    assert second.details["option"] == "text"
    assert first.details["category"] == "Natural Sounds" and "family" not in first.details
    assert (second.details["family"], second.details["category"]) == ("linguistic", "03_speech/recognition")
    assert shown(second)[1] == "audio:b#2#12.wav", "a path that begins with Data/"


NODES = {"omnibench": omnibench_node, "worldsense": worldsense_node, "daily_omni": daily_omni_node,
         "av_odyssey": av_odyssey_node, "xmodbench": xmodbench_node}  # fmt: skip


@pytest.mark.parametrize("name", NODES)
def test_the_task_of_a_set_fits_its_records(name: str, tmp_path: Path):
    """fails when the YAML of a set groups or resamples by a field that its records do not have, or asks without a
    question, its options or a file"""
    root = Path(__file__).parents[3]
    tasks = load(root / f"configs/tasks/{name}.yaml")[0]["evaluation"]["tasks"]
    first = next(iter(tasks.values()))
    assert all(one["group_by"] == first["group_by"] for one in tasks.values())
    mine = NODES[name](tmp_path)
    found = records({**mine, **{key: first["dataset"][key] for key in ("prompt",) if key in first["dataset"]}})
    for record in found:
        assert {*first["group_by"], *first.get("resample_by", ())} <= record.details.keys()
        parts = shown(record)
        assert any(part.partition(":")[0] in mine["media"] for part in parts)
        text = "".join(parts)
        assert str(record.details["question"]).split("<")[0].strip()[:20] in text and "<QUESTION>" not in text


def test_xmodbench_in_lines(tmp_path: Path):
    """fails when the files of a pair of modalities, a record per line, are not read as the lists are"""
    lines = tmp_path / "audio_text.jsonl"
    lines.write_text("".join(json.dumps(one) + "\n" for one in XMODBENCH), encoding="utf-8")
    found = records(xmodbench_node(tmp_path, annotations=str(lines)))
    assert [shown(one) for one in found] == [shown(one) for one in records(xmodbench_node(tmp_path))]


@pytest.mark.parametrize(
    "node, message",
    [
        (lambda at: omnibench_node(at, WORLDSENSE), "its records fit format: worldsense; is it the right file"),
        (lambda at: omnibench_node(at, DAILY_OMNI), "its records fit format: daily_omni; is it the right file"),
        (lambda at: worldsense_node(at, DAILY_OMNI), "its records fit format: daily_omni; is it the right file"),
        (lambda at: av_odyssey_node(at, XMODBENCH), "its records fit format: xmodbench; is it the right file"),
        (lambda at: xmodbench_node(at, OMNIBENCH), "its records fit format: omnibench; is it the right file"),
        (lambda at: omnibench_node(at, replaced(OMNIBENCH, (1, "answer"), "No")), "record 1: 'answer' is 'No'"),
        (lambda at: daily_omni_node(at, replaced(DAILY_OMNI, (0, "Answer"), "E")), "'E', expected a letter from A"),
        (lambda at: worldsense_node(at, {**WORLDSENSE, "x": {"duration": "1"}}), "video x has no question"),
        (
            lambda at: av_odyssey_node(at, replaced(AV_ODYSSEY, (0, "question"), "Which? [audio2]")),
            "record 0: its text names audio 2, but it has 1",
        ),
        (
            lambda at: xmodbench_node(at, replaced(XMODBENCH, (0, "options", "B", "modality"), "Smell")),
            "'modality' is 'Smell', expected one of image, audio, video, vision, text",
        ),
    ],
)  # fmt: skip
def test_a_wrong_annotation_file(node: Any, message: str, tmp_path: Path):
    """fails when a file of another set, or a record with a mistake, is read, or the message does not name the place"""
    with pytest.raises(DataError) as error:
        opened(node(tmp_path))
    assert re.search(f"(?s){message}", str(error.value)), error.value


def test_markers_belong_to_sets_that_do_not_place_their_media(tmp_path: Path):
    """fails when a prompt of AV-Odyssey may place media a second time, or a missing image is not named"""
    with pytest.raises(ConfigError, match="has <audio>, but questions of the format 'av_odyssey' place their media"):
        opened(av_odyssey_node(tmp_path, prompt="<audio> <QUESTION> <OPTIONS>"))
    with pytest.raises(ConfigError, match="has no <audio>, expected it once"):
        opened(omnibench_node(tmp_path, prompt="<image> <QUESTION> <OPTIONS>"))
    node = omnibench_node(tmp_path)
    (tmp_path / "mm_data" / "image" / "6-002.jpg").unlink()
    with pytest.raises(MediaError, match=r"no image file for '6-002\.jpg'"):
        records(node)
