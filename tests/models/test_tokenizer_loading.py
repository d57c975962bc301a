"""Every id that a layout can write has an embedding row, before a run starts."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from chatbridge import __main__ as commands
from chatbridge.cli import train
from chatbridge.cli.weights import check
from chatbridge.common.errors import ConfigError
from chatbridge.conversation.tokenizer import Tokenizer
from chatbridge.experiment.partial_data import read_data
from chatbridge.models.tokenizer_loading import id_fault
from tests.helpers.mini_world import MiniWorld, write_yaml


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> MiniWorld:
    return MiniWorld(tmp_path_factory.mktemp("world"))


def grown(world: MiniWorld, folder: Path, special: bool) -> Path:
    """The miniature language model, whose tokenizer has one id more than the model has rows."""
    shutil.copytree(world.folder / "lm", folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if special:
        tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    else:
        tokenizer.add_tokens(["<picture>"])
    tokenizer.save_pretrained(folder)
    return folder


def test_padding_beyond_the_embeddings_is_replaced_and_it_is_said(world, tmp_path, caplog, capsys) -> None:
    """fails when a padding token without an embedding row ends the first step in an IndexError"""
    lm = grown(world, tmp_path / "lm", special=True)
    rows = len(Tokenizer.from_pretrained(world.folder / "lm").inner)
    tokenizer = Tokenizer.from_pretrained(lm, rows)
    assert tokenizer.inner.pad_token_id == rows and tokenizer.pad_id == tokenizer.eos_id
    experiment = world.experiment(tmp_path / "run", max_steps=2)
    experiment["model"]["language"]["weights"] = str(lm)
    path = write_yaml(tmp_path / "t.yaml", experiment)
    assert train.main(["--cfg-path", str(path)]) == 0
    capsys.readouterr()
    assert check.main([str(path)]) == 0
    assert f"the tokenizer's padding id {rows} has no embedding row" in capsys.readouterr().out
    with caplog.at_level("WARNING", logger="chatbridge"):
        assert train.main(["--cfg-path", str(path), "--check", "--options", f"run.output_dir={tmp_path / 'new'}"]) == 0
    assert f"{tokenizer.eos_id} is used" in caplog.text


def test_words_beyond_the_embeddings_are_an_error_before_the_run(world, tmp_path, capsys) -> None:
    """fails when an added token that a text can hold is found by the step that meets it"""
    lm = grown(world, tmp_path / "lm", special=False)
    experiment = world.experiment(tmp_path / "run")
    experiment["model"]["language"]["weights"] = str(lm)
    path = write_yaml(tmp_path / "t.yaml", experiment)
    asked = {"model": experiment["model"], "evaluation": {"tasks": {"qa": world.tasks()["image_qa"]}},
             "run": {"output_dir": str(tmp_path / "eval")}}  # fmt: skip
    evaluation = write_yaml(tmp_path / "e.yaml", asked)
    for look in (
        lambda: train.main(["--cfg-path", str(path), "--check"]),
        lambda: train.main(["--cfg-path", str(path)]),
        lambda: commands.main(["evaluate", "--cfg-path", str(evaluation), "--check"]),
    ):
        with pytest.raises(ConfigError, match=r"1 ids beyond the \d+ embedding rows") as error:
            look()
        assert "'<picture>'" in str(error.value) and "resize_token_embeddings" in str(error.value)
    assert check.main([str(path)]) == 1
    assert "<picture>" in capsys.readouterr().out
    problems = {problem.path: problem.message for problem in read_data(path).problems}  # data check, show and stats
    assert "1 ids beyond" in problems["model.language.tokenizer"]


def test_a_tokenizer_that_fits_has_no_fault(world) -> None:
    """fails when a model with as many rows as ids, or more, is an error"""
    folder = world.folder / "lm"
    rows = len(Tokenizer.from_pretrained(folder).inner)
    for count in (rows, rows + 64, None):
        assert id_fault(Tokenizer.from_pretrained(folder, count), folder) is None
    assert id_fault(Tokenizer.from_pretrained(folder, rows - 1), folder) is not None
