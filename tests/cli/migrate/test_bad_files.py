"""Files that `chatbridge migrate` refuses: one message each with the reason and the next step."""

from __future__ import annotations

from pathlib import Path

import pytest

from chatbridge.cli.migrate.command import main
from chatbridge.common.errors import ConfigError

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
    "resolved": ("model: {}\ndata: {}\nrun: {}\n", "resolved configuration of a run"),
    "other program": ("llm: x\ndata_path: y\n", "docs/original_commands.md"),
    "defaults of data": (
        "datasets: {laion: {data_type: images}}\n",
        "give the YAML of the run, and this file with --with",
    ),
    "defaults of a model": ("model: {arch: minigpt4}\n", "the default file of a model type"),
    "data as a list": (f"model: {{arch: minigpt4}}\ndatasets: [laion]\n{RUN}", "expected a mapping"),
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
