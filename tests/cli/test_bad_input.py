"""Mistakes of users, through the commands they type: one clear message each, no traceback, nothing left half done."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from chatbridge.cli import evaluate, train
from chatbridge.common.errors import ConfigError, DataError
from chatbridge.datasets.failure_log import GRACE
from tests.helpers.mini_world import MiniWorld, write_yaml
from tests.helpers.preloaded_processes import run_python
from tests.helpers.tiny_media import jpeg, wav, write_tar

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> MiniWorld:
    return MiniWorld(tmp_path_factory.mktemp("world"))


@pytest.fixture
def broken(tmp_path: Path) -> MiniWorld:
    """A separate world with a broken file of every kind; `reasons` has the reason of each."""
    world = MiniWorld(tmp_path / "broken")
    _cut(world.folder / "images/i0.jpg")
    _cut(world.folder / "videos/v0.mp4")
    (world.folder / "videos/v1.mp4").write_text("no video at all")
    (world.folder / "audios/a0.wav").write_bytes(b"")
    (world.folder / "audios/a1.wav").write_bytes(wav(seconds=0.0))
    (world.folder / "audios/a2.wav").unlink()
    members = [(f"{n}.jpg", jpeg(n * 40)) for n in range(6) if n != 2] + [(f"{n}.txt", "a red one") for n in range(5)]
    write_tar(world.folder / "pairs.tar", members)
    return world


REASONS = {  # id -> words of the reason, for each file that `broken` breaks
    "i0": "not a readable image",
    "v0": "video",
    "v1": "not a readable video",
    "a0": "empty (0 bytes)",
    "a1": "is empty",
    "a2": "no audio file",
    "pairs.tar/2": "no image of 2",
    "pairs.tar/5": "no text",
}


def _cut(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def run(config: dict[str, Any], folder: Path, *options: str) -> int:
    path = write_yaml(folder / "train.yaml", config)
    return train.main(["--cfg-path", str(path), *(["--options", *options] if options else [])])


def failures(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "failures.jsonl").read_text().splitlines()]


def lenient(config: dict[str, Any], **run_settings: Any) -> dict[str, Any]:
    """The same run with sources that may fail often."""
    for source in config["data"]["sources"].values():
        source["failure_budget"] = 1.0
    config["run"] |= run_settings
    return config


def test_every_kind_of_broken_file_is_written_down_and_the_run_goes_on(broken, tmp_path):
    """fails when a truncated JPEG, a broken MP4, an empty WAV or a gap in a tar ends the run, or its reason is lost"""
    assert run(lenient(broken.experiment(tmp_path / "run"), max_steps=24, save_every=24), tmp_path) == 0
    reasons = {one["id"].split("/", 1)[-1] if "tar" not in one["id"] else one["id"]: one["reason"] for one in
               failures(tmp_path / "run")}  # fmt: skip
    assert set(reasons) == set(REASONS)
    for name, words in REASONS.items():
        assert words in reasons[name], f"{name}: {reasons[name]}"
    assert all(one["replaced_by"] and one["replaced_by"] not in REASONS for one in failures(tmp_path / "run"))


def test_the_replacement_is_the_same_again(broken, tmp_path):
    """fails when the replacement of a broken file is random, or depends on the number of workers"""
    for name, workers in (("a", 0), ("b", 1)):
        config = lenient(broken.experiment(tmp_path / name), max_steps=8, save_every=8)
        assert run(config, tmp_path, f"data.num_workers={workers}") == 0
    assert failures(tmp_path / "a") == failures(tmp_path / "b") != []


def test_past_the_budget_the_run_stops_with_the_list(broken, tmp_path):
    """fails when a run continues over its budget, or omits the files, the reasons, the failure log or the next step"""
    config = broken.experiment(tmp_path / "run", max_steps=400, save_every=400)
    config["data"]["sources"] = {"sounds": config["data"]["sources"]["audio_qa"]}
    with pytest.raises(DataError) as caught:
        run(config, tmp_path)
    said = str(caught.value)
    assert all(
        words in said for words in ("source 'sounds'", "a0: ", "a1: ", "a2: ", "failures.jsonl", "failure_budget")
    )
    assert len(failures(tmp_path / "run")) > GRACE
    assert list((tmp_path / "run/checkpoints").glob("step_*")), "what was trained before is lost"


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        ("run.micro_batch", 0, "run.micro_batch"),
        ("run.micro_bach", 4, "did you mean micro_batch"),
        ("run.init_from", "runs/nowhere", "no file or folder runs/nowhere"),
        ("run.optimizer.lr", "???", "is still ???"),
        ("run.optimizer.lr", "fast", "expected a number"),
        ("model.bridges.perceiver.name", "qfromer", "did you mean qformer"),
        ("model.routes.image.encoder", "visoin", "did you mean vision"),
        ("model.trainable", ["brigdes.*"], "did you mean bridges"),
        ("model.trainable", [], "no parameter would be trained"),
        ("data.sources.pictures.shards", "no-*.tar", "no-*.tar"),
        ("data.sources.image_qa.tag", "it-qa", "did you mean ti-qa"),
        ("data.template", "vicuna", "did you mean vicuna_v0"),
        ("data.sources", {}, "data.sources"),
    ],
)
def test_each_mistake_alone_names_its_place(world, tmp_path, place: str, value: Any, words: str):
    """fails when a mistake is accepted, found after something was written, or reported without place and suggestion"""
    config = world.experiment(tmp_path / "run")
    *above, last = place.split(".")
    node = config
    for key in above:
        node = node[key]
    node[last] = value
    with pytest.raises(ConfigError) as caught:
        run(config, tmp_path)
    assert words in " ".join(str(caught.value).split())
    assert not (tmp_path / "run").exists()


def test_an_evaluation_reports_its_mistakes_together(world, tmp_path):
    """fails when `evaluate` accepts a mistake that `train` reports"""
    config = {
        "model": world.model(),
        "evaluation": {"tasks": world.tasks()},
        "run": {"output_dir": str(tmp_path / "run")},
    }
    config["run"]["init_from"] = str(tmp_path / "nowhere")
    config["evaluation"]["tasks"]["image_qa"]["dataset"]["annotations"] = str(tmp_path / "nothing.json")
    config["evaluation"]["tasks"]["joint_qa"]["batchsize"] = 3
    path = write_yaml(tmp_path / "eval.yaml", config)
    with pytest.raises(ConfigError) as caught:
        evaluate.main(["--cfg-path", str(path)])
    said = " ".join(str(caught.value).split())
    assert all(words in said for words in ("run.init_from", "nothing.json", "batchsize", "did you mean batch_size"))


@pytest.mark.parametrize(
    "arguments",
    [
        ("train.py", "--cfg-path", "no.yaml"),
        ("train.py", "--cfg-path", "train_configs/tiny_pretrian.yaml"),
        ("train.py",),
        ("-m", "chatbridge", "evalute"),
        ("-m", "chatbridge", "report", "--root", "nowhere"),
        ("demo.py", "--checkpoint", "nowhere"),
    ],
)
def test_commands_answer_people(arguments: tuple[str, ...]):
    """fails when a mistake on the command line shows a traceback, or the exit code is not 2"""
    done = run_python(arguments, cwd=ROOT)
    assert done.returncode == 2, done.stderr
    assert done.stderr and "Traceback" not in done.stderr
