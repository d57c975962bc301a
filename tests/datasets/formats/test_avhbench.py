"""AVHBench: questions and captions of one file, and the command that joins the files of its release."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chatbridge.common.errors import DataError
from chatbridge.config.schema import parse
from chatbridge.datasets.builders import BUILDERS, Record
from dataset_prep.avhbench import main
from tests.helpers.mini_audio_visual import AVHBENCH, OMNIBENCH, avhbench_node
from tests.helpers.miniature import replaced
from tests.helpers.tiny_media import write_json


def records(node: dict[str, Any]) -> list[Record]:
    part = BUILDERS.get(node["name"])
    found = part(parse(part.Config, {key: value for key, value in node.items() if key != "name"}), "set")
    return [found.record(number, np.random.default_rng(0)) for number in range(len(found))]


def test_questions_and_captions_of_one_file(tmp_path: Path):
    """fails when a caption is asked as a question, a task cannot be chosen, or a swapped video loses its audio"""
    found = records(avhbench_node(tmp_path))
    assert [one.references for one in found] == [("Yes",), ("No",), ("No",)] and len({one.id for one in found}) == 3
    assert [Path(item.ref).name for item in found[2].conversation[0].media] == ["00191_swap.mp4", "00191_swap.wav"]
    assert found[2].details["audio"] == "other" and found[0].details["audio"] == "own"
    chosen = records(avhbench_node(tmp_path, split="Audio-driven Video Hallucination"))
    assert [one.conversation[0].text for one in chosen] == ["Is the dog visible in the video?"]
    (caption,) = records(avhbench_node(tmp_path, name="captions", tag="tva-cap", prompt="Describe it."))
    assert caption.references == ("A man lies in bed and snores.",) and caption.details["task"] == "AV Captioning"


def test_a_wrong_file_or_task_is_named(tmp_path: Path):
    """fails when another file is read, or the task that is not there has no list of those that are"""
    with pytest.raises(DataError, match="record 0.*has no 'task'"):
        records(avhbench_node(tmp_path, OMNIBENCH))
    with pytest.raises(DataError, match="'task' is 'AV Match', .*did you mean 'AV Matching'"):
        records(avhbench_node(tmp_path, replaced(AVHBENCH, (2, "task"), "AV Match")))
    with pytest.raises(DataError, match="'label' is 'Maybe', expected Yes or No"):
        records(avhbench_node(tmp_path, replaced(AVHBENCH, (0, "label"), "Maybe")))
    with pytest.raises(DataError, match="has no split 'AV Captions'"):
        records(avhbench_node(tmp_path, split="AV Captions"))


def test_the_files_of_the_release_are_joined(tmp_path: Path, capsys: pytest.CaptureFixture):
    """fails when a file is lost, the order depends on the file system, or a file of another set is joined"""
    write_json(tmp_path / "json" / "00192.json", AVHBENCH[2:])
    write_json(tmp_path / "json" / "00191.json", AVHBENCH[:2])
    assert main(["--json", str(tmp_path / "json"), "--out", str(tmp_path / "out")]) == 0
    node = avhbench_node(tmp_path, annotations=str(tmp_path / "out" / "QA.json"))
    assert [one.conversation[0].text for one in records(node)] == [one["text"] for one in AVHBENCH[:3]]
    write_json(tmp_path / "json" / "00193.json", OMNIBENCH)
    with pytest.raises(DataError, match=r"00193\.json: record 0: has no 'task'"):
        main(["--json", str(tmp_path / "json"), "--out", str(tmp_path / "out2")])
    with pytest.raises(DataError, match=r"has no \.json file"):
        main(["--json", str(tmp_path / "video"), "--out", str(tmp_path / "out3")])
