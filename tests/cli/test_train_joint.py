"""A run with joint streams: both in every step, exact resume, validation, its plan, and every mistake told at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from chatbridge.cli import plan, train
from chatbridge.cli.data import stats
from chatbridge.common.errors import ConfigError
from chatbridge.experiment.open import open_config
from chatbridge.experiment.roots import Experiment
from chatbridge.models.checkpoint_tensors import trained_tensors
from chatbridge.runners.run_folder import differences
from tests.helpers.mini_world import MiniWorld, write_yaml
from tests.helpers.tiny_media import write_json
from tests.helpers.train_runs import LAST, losses, records, run, run_processes

STREAMS = {"visual": {}, "language": {"weight": 0.5, "batch": 4}}
JOINT = {"mix": "joint", "streams": STREAMS, "epoch_stream": "visual"}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> MiniWorld:
    world = MiniWorld(tmp_path_factory.mktemp("world"))
    colors = ("red", "green", "blue", "what")
    written = [{"instruction": f"what color is {one} ?", "input": "", "output": f"it is {one} ."} for one in colors]
    write_json(world.folder / "written.json", written)
    return world


def experiment(world: MiniWorld, output: Path, dropout: float = 0.2, **settings: Any) -> dict[str, Any]:
    """Images and audio in one stream, text in the other; the language model trains, so that text has a gradient."""
    config = world.experiment(output, **{"micro_batch": 2, "accumulate": 2, **settings})
    config["model"] = world.model(dropout) | {"trainable": ["bridges.*", "language.lm.lm_head.*"]}
    config["data"] |= JOINT
    config["data"]["sources"] = {
        "image_qa": world.source("questions", "ti-qa", stream="visual", weight="size"),
        "audio_cap": world.source("captions", "ta-cap", stream="visual"),
        "written": {
            "name": "instructions", "format": "alpaca",
            "annotations": str(world.folder / "written.json"), "stream": "language",
        },
    }  # fmt: skip
    return config


@pytest.fixture(scope="module")
def whole(world: MiniWorld, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that never stopped."""
    folder = tmp_path_factory.mktemp("whole")
    held = {"data.validation.samples": 2, "data.sources.audio_cap.validation": 0, "run.validate_every": 4}
    options = [f"{key}={value}" for key, value in held.items()]
    assert run(experiment(world, folder / "run"), folder, *options) == 0
    return folder / "run"


def test_every_step_reports_both_streams(whole):
    """fails when a step lacks a stream, or its loss is not the weighted sum of their means"""
    found = records(whole)
    assert len(found) == 4
    for record in found:
        assert set(record["per_stream"]) == {"visual", "language"} and record["samples"] == 8
        assert record["loss"] == pytest.approx(record["per_stream"]["visual"] + 0.5 * record["per_stream"]["language"])
        assert record["per_stream"]["language"] == pytest.approx(record["per_source"]["written"])


def test_the_validation_loss_is_that_of_the_training(whole):
    """fails when validation weighs streams in another way than training"""
    [scores] = [json.loads(line) for line in (whole / "scores.jsonl").read_text().splitlines()]
    visual, language = scores["validation/stream/visual"], scores["validation/stream/language"]
    assert scores["validation/loss"] == pytest.approx(visual + 0.5 * language)
    assert (visual, language) == (scores["validation/image_qa"], scores["validation/written"])


@pytest.mark.slow
def test_a_stopped_run_resumes_bit_for_bit_with_other_workers(world, whole, tmp_path):
    """fails when a stream restarts, or a worker changes what is read"""
    options = ("data.validation.samples=2", "data.sources.audio_cap.validation=0", "run.validate_every=4")
    config = experiment(world, tmp_path / "run")
    assert run(config, tmp_path, *options, "run.stop_at=3", "data.num_workers=1") == 0
    assert run(config, tmp_path, *options) == 0
    assert losses(tmp_path / "run") == losses(whole)
    mine, theirs = trained_tensors(tmp_path / "run" / LAST), trained_tensors(whole / LAST)
    assert all((mine[name] == theirs[name]).all() for name in theirs)


def test_the_plan_shows_every_stream(world, tmp_path, capsys):
    """fails when --check, plan or stats do not know streams, or the epoch is not that of its stream"""
    config = experiment(world, tmp_path / "run", max_epochs=2)
    del config["run"]["max_steps"]
    path = str(write_yaml(tmp_path / "train.yaml", config))
    assert train.main(["--cfg-path", path, "--check"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "max_epochs 2 ends the run at step 6" in shown  # 2 * 12 / 4: 6 images and 6 sounds
    assert "stream visual: 4 conversations per step, defines the epoch" in shown
    assert "stream language: 4 conversations per step, endless" in shown
    assert "micro-batches of a step: accumulate 2 x ranks 1 of each stream, of visual 2, language 2" in shown
    assert plan.main([path]) == 0
    shown = capsys.readouterr().out
    assert "6 steps, 48 conversations" in shown
    rows = {line.split()[1]: line.split() for line in shown.splitlines() if line.strip().startswith("stream ")}
    assert rows["visual"][4] == rows["language"][4] == "50.0%"
    assert stats.main([path, "--json"]) == 0
    found = {name: one["run"] for name, one in json.loads(capsys.readouterr().out)["sources"].items()}
    assert found["written"]["loss"] == pytest.approx(1 / 3, abs=1e-5) and found["written"]["passes"] == 6


def test_mistakes_of_streams_are_told_together(world, tmp_path):
    """fails when a source without a stream, an unknown one, or a stream without sources is found only while training"""
    config = experiment(world, tmp_path / "run", clip_every="micro", clip_norm=None)
    config["data"] |= {"streams": {**STREAMS, "sound": {}, "language": {"batch": 3}}, "epoch_stream": "visul"}
    config["data"]["sources"]["image_qa"]["stream"] = "vision"
    del config["data"]["sources"]["audio_cap"]["stream"]
    with pytest.raises(ConfigError) as error:
        run(config, tmp_path)
    message = " ".join(str(error.value).split())
    for told in (
        "data.epoch_stream", "there is no stream 'visul'",
        "data.sources.image_qa.stream", "there is no stream 'vision'",
        "data.sources.audio_cap.stream", "is missing: in mix joint every source belongs to a stream",
        "data.streams.sound", "has no source with a weight above 0", "run.clip_every", "nothing is clipped",
    ):  # fmt: skip
        assert told in message, told
    config = experiment(world, tmp_path / "run")
    config["data"]["mix"] = "sample"
    config["data"]["streams"] = {"language": {"batch": 3}}
    with pytest.raises(ConfigError) as error:
        run(config, tmp_path)
    message = " ".join(str(error.value).split())
    assert "belongs to mix: joint, data.mix is sample" in message and "only mix joint has streams" in message
    config["data"] |= JOINT | {"streams": {"visual": {}, "language": {"batch": 3}}}
    with pytest.raises(ConfigError, match=r"data.streams.language.batch"):
        run(config, tmp_path)


def test_what_a_resume_may_change(tmp_path):
    """fails when micro-batches or the order of streams change although results depend on them, or an older run whose
    settings have no streams cannot resume"""
    now = {"run": {"micro_batch": 2, "accumulate": 4}, "data": {"mix": "joint"}}
    then = {"run": {"micro_batch": 4, "accumulate": 2}, "data": {"mix": "joint"}}
    assert differences(then, now) == []
    streams = {"data": {"mix": "joint", "streams": {"visual": {}, "language": {}}}}
    moved = {"data": {"mix": "joint", "streams": {"language": {}, "visual": {}}}}
    assert differences(streams, moved) == ["order of data.streams: visual, language -> language, visual"]
    assert differences(streams, streams) == []
    for key, value, told in (("loss_mean", "micro_batch", 1), ("clip_every", "micro", 2)):
        one, other = ({**settings, "run": {**settings["run"], key: value}} for settings in (then, now))
        assert len(differences(one, other)) == told


def test_a_run_of_an_earlier_version_resumes(world, tmp_path):
    """fails when settings that came with streams keep an older run from resuming"""
    config = world.experiment(tmp_path / "run")
    opened = open_config(Experiment, write_yaml(tmp_path / "train.yaml", config), [])
    then = json.loads(json.dumps(opened.settings, default=str))
    for key in ("streams", "epoch_stream"):
        del then["data"][key]
    for key in ("clip_every", "loss_mean"):
        del then["run"][key]
    for source in then["data"]["sources"].values():
        del source["stream"]
    assert differences(then, opened.settings) and not differences(opened.completed(then), opened.settings)


def gated(world: MiniWorld) -> dict[str, Any]:
    """A model of the kind that streams were made for: blocks in a frozen language model, and adapters on both."""
    blocks = {"name": "cross_attention", "every": 1, "heads": 2, "head_width": 4, "feed_forward_mult": 2,
              "token": {"image": "<image>", "video": "<video>", "audio": "<audio>"}}  # fmt: skip
    resampler = {"name": "resampler", "depth": 1, "num_latents": 3, "heads": 2, "head_width": 4}
    model = world.model()
    model["routes"]["audio"]["bridge"] = "heard"
    return model | {
        "bridges": {"perceiver": resampler, "heard": resampler},
        "fusion": blocks,
        "added_tokens": ["<image>", "<video>", "<audio>"],
        "trainable": ["bridges.*", "fusion.*_gate"],
        "adapters": [{"targets": ["language.*q_proj", "fusion.*to_kv"], "rank": 2}],
    }


@pytest.mark.slow
@pytest.mark.parametrize("case", ["replicate", "micro_batch", "shard", "clip"])
def test_two_ranks_equal_one(world, tmp_path, case):
    """fails when a rank counts the tokens of its own stream only, clips a gradient that is not summed over ranks, or a
    sharded block waits for a rank whose micro-batch has no media"""
    more = {"micro_batch": {"loss_mean": "micro_batch"}, "clip": {"clip_every": "micro", "clip_norm": 0.05}}
    one, two = (experiment(world, tmp_path / name / "run", **more.get(case, {})) for name in ("one", "two"))
    if case == "clip":  # as many micro-steps on both sides, each with the same conversations
        one["model"], two["model"] = world.model(), world.model()
        two["run"]["micro_batch"] = 1
    else:
        two["run"]["accumulate"] = 1
    if case in ("replicate", "shard"):
        one["model"], two["model"] = gated(world), gated(world)
        two["run"]["parallel"] = case
    assert run(one, tmp_path / "one") == 0
    done = run_processes(two, tmp_path / "two", num_processes=2)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert losses(tmp_path / "two/run") == pytest.approx(losses(tmp_path / "one/run"), rel=1e-6)
    mine, theirs = (trained_tensors(tmp_path / name / "run" / LAST) for name in ("one", "two"))
    limit = 1e-6 if case == "micro_batch" else 1e-5  # other shapes and orders round differently; a step is 0.01
    for name, value in mine.items():
        assert (value - theirs[name]).abs().max() <= limit * max(1.0, float(value.abs().max())), name


@pytest.mark.slow
@pytest.mark.parametrize("batching", ["grouped", "packed"])
def test_a_step_has_the_same_loss_with_every_batching(world, tmp_path, batching):
    """fails when grouped or packed batches mix streams, or move conversations from one step to another"""
    for name in ("padded", batching):
        config = experiment(world, tmp_path / name, dropout=0.0)
        config["data"]["batching"] = name
        assert run(config, tmp_path) == 0
    assert losses(tmp_path / batching) == pytest.approx(losses(tmp_path / "padded"), rel=1e-5)
