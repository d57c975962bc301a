"""Validation of a whole run: exact losses on samples that are never trained on, and a training that does not notice."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from chatbridge.common.dist import Dist
from chatbridge.common.errors import ConfigError, DataError
from chatbridge.common.seeds import seed_everything
from chatbridge.datasets.collate import stack
from chatbridge.datasets.validation_loader import HeldOutSamples
from chatbridge.experiment.build import build_model
from chatbridge.experiment.data import open_data, run_mixture, run_validator
from chatbridge.experiment.open import open_config
from chatbridge.experiment.plan.run_text import source_rows
from chatbridge.experiment.roots import Experiment
from chatbridge.runners.validation import Validator
from tests.helpers.mini_world import MiniWorld, write_yaml
from tests.helpers.remote_shards import over_http, write_shards
from tests.helpers.shard_server import serving
from tests.helpers.train_runs import losses, run, run_processes


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> MiniWorld:
    return MiniWorld(tmp_path_factory.mktemp("world"))


def experiment(world: MiniWorld, folder: Path, **settings: Any) -> dict[str, Any]:
    """A run of two sources, with dropout, that holds out 3 of 6 samples each."""
    config = world.experiment(folder, **settings)
    config["model"] = world.model(dropout=0.2)
    config["data"]["sources"] = {
        "image_qa": config["data"]["sources"]["image_qa"],
        "audio_cap": world.source("captions", "ta-cap"),
    }
    config["data"]["validation"] = {"samples": 3}
    return config


def scores(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "scores.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def built(world, tmp_path_factory) -> tuple[Any, Validator]:
    """The data and the validator of a run whose weights are random."""
    folder = tmp_path_factory.mktemp("built")
    config = experiment(world, folder / "run", validate_every=1, micro_batch=2)
    opened = open_config(Experiment, write_yaml(folder / "train.yaml", config), [])
    config = opened.config
    data = open_data(opened)
    mixture = run_mixture(config.data, config.run, data.sources, 1)
    torch.manual_seed(0)
    made = build_model(config.model)
    made.load_weights(torch.device("cpu"), "fp32")
    layout = made.layout(config.template, config.data.max_tokens)
    validator = run_validator(config.data, config.run, Dist(), mixture, layout, made.model)
    assert validator is not None
    return layout, validator


def test_the_loss_is_exact_per_supervised_token(built):
    """fails when validation is a mean of batches, has dropout, leaves a sample out or counts one twice"""
    layout, validator = built
    validator.model.train()
    found = validator.run()
    assert validator.model.training
    samples, model = validator.samples, validator.model.eval()
    totals: dict[str, list[float]] = {}
    for source, indices in samples.mixture.held_out.items():
        for index in indices.tolist():
            sample, sequence = samples._read(source, index)
            with torch.no_grad():
                loss = model(stack([sample], [sequence], layout.tokenizer.pad_id))
            totals.setdefault(source, []).append(float(loss.total))
            totals.setdefault(f"{source} tokens", []).append(loss.count)
    for source in samples.mixture.held_out:
        assert len(totals[source]) == 3
        expected = sum(totals[source]) / sum(totals[f"{source} tokens"])
        assert found[f"validation/{source}"] == pytest.approx(expected, rel=1e-6)
    whole = [sum(sum(totals[f"{name}{what}"]) for name in samples.mixture.held_out) for what in ("", " tokens")]
    assert found["validation/loss"] == pytest.approx(whole[0] / whole[1], rel=1e-6)


def test_ranks_share_the_batches_and_pass_equally_often(built):
    """fails when a batch is used by two ranks or none, or a rank has fewer forward passes than a sharded model waits
    for"""
    _, validator = built

    class One(Dist):
        """A rank whose sums are not added to those of the others."""

        def all_reduce(self, tensor):
            sums.append(tensor.clone())

        def gather(self, value):
            return [value]

    passes, sums = [0, 0, 0], []
    hook = validator.model.register_forward_hook(lambda *_: passes.__setitem__(rank, passes[rank] + 1))
    for rank in range(3):  # 4 batches: 2 of each source
        Validator(validator.model, validator.samples, One(rank=rank, world_size=3)).run()
    hook.remove()
    assert passes == [2, 2, 2]
    total, count = torch.stack(sums).sum((0, 1)).tolist()
    assert total / count == pytest.approx(validator.run()["validation/loss"], rel=1e-9)


def test_no_random_number_is_drawn(built):
    """fails when a validation changes the random state, of which dropout of code without streams depends"""
    _, validator = built
    before = torch.get_rng_state()
    assert validator.run() == validator.run()
    assert torch.equal(before, torch.get_rng_state())


def test_a_sample_that_cannot_be_read_is_left_out_and_told(built, monkeypatch, caplog):
    """fails when one broken held-out file ends a run, or is left out silently; and when an error of the data is not
    raised"""
    from chatbridge.common.errors import MediaError

    _, validator = built
    read, index = validator.samples._read, int(validator.samples.mixture.held_out["image_qa"][0])
    validator.has_reported = False

    def broken(error: type[Exception]):
        def reading(source: str, at: int):
            if (source, at) == ("image_qa", index):
                raise error("is truncated")
            return read(source, at)

        return reading

    whole = validator.run()
    monkeypatch.setattr(validator.samples, "_read", broken(MediaError))
    rest = [validator.run(), validator.run()][1]
    assert rest["validation/audio_cap"] == whole["validation/audio_cap"]
    assert rest["validation/image_qa"] != whole["validation/image_qa"]
    assert caplog.text.count("held-out samples cannot be read") == 1 and "is truncated" in caplog.text
    monkeypatch.setattr(validator.samples, "_read", broken(DataError))
    with pytest.raises(DataError, match="'image_qa', a held-out sample: is truncated"):
        validator.run()


def test_a_validated_training_is_the_same(world, tmp_path):
    """fails when a validation changes the mode, a random state, the order of the data or a tensor of the training"""
    for name, settings in (("never", {}), ("often", {"validate_every": 1})):
        assert run(experiment(world, tmp_path / name, max_steps=3, **settings), tmp_path) == 0
    assert losses(tmp_path / "never") == losses(tmp_path / "often")


@pytest.mark.slow
def test_the_training_does_not_notice(world, tmp_path):
    """fails when a validation changes the mode, a random state, the order of the data or a tensor of the training"""
    for name, settings in (
        ("never", {}),
        ("often", {"validate_every": 1, "best": {}}),
        ("seldom", {"validate_every": 3, "patience": 9}),
    ):
        assert run(experiment(world, tmp_path / name, **settings), tmp_path) == 0
    assert losses(tmp_path / "never") == losses(tmp_path / "often") == losses(tmp_path / "seldom")
    often, seldom = scores(tmp_path / "often"), scores(tmp_path / "seldom")
    assert [one["step"] for one in often] == [1, 2, 3, 4] and [one["step"] for one in seldom] == [3, 4]
    assert [often[2], often[3]] == seldom and not (tmp_path / "never/scores.jsonl").exists()


@pytest.mark.slow
def test_another_run_starts_from_the_best_checkpoint(world, tmp_path, capsys):
    """fails when init_from does not take the file `best`, or --check does not show what is held out"""
    first = experiment(world, tmp_path / "first", validate_every=1, best={"mode": "max"}, save_every=1, keep=1)
    assert run(first, tmp_path) == 0
    steps = [one["validation/loss"] for one in scores(tmp_path / "first")]
    step = 1 + max(range(4), key=lambda at: steps[at])
    second = experiment(world, tmp_path / "second", init_from=str(tmp_path / "first/best"))
    opened = open_config(Experiment, write_yaml(tmp_path / "train.yaml", second), [])
    seed_everything(opened.config.run.seed)  # as in the first run, which froze random encoders
    made = build_model(opened.config.model)
    made.load_weights(torch.device("cpu"), "fp32")
    assert f"first/checkpoints/step_{step:06d} (step {step})" in made.start_from(opened.config.run.init_from)

    from chatbridge.cli import train

    assert train.main(["--cfg-path", str(tmp_path / "train.yaml"), "--check"]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if "3 more held out for validation" in line]
    assert len(rows) == 2 and all("  3  " in row for row in rows), rows


def problems(world: MiniWorld, folder: Path, *options: str, **settings: Any) -> str:
    with pytest.raises(ConfigError) as error:
        run(experiment(world, folder / "run", **settings), folder, *options)
    assert not (folder / "run").exists()
    return str(error.value)


def test_scores_that_would_never_be_measured_are_refused_together(world, tmp_path):
    """fails when a run trains for days for a score that nobody measures, or only the first mistake is told"""
    text = problems(world, tmp_path, "data.validation.samples=0", validate_every=2, best={"metric": "validation/los"})
    assert "run.validate_every" in text and "data.validation.samples=64" in text
    assert "run.best.metric" in text and "did you mean validation/loss?" in text
    assert "run.validate_every is not set" in problems(world, tmp_path, patience=3)
    assert "'vqa/accuracy' is not a score" in problems(world, tmp_path, best={"metric": "vqa/accuracy"})
    best = {"metric": "validation/image_qa"}
    text = problems(world, tmp_path, "data.sources.image_qa.validation=0", validate_every=1, best=best)
    assert "did you mean" in text and "validation/audio_cap" in text


def test_a_source_must_keep_samples_to_train_on(world, tmp_path):
    """fails when all samples of a small source are held out, or the message does not say how many it has"""
    text = problems(world, tmp_path, "data.validation.samples=6", "data.sources.audio_cap.validation=9")
    assert "data.validation.samples" in text and "image_qa has 6 samples: none is left" in text
    assert "data.sources.audio_cap.validation" in text and "audio_cap has 6 samples" in text


@pytest.mark.slow
def test_tasks_decide_on_the_best_checkpoint_too(world, tmp_path):
    """fails when a score of a task is not written, or does not count for run.best"""
    config = experiment(world, tmp_path / "run", best={"metric": "image_qa/exact_match"}, max_steps=2)
    config["evaluation"] = {"tasks": {"image_qa": world.tasks()["image_qa"]}, "every": 1}
    assert run(config, tmp_path) == 0
    metrics = json.loads((tmp_path / "run/evaluation/step_000001/metrics.json").read_text())["image_qa"]
    assert scores(tmp_path / "run")[0] == {"step": 1, "image_qa/exact_match": metrics["exact_match"]}
    assert json.loads((tmp_path / "run/best").read_text())["metric"] == "image_qa/exact_match"


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["replicate", "shard"])
def test_two_processes_validate_as_one(world, tmp_path, parallel):
    """fails when two ranks wait for each other, or their sums are not those of one"""
    one = experiment(world, tmp_path / "one", validate_every=2, micro_batch=4, accumulate=1)
    two = experiment(world, tmp_path / "two", validate_every=2, micro_batch=2, accumulate=1, parallel=parallel)
    for config in (one, two):  # dropout depends on the micro-batches
        config["model"] = world.model()
    assert run(one, tmp_path) == 0
    done = run_processes(two, tmp_path, num_processes=2)
    assert done.returncode == 0, done.stdout + done.stderr
    for left, right in zip(scores(tmp_path / "one"), scores(tmp_path / "two"), strict=True):
        assert left == pytest.approx(right, rel=1e-5)


def test_a_run_of_streams_alone_cannot_be_validated(world, tmp_path):
    """fails when run.validate_every is silently without effect because all sources are remote shards"""
    config = experiment(world, tmp_path / "run", validate_every=2)
    config["data"]["sources"] = {"pictures": world.experiment(tmp_path / "run")["data"]["sources"]["pictures"]}
    opened = open_config(Experiment, write_yaml(tmp_path / "train.yaml", config), [])
    config = opened.config
    with serving(write_shards(tmp_path / "shards")) as server:
        stream = over_http(server)
        with pytest.raises(ConfigError, match=r"(?s)run\.validate_every.*of each, its samples come as a stream"):
            run_mixture(config.data, config.run, {"pictures": stream}, 1)
        unvalidated = replace(config.run, validate_every=None)
        assert not len(run_mixture(config.data, unvalidated, {"pictures": stream}, 1).held_out["pictures"])


@pytest.mark.slow
def test_a_deliberate_resume_with_other_held_out_samples(world, tmp_path, capfd):
    """fails when losses of other samples are compared without a word, or a resume with the same ones starts anew"""
    config = experiment(world, tmp_path / "run", max_steps=3, save_every=1, keep=9, validate_every=1, patience=9)
    assert run(config, tmp_path, "run.stop_at=1") == 0
    first = tmp_path / "run/checkpoints/step_000001"
    assert run(config, tmp_path, "run.stop_at=2", f"run.resume={first}") == 0
    assert "other samples are held out" not in capfd.readouterr().err
    second = tmp_path / "run/checkpoints/step_000002"
    assert run(config, tmp_path, f"run.resume={second}", "data.validation.samples=2") == 0
    said = " ".join(capfd.readouterr().err.split())
    assert "may have been trained on" in said and "Held out now: image_qa 2, audio_cap 2" in said
    marked = [line for line in scores(tmp_path / "run") if "held_out" in line]
    assert marked == [{"step": 2, "held_out": {"image_qa": 2, "audio_cap": 2}}]
    assert json.loads((tmp_path / "run/best").read_text())["step"] == 3
    last = (tmp_path / "run/run.log").read_text().rpartition("the run is finished\n")[2].splitlines()
    assert f"best checkpoint   {tmp_path / 'run/checkpoints/step_000003'}, as {tmp_path / 'run/best'}" in last[1]
    assert last[-1].split() == ["demo", *f"chatbridge demo --checkpoint {tmp_path / 'run/best'}".split()]


def test_a_source_of_weight_0_is_a_validation_file(world, built, tmp_path):
    """fails when a validation file is trained on, loses a sample, or cannot be shown in a plan"""
    config = experiment(world, tmp_path / "run", max_steps=2, validate_every=2, micro_batch=1, accumulate=1)
    config["data"]["validation"] = {"samples": 0}
    config["data"]["sources"]["audio_cap"] |= {"weight": 0, "validation": 1000}
    opened = open_config(Experiment, write_yaml(tmp_path / "train.yaml", config), [])
    settings, sources = opened.config, open_data(opened).sources
    mixture = run_mixture(settings.data, settings.run, sources, 1)
    assert mixture.held_out["audio_cap"].tolist() == [0, 1, 2, 3, 4, 5] and not len(mixture.held_out["image_qa"])
    assert {draw.source for step in range(20) for draw in mixture.draws(step)} == {"image_qa"}
    (row,) = [row for row in source_rows(mixture, settings.model, 1) if row["source"] == "audio_cap"]
    assert (row["samples"], row["passes"]) == ("0", "0.00") and row["notes"].endswith("6 held out for validation")
    samples = HeldOutSamples(mixture, built[0], built[1].samples.processors, settings.run.seed, 4)
    read = [samples[number] for number in range(len(samples))]
    assert [(part.source, part.batch.num_conversations) for part in read] == [("audio_cap", 4), ("audio_cap", 2)]
    config["data"]["sources"]["image_qa"] |= {"validation": 6}
    opened = open_config(Experiment, write_yaml(tmp_path / "train.yaml", config), [])
    with pytest.raises(ConfigError, match="is 6, but image_qa has 6 samples: none is left"):
        run_mixture(opened.config.data, opened.config.run, sources, 1)
