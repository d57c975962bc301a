"""`chatbridge data stats`: lengths are those of the rows, and shares those of the run."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from chatbridge.cli.data import stats
from chatbridge.cli.data.measure import spread, summary
from chatbridge.cli.data.run_shares import step_averages
from chatbridge.cli.data.sample import mixture_of
from chatbridge.common import seeds
from chatbridge.experiment.media_plan import plan_media
from chatbridge.experiment.partial_data import read_data
from chatbridge.experiment.tokens import read_tokens
from tests.helpers.data_world import record, write_pairs, write_run
from tests.helpers.mini_world import MiniWorld, write_yaml
from tests.helpers.tiny_media import write_json


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> MiniWorld:
    return MiniWorld(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def config(world: MiniWorld, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Long and short answers about one picture that is not even there: nothing is decoded."""
    folder = tmp_path_factory.mktemp("stats")
    answers = ["red", "a red circle . " * 6, "a red circle moves left"]
    write_json(folder / "a.jsonl", [record(str(n), "no.jpg", "image", words) for n, words in enumerate(answers)])
    sources = {
        "answers": {"name": "records", "file": str(folder / "a.jsonl"), "weight": 3},
        "pairs": {"name": "web_pairs", "modality": "image", "shards": write_pairs(folder)},
    }
    return write_run(world, folder / "run.yaml", sources)


def report(config: Path, capsys: pytest.CaptureFixture, *options: str) -> dict[str, Any]:
    assert stats.main([str(config), "--json", *options]) == 0
    return json.loads(capsys.readouterr().out)


def test_lengths_are_those_of_the_rows(config: Path, capsys: pytest.CaptureFixture):
    """fails when a length, what is supervised or what is cut differs from what the layout makes of the same records"""
    found = read_data(config)
    media = plan_media(found)
    layout = read_tokens(found, media).layout
    assert layout is not None
    dataset = found.find("answers").dataset
    rows = [layout.training_sequence(dataset.record(index, seeds.stream(0, "x")).conversation) for index in range(3)]
    entry = report(config, capsys)["sources"]["answers"]
    lengths = [len(row.ids) for row in rows]
    assert entry["length"]["mean"] == pytest.approx(sum(lengths) / 3, abs=0.05)
    assert (entry["length"]["max"], entry["length"]["p50"]) == (max(lengths), sorted(lengths)[1])
    assert entry["supervised"]["max"] == max(len(row.target) for row in rows)
    assert entry["media"]["mean"] == media.lengths["image"] and entry["cut_sequences"] == 0
    cut = report(config, capsys, "--options", f"data.max_tokens={max(lengths) - 2}")["sources"]["answers"]
    assert cut["cut_sequences"] == pytest.approx(1 / 3, abs=1e-4)


def test_samples_without_a_row_are_counted(config: Path, capsys: pytest.CaptureFixture):
    """fails when a pair without a caption disappears from the numbers"""
    entry = report(config, capsys)["sources"]["pairs"]
    assert (entry["samples"], entry["measured"], entry["unusable"]) == (5, 4, 1)
    assert stats.main([str(config)]) == 0
    assert "pairs: 1 of 5 samples cannot be laid out" in capsys.readouterr().out


def test_draws_and_passes_are_those_of_the_run(config: Path, capsys: pytest.CaptureFixture):
    """fails when shares, draws or passes are not what the mixture deals in these steps"""
    mixture = mixture_of(read_data(config, ["run.max_steps=50"]), 2)
    dealt = Counter(draw.source for step in range(50) for draw in mixture.draws(step))
    found = report(config, capsys, "--ranks", "2", "--options", "run.max_steps=50")
    for name, size in (("answers", 3), ("pairs", 5)):
        part = found["sources"][name]["run"]
        assert part["draws"] == dealt[name]
        assert part["passes"] == pytest.approx(dealt[name] / size, abs=1e-5)
    assert found["sources"]["answers"]["run"]["share"] == 0.75
    supervised = {name: entry["run"]["supervised"] for name, entry in found["sources"].items()}
    assert sum(supervised.values()) == pytest.approx(1, abs=1e-5) and supervised["answers"] > 0.75, (
        "its answers are longer"
    )
    assert found["run"]["per_step"]["conversations"] == 8


def test_padding_is_what_the_longest_row_of_a_micro_batch_leaves(config: Path):
    """fails when padding is counted over the whole step, or single rows have any"""
    found = read_data(config, ["run.max_steps=40", "run.accumulate=2"])
    whole = stats.gather(found, None, 1)
    assert whole.averages is not None and 0 < whole.averages.padding < 0.9
    alone = read_data(config, ["run.max_steps=40", "run.micro_batch=1"])
    assert stats.gather(alone, None, 1).averages.padding == 0
    mixture, run = mixture_of(found, 1), found.run
    assert run is not None
    padded = 0
    for step in spread(40, 64):
        draws = mixture.draws(step)
        for micro in (draws[:4], draws[4:]):
            rows = [whole.lengths[one.source].total[one.index % len(whole.lengths[one.source])] for one in micro]
            padded += max(rows) * len(rows)
    assert step_averages(mixture, whole.lengths, run, 1).padded == pytest.approx(padded / 40)


def test_the_unit_is_said(config: Path, capsys: pytest.CaptureFixture):
    """fails when numbers of words pass for tokens because the language model is not there yet"""
    found = report(config, capsys, "--options", "model.language.weights=???")
    assert found["unit"] == "words" and any("no tokenizer" in note for note in found["notes"])
    assert found["sources"]["answers"]["supervised"]["max"] < 30


def test_an_evaluation_has_prompts_and_answers(world: MiniWorld, tmp_path: Path, capsys: pytest.CaptureFixture):
    """fails when prompts of tasks are measured with their answers, or answers that cannot be given go unnoticed"""
    tasks = {name: {**task, "max_new_tokens": 2} for name, task in world.tasks().items()}
    content = {"model": world.model(), "run": {"output_dir": str(tmp_path)}, "evaluation": {"tasks": tasks}}
    config = write_yaml(tmp_path / "eval.yaml", content)
    found = report(config, capsys)["tasks"]
    assert found["joint_without_sound"]["prompt"]["mean"] < found["joint_qa"]["prompt"]["mean"]
    assert found["audio_caption"]["answers_above_max_new_tokens"] == 1
    assert stats.main([str(config)]) == 0
    said = capsys.readouterr().out
    assert "joint_qa" in said and "the run:" not in said


def test_the_table_says_what_json_says(config: Path, capsys: pytest.CaptureFixture):
    """fails when a broken source hides the others, or the exit code does not tell of it"""
    broken = ["--options", "data.sources.more={name: records, file: nowhere.jsonl}"]
    assert stats.main([str(config), *broken]) == 2
    said = capsys.readouterr()
    assert "answers" in said.out and "mix sample" in said.out and "passes" in said.out and "padding" in said.out
    assert "data.sources.more: cannot be opened" in said.out and "there is no file nowhere.jsonl" in said.err
    assert "shares refer to the sources that could be opened" in said.out


def test_samples_are_spread_over_the_source():
    """fails when only the beginning of a source is looked at, or an index comes twice"""
    assert list(spread(3, 5)) == [0, 1, 2] and list(spread(10, 2)) == [2, 7]
    assert len(set(spread(1000, 400))) == 400 and spread(1000, 400)[-1] > 990
    import numpy as np

    assert summary(np.arange(101)) == {"mean": 50.0, "p5": 5, "p50": 50, "p95": 95, "max": 100}
