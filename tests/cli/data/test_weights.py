"""The data commands and the plan: weights that are there, and sequences that the language model cannot take."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from chatbridge.cli.data import check, stats
from chatbridge.config.schema import parse
from chatbridge.conversation.messages import assistant, user
from chatbridge.datasets.builders.records import Records
from chatbridge.datasets.order.mixture import Mixture
from chatbridge.experiment.media_plan import GUESS, plan_media
from chatbridge.experiment.partial_data import read_data
from chatbridge.experiment.tokens import read_tokens
from chatbridge.runners.sequence_lengths import length_lines, measure_lengths
from tests.helpers.data_world import write_run
from tests.helpers.mini_world import MiniWorld, write_yaml
from tests.helpers.tiny_media import layout, write_json
from tests.helpers.tiny_towers import VIT

CONTEXT = 512  # of the miniature world's language model
TOKENS = 1 + (VIT["image_size"] // VIT["patch_size"]) ** 2  # of an image: patches and the class token


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> MiniWorld:
    return MiniWorld(tmp_path_factory.mktemp("world"))


def vision_folder(folder: Path) -> Path:
    """A CLIP folder without its weights: what says how many tokens there are, and how pixels are read."""
    write_json(folder / "config.json", {"model_type": "clip_vision_model", **VIT})
    write_json(folder / "preprocessor_config.json", {"size": 28, "image_mean": [0.1] * 3, "image_std": [0.9] * 3})
    return folder


def with_vision(world: MiniWorld, folder: Path, weights: str) -> Path:
    sources = {"qa": world.source("questions", "ti-qa")}
    config = write_run(world, folder / "run.yaml", sources)
    mapping = {**world.model(), "encoders": {"vision": {"name": "hf_vision", "weights": weights}},
               "bridges": {"perceiver": {"name": "linear"}},
               "routes": {"image": {"encoder": "vision", "bridge": "perceiver"}}}  # fmt: skip
    run = {"output_dir": str(folder / "run"), "max_steps": 2}
    return write_yaml(config, {"model": mapping, "data": {"sources": sources, "num_workers": 0}, "run": run})


def test_weights_that_are_there_are_used(world: MiniWorld, tmp_path: Path):
    """fails when the folder of an encoder is ignored: 32 tokens instead of its own, and another preprocessing"""
    found = read_data(with_vision(world, tmp_path, str(vision_folder(tmp_path / "clip"))))
    media = plan_media(found)
    assert media.notes == () and found.problems == ()
    assert media.lengths == {"image": TOKENS}
    statistics = media.train["image"].statistics
    assert tuple(statistics.mean) == pytest.approx((0.1,) * 3) and tuple(statistics.std) == pytest.approx((0.9,) * 3)


@pytest.mark.parametrize("weights", ["???", "nowhere/clip"])
def test_weights_that_are_not_there_are_said_to_be_assumed(weights: str, world: MiniWorld, tmp_path: Path):
    """fails when a guess looks like a fact"""
    media = plan_media(read_data(with_vision(world, tmp_path, weights)))
    assert media.lengths["image"] == GUESS
    assert any("model.encoders.vision.weights" in note and weights in note for note in media.notes)


def records(folder: Path, *answers: str) -> Path:
    messages = [[{"role": "user", "content": "what color is it ?"}, {"role": "assistant", "content": words}]
                for words in answers]  # fmt: skip
    return write_json(folder / "r.jsonl", [{"id": str(k), "messages": one} for k, one in enumerate(messages)])


def test_the_context_of_the_language_model_is_the_limit(world: MiniWorld, tmp_path: Path, capsys: Any):
    """fails when sequences beyond the context are laid out, or check and stats call them sound without a word"""
    file = records(tmp_path, "red and " * CONTEXT, "red", "blue " * (2 * CONTEXT))
    config = write_run(world, tmp_path / "run.yaml", {"long": {"name": "records", "file": str(file)}})
    found = read_data(config, ["data.max_tokens=null"])
    tokens = read_tokens(found, plan_media(found))
    assert tokens.layout is not None and tokens.layout.context_length == CONTEXT
    dataset = found.find("long").dataset
    rows = [tokens.layout.training_sequence(dataset.record(index, None).conversation) for index in range(3)]  # pyright: ignore
    assert [len(row) for row in rows][::2] == [CONTEXT, CONTEXT] and [row.is_cut for row in rows] == [True, False, True]
    options = ["--options", "data.max_tokens=null"]
    assert check.main([str(config), "--json", "--workers", "1", *options]) == 0
    assert json.loads(capsys.readouterr().out)["sources"]["long"]["cut"] == 2
    assert check.main([str(config), "--workers", "1", *options]) == 0
    assert "2 cut" in capsys.readouterr().out
    assert stats.main([str(config), "--json", *options]) == 0
    assert json.loads(capsys.readouterr().out)["sources"]["long"]["cut_sequences"] == pytest.approx(2 / 3, abs=1e-4)


def test_the_plan_says_what_does_not_fit(tmp_path: Path):
    """fails when a plan is silent about samples that are cut or cannot be used, or about a limit that is not kept"""
    file = records(tmp_path, "red " * 40, "red", "  red  ")
    dataset = Records(parse(Records.Config, {"file": str(file)}), "mine")
    lay = layout("vicuna_v0")
    mixture: Any = Mixture({"mine": dataset}, {"mine": 1.0}, 0, 2)
    assert "no maximum length" in "\n".join(length_lines(lay, mixture, 0))
    lay.context_length = 10_000
    assert "none is longer than 9,999 tokens" in "\n".join(length_lines(lay, mixture, 0))
    row = lay.training_sequence(dataset.record(1, None).conversation)  # pyright: ignore
    lay.context_length = len(row) + 1
    assert (measure_lengths(dataset, lay, 0).cut, measure_lengths(dataset, lay, 0).failed) == (1, 0)
    lay.max_tokens = 10_000
    said = "\n".join(length_lines(lay, mixture, 0))
    assert "data.max_tokens is 10000, above the context length" in said and "mine: at most" in said
    lay.context_length = 5
    failed = measure_lengths(dataset, lay, 0)
    assert failed.failed == 3 and "the context of the language model is 4" in failed.reason


def test_a_row_never_exceeds_the_context():
    """fails when max_tokens lifts the limit of the model, or the token before a row is forgotten"""
    lay = layout("vicuna_v0")
    talk = (user("a b c d e f"), assistant("g h i j k l m n o p q r s t u v w x y z"))
    whole = len(lay.training_sequence(talk))
    for max_tokens in (None, whole + 50):
        lay.max_tokens, lay.context_length = max_tokens, whole - 3
        assert len(lay.training_sequence(talk)) == whole - 3 and lay.training_sequence(talk).is_cut
    lay.max_tokens = whole - 6
    assert len(lay.training_sequence(talk)) == whole - 5 and lay.limit_name == "max_tokens"
