"""Conditions of a modality report: which questions are asked again, and with which media."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from chatbridge.common import seeds
from chatbridge.config.schema import Choice, parse
from chatbridge.conversation.messages import Media
from chatbridge.processors.audio_file import open_audio
from chatbridge.processors.audio_reader import AudioEndsEarly, RolledReader, WaveformReader
from chatbridge.processors.limits import Limits
from chatbridge.processors.media_source import Rolled
from chatbridge.tasks import Task
from chatbridge.tasks.config import EvaluationConfig
from chatbridge.tasks.modality_report.altered_questions import under
from chatbridge.tasks.modality_report.conditions import conditions, exchange, items_of, media_keys, prompt_of
from chatbridge.tasks.modality_report.report import conditions_of
from tests.helpers.tiny_media import wav, write_json


def test_no_question_keeps_its_media_and_every_file_is_seen_as_often():
    """fails when the exchange has a fixed point, gives questions about one file different files, or drops a file"""
    keys = {index: (f"v{index // 3}.mp4",) for index in range(60)}  # three questions about each of 20 videos
    donors = exchange(keys, "video")
    given = {index: keys[donor] for index, donor in donors.items()}
    assert set(given) == set(keys) and all(given[index] != keys[index] for index in keys)
    assert all(given[index] == given[index - index % 3] for index in keys)
    assert sorted(given.values()) == sorted(keys.values())
    assert exchange(keys, "video") == donors != exchange(keys, "audio"), "fixed by its seed and the modality"


def test_media_are_exchanged_among_questions_with_as_many():
    """fails when a question with two images gets those of a question with one, though others have two"""
    keys = {0: ("a", "b"), 1: ("c", "d"), 2: ("e",), 3: ("f",), 4: ("g", "h", "i")}
    donors = exchange(keys, "image")
    assert donors[0] == 1 and donors[1] == 0 and donors[2] == 3 and donors[3] == 2 and donors[4] in (0, 1, 2, 3)
    assert exchange({0: ("a",), 1: ("a",)}, "image") == {}, "all questions have the same image"


def test_several_media_are_other_ones_in_every_place():
    """fails when the images of another question are its own in whole or in part, though others are there"""
    keys = {number: (f"v{number // 2}", f"v{number % 2 + 9}") for number in range(8)}
    donors = exchange(keys, "image")
    assert all(one != other for at in keys for one, other in zip(keys[at], keys[donors[at]], strict=True))
    assert exchange({0: ("a",), 1: ("a", "b"), 2: ("c", "d")}, "image")[0] == 2, '"a" again is no exchange'
    assert exchange({0: ("a",), 1: ("a", "b")}, "image") == {1: 0}, "no other image for question 0"
    found, _ = conditions([{"image": ("a",)}, {"image": ("a", "b")}], readable=[0, 1])
    assert found[1].asked == (1,)


def test_a_question_without_the_modality_is_not_asked_again():
    """fails when text questions are asked again, or an unreadable question gets media under a condition"""
    media = [{"audio": ("a",), "video": ("v",)}, {"audio": ("b",)}, {}, {"audio": ("c",), "video": ("v",)}]
    found, left_out = conditions(media, readable=[0, 1, 2])
    assert {one.name: one.asked for one in found} == {
        "without_audio": (0, 1), "shuffled_audio": (0, 1), "without_video": (0,), "misaligned_audio": (0,),
    }  # fmt: skip
    assert left_out == {"shuffled_video": "every question has the same video"}
    assert found[0].digest != found[1].digest


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Questions about six videos with audio, whose files are not decoded."""
    folder = tmp_path_factory.mktemp("pairs")
    for number in range(6):
        (folder / f"v{number}.mp4").write_bytes(b"video")
        (folder / f"v{number}.wav").write_bytes(b"audio")
    records = [{"video_id": f"v{number}", "question": f"What {number}?", "answer": "red"} for number in range(6)]
    write_json(folder / "qa.json", records)
    return folder


def opened(folder: Path, tag: str = "tva-qa", **settings: Any) -> Task:
    folders = {"tva-qa": ("video", "audio"), "tv-qa": ("video",)}[tag]
    dataset = {"name": "questions", "tag": tag, "annotations": str(folder / "qa.json"),
               **{f"{name}_folder": str(folder) for name in folders}}  # fmt: skip
    node = {"name": "vqa", "dataset": dataset, **settings}
    (choice,) = parse(EvaluationConfig, {"tasks": {"joint": node}}).tasks.values()
    assert isinstance(choice, Choice)
    return choice.part(choice.config, "joint")


@pytest.fixture(scope="module")
def task(folder: Path) -> Task:
    return opened(folder)


def test_which_tasks_have_a_report(folder: Path):
    """fails when a task of one modality, an ablation, or one that cannot be scored is asked again by default"""
    rows = [{"index": number, "references": ["red"]} for number in range(6)]
    both = {"without_audio", "without_video", "shuffled_audio", "shuffled_video", "misaligned_audio"}

    def names(task: Task, rows: list[dict[str, Any]] = rows) -> set[str]:
        return {one.name for one in conditions_of(task, rows)[0]}

    assert names(opened(folder)) == both
    assert names(opened(folder, report={"modalities": False})) == set()
    assert names(opened(folder, drop_media=["audio"])) == set()
    video = {"without_video", "shuffled_video"}
    assert names(opened(folder, drop_media=["audio"], report={"modalities": True})) == video
    assert names(opened(folder, tag="tv-qa")) == set()
    assert names(opened(folder, tag="tv-qa", report={"modalities": True})) == video
    assert names(opened(folder), [{**row, "references": []} for row in rows]) == set()
    unread = [{**row, "problem": "damaged"} if row["index"] < 4 else row for row in rows]
    found, _ = conditions_of(opened(folder), unread)
    assert all(one.asked == (4, 5) for one in found) and found[1].donors == {4: 5, 5: 4}


def test_each_of_several_prompts_keeps_its_text(folder: Path):
    """fails when a condition asks all questions with the first prompt, or exchanges a file with itself"""
    task = opened(folder, prompts=["Look: <QUESTION>", "Now, <QUESTION>"])
    found, _ = conditions_of(task, [{"index": number, "references": ["red"]} for number in range(12)])
    shuffled = under(task, next(one for one in found if one.name == "shuffled_video"))
    rng = seeds.stream(9, "another")
    first, second = (shuffled.dataset.record(number, rng) for number in (0, 1))
    assert [one.conversation[0].text for one in (first, second)] == ["Look: What 0?", "Now, What 0?"]
    (one, _), (other, _) = (list(items_of(record.conversation)) for record in (first, second))
    assert one == other and Path(str(one.ref)).name != "v0.mp4"


def test_a_condition_changes_its_modality_alone(task):
    """fails when a condition touches the other modality, the text, the references or the id"""
    found, _ = conditions(media_keys(task.dataset, task.name), range(len(task.dataset)))
    by_name = {one.name: under(task, one) for one in found}
    assert set(by_name) == {
        f"{kind}_{name}" for kind in ("without", "shuffled") for name in ("audio", "video")
    } | {"misaligned_audio"}  # fmt: skip
    rng = seeds.stream(9, "another")
    for index in range(len(task.dataset)):
        plain = prompt_of(task.dataset, "joint", index)
        record = by_name["shuffled_audio"].dataset.record(index, rng)
        video, audio = items_of(record.conversation)
        own_video, own_audio = items_of(plain)
        assert video == own_video and audio != own_audio and audio.modality == "audio"
        assert [message.text for message in record.conversation[:-1]] == [message.text for message in plain]
        rolled = by_name["misaligned_audio"].dataset.record(index, rng)
        assert list(items_of(rolled.conversation)) == [own_video, Media("audio", Rolled(own_audio.ref))]
        assert rolled.references == task.dataset.record(index, rng).references
    assert by_name["without_audio"].config.drop_media == ("audio",) and task.config.drop_media == ()
    assert by_name["without_audio"].name == "joint.without_audio"


def test_the_exchange_is_another_file_for_every_question(task):
    """fails when media of a data set are told apart by something other than their file"""
    keys = media_keys(task.dataset, task.name)
    assert len({one["audio"] for one in keys}) == len(keys) == 6
    assert media_keys(task.dataset, task.name, dropped=["audio"])[0].keys() == {"video"}


def test_rolled_audio_begins_with_its_second_half(tmp_path: Path):
    """fails when misaligned audio is the audio as it is, another length, or not cut at the limit first"""
    path = tmp_path / "a.wav"
    path.write_bytes(wav(441.0, seconds=0.5))
    with open_audio(path, 16000) as audio, open_audio(Rolled(path), 16000) as moved:
        wave, other, part = audio.read_all(), moved.read_all(), moved.read(3000, 5000)
    assert torch.equal(other, torch.cat([wave[4000:], wave[:4000]])) and not torch.equal(other, wave)
    assert torch.equal(part, other[3000:5000]), "a slice across the seam"
    with open_audio(Rolled(path), 8000, Limits(max_seconds=0.25)) as moved:
        assert len(moved.read_all()) == 2000
    odd = torch.arange(5) / 10
    with open_audio(Rolled(odd), 16000) as moved:
        assert moved.read_all().tolist() == pytest.approx([0.3, 0.4, 0.0, 0.1, 0.2])
    assert str(Rolled(path)).endswith("a.wav, moved by half its length")
    cut = RolledReader(EndsEarly(torch.arange(10) / 10, 10))
    with pytest.raises(AudioEndsEarly) as early:
        cut.read(0, 5)
    cut.num_samples = early.value.num_samples
    assert cut.read(0, 6).tolist() == pytest.approx([0.3, 0.4, 0.5, 0.0, 0.1, 0.2]), "rolled by the real length"


class EndsEarly(WaveformReader):
    """Audio whose header promises ten samples, of which there are six."""

    def read(self, start: int, stop: int):
        if stop > 6:
            raise AudioEndsEarly(6)
        return super().read(start, stop)
