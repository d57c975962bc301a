"""A fusion of a plugin and added tokens through the doors that users take: YAML, train, data show, chat."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from chatbridge import load_model
from chatbridge.cli import train
from chatbridge.cli.data import show
from chatbridge.common.errors import ConfigError
from chatbridge.experiment.partial_data import read_data
from chatbridge.models.checkpoints import find_checkpoint
from chatbridge.models.fusion import FUSIONS
from chatbridge.models.language import GenerateOptions
from chatbridge.models.loading import save_component
from chatbridge.models.manifest_check import reconcile
from chatbridge.models.weight_files import read_state
from tests.helpers.media_files import image_bytes
from tests.helpers.mini_world import MiniWorld, write_yaml
from tests.helpers.tiny_models import tiny_model

TOKENS = ["<image>", "<|end|>"]


@pytest.fixture(scope="module", autouse=True)
def without_the_plugin() -> Any:
    packages = [*FUSIONS.packages]
    yield
    FUSIONS.packages[:] = packages


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `x.yaml` and its finished run of two steps in `run`."""
    folder = tmp_path_factory.mktemp("fused")
    world = MiniWorld(folder / "world")
    experiment = world.experiment(folder / "run", max_steps=2, save_every=2, device="cpu")
    for name, part in tiny_model().encoders.items():  # frozen parts come from files
        save_component(part, folder / f"{name}.safetensors")
        encoder = experiment["model"]["encoders"][name]
        experiment["model"]["encoders"][name] = {**encoder, "weights": str(folder / f"{name}.safetensors")}
    experiment["plugins"] = ["lab_of_fusions"]
    experiment["model"] |= {
        "fusion": {"name": "toy_cross_attention", "gate": 0.5},
        "added_tokens": TOKENS,
        "trainable": ["bridges.*", "fusion.*", "added_tokens.embedding.*"],
    }
    assert train.main(["--cfg-path", str(write_yaml(folder / "x.yaml", experiment))]) == 0
    (folder / "cat.jpg").write_bytes(image_bytes("JPEG"))
    return folder


def test_a_run_saves_by_token_and_its_chat_answers(run: Path) -> None:
    """Fails when the trained rows are not in the checkpoint by their token, or the chat cannot be built from it."""
    state = read_state(find_checkpoint(run / "run") / "model.safetensors")
    rows = {name for name in state if name.startswith("added_tokens")}
    assert rows == {f"added_tokens.embedding.{token}" for token in TOKENS}
    assert {name.split(".")[0] for name in state} == {"bridges", "fusion", "added_tokens"}
    model = load_model(run / "run")
    own = model.model.state_dict()
    assert all(torch.equal(own[name], value) for name, value in state.items())
    assert isinstance(model.reply([run / "cat.jpg", "what color ?"], GenerateOptions(max_new_tokens=3)), str)


def test_the_plan_counts_slots(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Fails when --check calls the one slot of an item its tokens."""
    assert train.main(["--cfg-path", str(run / "x.yaml"), "--check"]) == 0
    assert "image: 1 slot per item" in capsys.readouterr().out


def test_another_order_of_tokens_is_the_same_model(run: Path) -> None:
    """Fails when the rows of a checkpoint are taken by their number."""
    options = ["model.added_tokens=['<|end|>', '<image>']"]
    model, same = load_model(run / "run", options=options), load_model(run / "run")
    assert model.layout.slot_ids["image"] == same.layout.slot_ids["image"] + 1
    asked = [run / "cat.jpg", "what color ?"]
    assert model.reply(asked, max_new_tokens=4) == same.reply(asked, max_new_tokens=4)


@pytest.mark.parametrize("tokens", [["<image>"], [*TOKENS, "<video>"]], ids=["missing", "surplus"])
def test_other_tokens_than_those_of_the_checkpoint_are_a_table(run: Path, tokens: list[str]) -> None:
    """Fails when a token that only one side has is found by a shape mismatch, or is not reported."""
    (token,) = set(tokens) ^ set(TOKENS)
    model = load_model(run / "run").model
    other = replace(model.config, added_tokens=tuple(tokens))
    with pytest.raises(ConfigError, match=r"model\.added_tokens") as error:
        reconcile(other, run / "run", None)
    assert f'"{token}"' in str(error.value) and "run.model_from" in str(error.value)
    assert reconcile(other, run / "run", "checkpoint").model.added_tokens == tuple(TOKENS)
    options = [f"model.added_tokens={tokens}", "run.model_from=yaml"]
    if token in TOKENS:
        with pytest.raises(ConfigError, match=rf"unexpected +added_tokens\.embedding\.{re.escape(token)}") as error:
            load_model(run / "run", options=options)
        assert f"add to model.added_tokens: {token!r}" in str(error.value)
    else:
        assert f"added_tokens.embedding.{token}" in load_model(run / "run", options=options).model.state_dict()


def test_data_show_names_the_slot(run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    """Fails when the stream of ids shows padding, or no name, where the fusion's own token is."""
    monkeypatch.chdir(run)
    assert show.main([str(run / "x.yaml"), "0", "--source", "image_qa"]) == 0
    shown = capsys.readouterr().out.replace("\u00a0", " ")
    assert "<image <image>x1>" in shown


def test_an_unknown_slot_token_and_one_of_the_tokenizer_are_reported_by_check(run: Path) -> None:
    """Fails when train --check, data check, show or stats do not report it before the first step."""
    new = f"run.output_dir={run / 'new'}"
    for options, message in (
        (["model.added_tokens=['<|end|>']"], r"add it to model\.added_tokens: \['<\|end\|>', '<image>'\]"),
        (["model.added_tokens=['<image>', '</s>']"], r"'</s>' is in the vocabulary.*remove it from model"),
    ):
        with pytest.raises(ConfigError, match=f"(?s){message}"):
            train.main(["--cfg-path", str(run / "x.yaml"), "--check", "--options", new, *options])
        assert re.search(f"(?s){message}", str(ConfigError(list(read_data(run / "x.yaml", options).problems))))
