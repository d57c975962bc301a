"""Files that `chatbridge migrate` refuses: one message each with the reason and the next step."""

from __future__ import annotations

import copy
import random
from pathlib import Path
from threading import Barrier, Thread
from typing import Any

import pytest

from chatbridge.cli.migrate.command import main, write_new
from chatbridge.cli.migrate.convert import migrate
from chatbridge.cli.migrate.original import read_original
from chatbridge.cli.migrate.rows import leaves
from chatbridge.common.errors import ConfigError
from tests.cli.migrate.public_files import PUBLIC, write

RUN = "run: {task: image_text_pretrain, init_lr: 1.0e-4, max_epoch: 1}\n"
REFUSED = {  # name -> text of the file, words of the message
    "a tab": ("model:\n\tarch: minigpt4\n", "YAML indents with spaces; replace the tab"),
    "twice": (f"model: {{arch: minigpt4, arch: blip2}}\n{RUN}", "is defined twice"),
    "a circle": (f"model: &m {{arch: minigpt4, inner: *m}}\n{RUN}", "contains itself"),
    "empty": ("", "is empty"),
    "a list": ("- 1\n", "has no sections"),
    "text": ("hello", "has no sections"),
    "ours": ("base: [models/minigpt4_tiny.yaml]\nrun: {max_steps: 3}\n", "own layout already (it has base)"),
    "our model": ("model: {encoders: {}, language: {}}\nrun: {}\n", "it has model.encoders, model.language"),
    "resolved": ("model: {}\ndata: {}\nrun: {}\n", "is the resolved configuration of a run of this project already"),
    "our recipe": ("base: [x.yaml]\nmodel: {}\ndata: {}\nrun: {}\n", "is a configuration of this project already"),
    "other program": ("llm: x\ndata_path: y\n", "docs/original_commands.md"),
    "defaults of data": (
        "datasets: {laion: {data_type: images}}\n",
        "give the YAML of the run, and this file with --with",
    ),
    "defaults of a model": ("model: {arch: minigpt4}\n", "the default file of a model type"),
    "data as a list": (f"model: {{arch: minigpt4}}\ndatasets: [laion]\n{RUN}", "expected a mapping"),
    "a data set 1": (f"model: {{arch: minigpt4}}\ndatasets: {{1: {{a: b}}}}\n{RUN}", 'in quotes: "1"'),
    "minigpt-v2": (f"model: {{arch: minigpt_v2, model_type: pretrain}}\n{RUN}", "MiniGPT-v2 is a different model"),
    "t5": (f"model: {{arch: blip2_t5, model_type: pretrain_flant5xl}}\n{RUN}", "decoders only"),
    "stage 1": (f"model: {{arch: blip2, model_type: pretrain}}\n{RUN}", "first stage trains the Q-Former"),
    "albef": (f"model: {{arch: albef_vqa, model_type: vqav2}}\n{RUN}", "does not put features into a language model"),
    "near arch": (f"model: {{arch: minigpt44, model_type: x}}\n{RUN}", "did you mean minigpt4?"),
    "model type": (f"model: {{arch: minigpt4, model_type: pretrain_lama2}}\n{RUN}", "did you mean pretrain_llama2?"),
    "bytes": (b"model: \xff\xfe\n", "not UTF-8 text"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_the_reason(name: str, tmp_path: Path):
    """fails when such a file ends in a traceback, is migrated, or the message lacks the reason"""
    text, words = REFUSED[name]
    path = tmp_path / ("resolved.yaml" if name == "resolved" else "old.yaml")
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as caught:
        main([str(path), "--out", str(tmp_path / "new.yaml")])
    assert words in " ".join(str(caught.value).split()) and not (tmp_path / "new.yaml").exists()


def test_a_file_that_does_not_exist(tmp_path: Path):
    """fails when a misspelled name, a folder or a bad option is not named"""
    (tmp_path / "train.yaml").write_text(f"model: {{arch: minigpt4}}\n{RUN}")
    for path, options, words in (
        (tmp_path / "trian.yaml", [], "did you mean train.yaml?"),
        (tmp_path, [], "is a folder"),
        (tmp_path / "train.yaml", ["run.seed"], "has no value"),
        (tmp_path / "train.yaml", ["run.seed=1", "run.x"], "not of the form key=value"),
    ):
        with pytest.raises(ConfigError) as caught:
            main([str(path), *(["--options", *options] if options else [])])
        assert words in str(caught.value)


def test_the_mix_file_is_checked(tmp_path: Path):
    """fails when data options that are broken or of another form end in a traceback"""
    old = tmp_path / "old.yaml"
    old.write_text(
        f"model: {{arch: chatbridge, model_type: pretrain_vicuna}}\n{RUN[:-2]}, valor_data_opts_path: mix.json}}\n"
    )
    for text, words in (
        ("{", "cannot be read as JSON"),
        ("[]", "no list data_cfg.train"),
        ('{"data_cfg": {"train": [3]}}', "train[0]"),
    ):
        (tmp_path / "mix.json").write_text(text)
        with pytest.raises(ConfigError) as caught:
            main([str(old)])
        assert words in str(caught.value)


def test_of_two_writers_one_gets_the_file(tmp_path: Path):
    """fails when processes that write the same new file at once replace each other's, or mix their lines"""
    path, start = tmp_path / "new.yaml", Barrier(8)
    won: list[int] = []
    refused: list[str] = []

    def write_one(number: int) -> None:
        start.wait()
        try:
            write_new(path, f"{number}\n" * 5000)
            won.append(number)
        except ConfigError as error:
            refused.append(str(error))

    threads = [Thread(target=write_one, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1 and sum("exists, and is not replaced" in one for one in refused) == 7
    assert path.read_text() == f"{won[0]}\n" * 5000


VALUES = (None, 0, -1, 1e-4, True, "abc", "", [], ["a"], [1, {"b": 2}], {}, {"x": 1}, "${run.seed}", "${nothing.here}",
          10**30, 10**400, float("nan"), float("inf"), "a: b # c", "x\ny")  # fmt: skip


def test_odd_values_end_in_a_row_or_a_message(tmp_path: Path):
    """fails when a value of another type than expected, anywhere in a file, ends in a traceback or vanishes"""
    rng = random.Random(3)
    for _ in range(5):
        old: dict[str, Any] = copy.deepcopy(PUBLIC[rng.choice(("minigpt4_stage2", "blip2_finetune", "blip2_vqa"))])
        for _ in range(3):
            here: Any = old
            while True:
                key = rng.choice(list(here))
                if not isinstance(here[key], dict) or not here[key] or rng.random() < 0.2:
                    break
                here = here[key]
            here[key] = copy.deepcopy(rng.choice(VALUES))
        path = write(tmp_path / "old.yaml", old)
        try:
            rows = migrate(path).rows
        except ConfigError:
            continue
        assert sorted(row.key for row in rows) == sorted(key for key, _ in leaves(read_original(path).config))


@pytest.mark.parametrize("length", ["max_epoch: .inf", f"max_iters: {'9' * 400}"])
def test_a_length_without_end_has_a_row(length: str, tmp_path: Path):
    """fails when an infinite or enormous number ends in a traceback or vanishes"""
    old = tmp_path / "old.yaml"
    run = f"run: {{task: image_text_pretrain, iters_per_epoch: 2, {length}}}\n"
    old.write_text(f"model: {{arch: minigpt4, model_type: pretrain_vicuna0}}\ndatasets: {{z: null}}\n{run}")
    result = migrate(old)
    assert f"run.{length.partition(':')[0]}" in {row.key for row in result.rows} and not result.is_complete
