"""Every YAML of a set of captions, video questions or dialogues, with miniatures of its published files in place."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from chatbridge.cli import evaluate
from chatbridge.cli.data import check
from chatbridge.common.dist import Dist
from chatbridge.common.errors import ConfigError, DataError
from chatbridge.config.merge import load
from chatbridge.config.schema import parse
from chatbridge.processors.audio import AudioProcessor
from chatbridge.processors.image import ImageProcessor
from chatbridge.processors.video import VideoProcessor
from chatbridge.tasks import Prediction, Task, predictions
from chatbridge.tasks.config import EvaluationConfig
from tests.helpers.mini_media_sets import write_media_sets
from tests.helpers.mini_world import MiniWorld, write_yaml
from tests.helpers.scripted_model import ScriptedModel

ROOT = Path(__file__).parents[2]
MEDIA = {
    "image": ImageProcessor(16),
    "video": VideoProcessor(ImageProcessor(16), num_frames=2),
    "audio": AudioProcessor(mel_bins=8, target_frames=16),
}


def says(*rules: tuple[str, str]) -> Callable[[str], str]:
    """Answers with the second text of the first rule whose first text is in the question."""
    return lambda text: next(answer for part, answer in rules if part in text)


DONE = "A man rides bike 0."
EXPECTED = {  # YAML -> its model, questions per task, headline, its value where it has one, media of a question
    "coco_caption": (says(("", DONE)), {"coco_caption": 2}, "cider", None, ("image",)),
    "nocaps": (says(("", "A baby.")), {"nocaps": 2}, "cider", None, ("image",)),
    "flickr30k": (says(("", DONE)), {"flickr30k": 2}, "cider", None, ("image",)),
    "msvd_caption": (says(("", "a bird")), {"msvd_caption": 2}, "cider", None, ("video",)),
    "msrvtt_caption": (says(("", "a man")), {"msrvtt_caption": 2, "msrvtt_caption_1k": 1}, "cider", None, ("video",)),
    "vatex": (says(("", "a man")), {"vatex": 2}, "cider", None, ("video",)),
    "clotho": (says(("", "A motor.")), {"clotho": 2}, "cider", None, ("audio",)),
    "audiocaps": (says(("", "wind")), {"audiocaps": 2}, "cider", None, ("audio",)),
    "clotho_aqa": (says(("falls", "Rain."), ("", "yes")), {"clotho_aqa": 3}, "exact_match", 2 / 3, ("audio",)),
    "valor32k": (says(("", "a bus")), {"valor32k": 2}, "cider", None, ("video", "audio")),
    "avsd": (says(("", "no")), {"avsd": 2, "avsd_with_audio": 2}, "cider", None, ("video",)),
    "msvd_qa": (says(("peanut", "A squirrel."), ("", "a man")), {"msvd_qa": 2}, "exact_match", 0.5, ("video",)),
    "msrvtt_qa": (says(("doing", "Cooking."), ("", "a man")), {"msrvtt_qa": 2}, "exact_match", 0.5, ("video",)),
    "music_avqa": (
        says(("How many", "2"), ("guzheng louder than the pipa", "Yes."), ("", "outdoor")),
        {"music_avqa": 3}, "avqa_accuracy", 2 / 3, ("video", "audio"),
    ),
    "mosei": (says(('"well, no"', "Negative.")), {"mosei": 1}, "sentiment_accuracy", 1.0, ("video", "audio")),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets")
    write_media_sets(folder / "data")
    return folder


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    return folder


def tasks_of(name: str, **changed: Any) -> dict[str, Task]:
    """The tasks of a YAML. changed: settings of all of them"""
    nodes = load(ROOT / f"configs/tasks/{name}.yaml")[0]["evaluation"]["tasks"]
    nodes = {key: {**node, **changed} for key, node in nodes.items()}
    found = parse(EvaluationConfig, {"tasks": nodes}).tasks
    return {key: choice.part(choice.config, key) for key, choice in found.items()}  # pyright: ignore


def asked(model: Any, task: Task) -> list[Prediction]:
    torch.manual_seed(0)
    return predictions(task, model, model, MEDIA, Dist())  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("name", EXPECTED)
def test_a_set_is_asked_and_scored(name: str, here: Path):
    """fails when a YAML names a file that its card does not have, draws its prompts, loses a modality or a reference,
    groups or resamples by a field that the annotations do not have, or has another headline than papers report"""
    answer, counts, headline, value, media = EXPECTED[name]
    tasks = tasks_of(name)
    assert {key: len(task.dataset) for key, task in tasks.items()} == counts
    for key, task in tasks.items():
        model = ScriptedModel(answer)
        rows = asked(model, task)
        assert [row.get("problem") for row in rows] == [None] * counts[key]
        assert all(row["references"] and "<" not in row["question"] for row in rows)
        wanted = (*media, "audio") if key == "avsd_with_audio" else media
        for conversation in model.conversations:
            assert tuple(item.modality for message in conversation for item in message.media) == wanted
        fields = {*task.config.group_by, *task.config.resample_by}
        assert all(fields <= row["details"].keys() for row in rows)
        found = task.results(task.scored(rows))
        assert (found["metric"], found["count"], found["unreadable"]) == (headline, counts[key], 0)
        assert value is None or found[headline] == pytest.approx(value)
        assert headline in found.get("intervals", {}) or counts[key] == 1
        for one in task.config.report.published:
            assert one.model and one.source and one.metric in found
        if name == "nocaps":
            assert found["by"]["domain"].keys() == {"in-domain", "out-domain"}
        if name == "music_avqa":
            assert found["by"]["type"].keys() == {"Audio Counting", "Audio-Visual Comparative", "Visual Location"}
        if name == "clotho_aqa":  # one annotator said yes of the rain, and none of the bells
            by_kind = {key: one["exact_match"] for key, one in found["by"]["asks"].items()}
            strict = found["by"]["agreement"]["3 of 3"]
            assert by_kind == {"yes_no": 0.5, "word": 1.0} and (strict["exact_match"], strict["count"]) == (0.5, 2)
        if name == "msrvtt_qa":
            assert found["by"]["asks"].keys() == {"what", "who"}


def test_captions_for_a_server(here: Path, tmp_path: Path):
    """fails when the file for a server has other ids than the annotations, or lacks an image"""
    task = tasks_of("nocaps")["nocaps"]
    (path,) = task.write(asked(ScriptedModel(lambda _: "A baby."), task), tmp_path)
    assert json.loads(path.read_text()) == [{"image_id": n, "caption": "A baby."} for n in (0, 1)]


def test_a_missing_video_stays_in_the_score(here: Path):
    """fails when a video that cannot be downloaded makes the score one of fewer videos, or ends the scoring"""
    model = ScriptedModel(lambda _: "A girl dances.")
    task = tasks_of("vatex")["vatex"]
    several = tasks_of("vatex", prompts=["Describe it.", "What is it?"])["vatex"]
    whole = task.scored(asked(model, task)).values["rouge_l"]
    video = here / "data/vatex/videos/Ptf_2VRj-V0_000122_000132.mp4"
    content = video.read_bytes()
    video.unlink()
    try:
        rows, twice = asked(model, task), asked(model, several)
    finally:
        video.write_bytes(content)
    found = task.results(task.scored(rows))
    assert (found["count"], found["unreadable"]) == (2, 1) and "no video file for" in rows[0]["problem"]
    assert found["rouge_l"] == pytest.approx(0.5) and found["rouge_l"] < whole
    assert [row["references"] for row in twice[:2]] == [rows[0]["references"]] * 2 and rows[0]["references"]


def test_a_dialogue_asks_its_last_question_after_the_rounds_before(here: Path):
    """fails when the history is lost, the hidden answer is shown, or one of the references"""
    model = ScriptedModel(says(("", "no")))
    rows = asked(model, tasks_of("avsd")["avsd"])
    turns = [[(message.role, message.text) for message in one] for one in model.conversations]
    assert turns[0] == [
        ("user", "is there only one person ?"), ("assistant", "yes , one man"), ("user", "any sound ?")
    ]  # fmt: skip
    assert [row["references"] for row in rows] == [["there is some music", "yes , music"], ["no"]]


def test_the_answer_that_is_best_against_several_references(here: Path):
    """fails when only the first reference of a dialogue counts"""
    task = tasks_of("avsd")["avsd"]
    answers = {"any sound ?": "yes , music", "does he talk ?": "no"}
    scored = task.scored(asked(ScriptedModel(answers.__getitem__), task))
    assert scored.values["rouge_l"] == pytest.approx(1.0)
    assert task.scored(asked(ScriptedModel(lambda _: "a car"), task)).values["rouge_l"] < 0.3


def test_a_wrong_file_is_named(here: Path):
    """fails when the file of another set, or of another split, gives scores"""
    for name, changed, error in (
        (
            "clotho",
            {"annotations": "data/audiocaps/test.csv"},
            "its records fit format: audiocaps; is it the right file",
        ),
        (
            "msvd_caption",
            {"ids": "data/msrvtt/MSRVTT_JSFUSION_test.csv"},
            "1 id has no captions here, the first is 'vid",
        ),
        ("avsd", {"references": "data/coco/dataset_coco.json"}, "expected .*, found|has no captions|has no 'id'"),
        ("mosei", {"split": "tst"}, "has no split 'tst'; its splits: train .* did you mean 'test'"),
    ):
        nodes = load(ROOT / f"configs/tasks/{name}.yaml")[0]["evaluation"]["tasks"]
        node = {**nodes[name], "dataset": {**nodes[name]["dataset"], **changed}}
        choice = parse(EvaluationConfig, {"tasks": {name: node}}).tasks[name]
        with pytest.raises(DataError, match=error):
            choice.part(choice.config, name)  # pyright: ignore
    node = {**load(ROOT / "configs/tasks/vatex.yaml")[0]["evaluation"]["tasks"]["vatex"]}
    node["dataset"] = {**node["dataset"], "annotations": "data/vatex/vatex_public_test.json"}
    with pytest.raises(ConfigError, match="there is no file data/vatex/vatex_public_test.json"):
        parse(EvaluationConfig, {"tasks": {"vatex": node}})


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Path:
    """An evaluation of a tiny model on all sets."""
    world = MiniWorld(tmp_path_factory.mktemp("world"))
    tasks: dict[str, Any] = {}
    for name in EXPECTED:
        tasks |= load(ROOT / f"configs/tasks/{name}.yaml")[0]["evaluation"]["tasks"]
    for task in tasks.values():
        task |= {"num_beams": 1, "max_new_tokens": 3, "min_new_tokens": 0}
    config = {"model": world.model(), "evaluation": {"tasks": tasks, "num_workers": 0},
              "run": {"output_dir": str(folder / "out")}}  # fmt: skip
    return write_yaml(folder / "all.yaml", config)


@pytest.mark.slow
def test_all_sets_with_a_tiny_model(evaluation: Path, here: Path, capsys: pytest.CaptureFixture[str]):
    """fails when a set cannot be checked or evaluated by the commands that its card names"""
    assert check.main([str(evaluation), "--workers", "1"]) == 0
    assert evaluate.main(["--cfg-path", str(evaluation), "--check"]) == 0
    assert evaluate.main(["--cfg-path", str(evaluation)]) == 0
    found = json.loads((here / "out/metrics.json").read_text())
    names = [name for _, counts, *_ in EXPECTED.values() for name in counts]
    assert found.keys() == set(names) and all(one["unreadable"] == 0 for one in found.values())
