"""`chatbridge export --vllm`: a language model that transformers reads, a front with the same prompts, refusals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from chatbridge.cli import export
from chatbridge.cli.export_source import Source
from chatbridge.cli.export_vllm import obstacles
from chatbridge.common.errors import ConfigError, DataError
from chatbridge.common.types import Sample
from chatbridge.conversation.messages import Media, user
from chatbridge.datasets.collate import collate
from chatbridge.serve.vllm.front_folder import open_front
from tests.helpers.exported_runs import ADDED, ExportedRun
from tests.helpers.gated_models import gated
from tests.helpers.tiny_models import tiny_model

CPU = ["run.device=cpu"]


@pytest.fixture
def out(exported_run: ExportedRun) -> Path:
    return exported_run.out


@pytest.fixture
def ours(exported_run: ExportedRun) -> Any:
    return exported_run.ours


def test_the_language_model_is_an_ordinary_folder(out, ours):
    """fails when adapters or rows of added tokens are lost, or a tokenizer gives these tokens other ids"""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, info = AutoModelForCausalLM.from_pretrained(out / "language_model", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    first = ours.model.added_tokens.first
    ids = torch.tensor([[1, 5, first, 7, first + 1, 30]])
    language = ours.model.language
    with torch.no_grad():
        wanted = language.logits(language(language.embed(ids)))
        torch.testing.assert_close(model.eval()(ids).logits, wanted, rtol=1e-5, atol=1e-5)
    tokenizer = AutoTokenizer.from_pretrained(out / "language_model")
    assert [tokenizer.convert_tokens_to_ids(one) for one in ADDED] == [first, first + 1]
    assert tokenizer("red")["input_ids"] == AutoTokenizer.from_pretrained(language.tokenizer_folder)("red")["input_ids"]
    assert (out / "language_model/model.safetensors.index.json").is_file()
    assert "serve --checkpoint front" in (out / "README.md").read_text()


def test_the_front_makes_the_same_prompts_alone(out, ours, exported_run, tmp_path):
    """fails when the front needs the folder of the language model or of the run, keeps its layers in memory, or embeds
    text or media in another way"""
    folder = tmp_path / "front"
    shutil.copytree(out / "front", folder)
    front = open_front(folder, CPU)
    image = ours.attach(next((exported_run.world.folder / "images").iterdir())).media[0].ref.tensor
    sample = Sample("x", "x", (user(Media("image", b""), "what color is it ?"),), (image,))
    with torch.no_grad():
        mine, theirs = (
            model.prompts(collate([sample], layout, prompt=True)).embeds
            for model, layout in ((front.model, front.layout), (ours.model, ours.layout))
        )
    torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)  # an encoder's adapters are merged
    assert front.config.evaluation.generation.max_new_tokens == 7
    assert front.layout.tokenizer.token_id("<end>") == ours.layout.tokenizer.token_id("<end>")
    layers = front.model.language.decoder_layers
    assert all(one.untyped_storage().nbytes() <= 8 for one in layers.parameters())
    assert front.model.language.max_positions == ours.model.language.max_positions


def test_what_is_refused(out, exported_run, tmp_path):
    """fails when options of a part are ignored, or a damaged or foreign folder ends in a traceback"""
    with pytest.raises(DataError, match="--vllm writes the whole model; leave --component out"):
        export.main([str(exported_run.run), "--vllm", str(tmp_path / "x"), "--component", "language"])
    with pytest.raises(DataError, match="already exists; choose another folder"):
        export.main([str(exported_run.run), "--vllm", str(out)])
    with pytest.raises(ConfigError, match=r"(?s)has no chatbridge\.json.*chatbridge export RUN --vllm DIR"):
        open_front(tmp_path)
    damaged = tmp_path / "damaged"
    shutil.copytree(out / "front", damaged)
    (damaged / "bridges.perceiver.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"bridges\.perceiver\.safetensors is missing; copy the folder again"):
        open_front(damaged, CPU)
    shutil.copyfile(out / "front/bridges.perceiver.safetensors", damaged / "bridges.perceiver.safetensors")
    (damaged / "language/token_embedding.safetensors").write_bytes(b"x" * 9)
    with pytest.raises(ConfigError, match=r"token_embedding\.safetensors: cannot be read as the embedding"):
        open_front(damaged, CPU)
    content = json.loads((damaged / "chatbridge.json").read_text())
    (damaged / "chatbridge.json").write_text(json.dumps({**content, "format": "other"}))
    with pytest.raises(ConfigError, match="expected format 'chatbridge-vllm-1', found \"other\""):
        open_front(damaged, CPU)
    for text, said in (("[]", "expected a JSON object"), ("{", "cannot be read as JSON"), ("", "chatbridge.json")):
        (damaged / "chatbridge.json").write_text(text)
        with pytest.raises(ConfigError, match=said):
            open_front(damaged, CPU)


def test_every_obstacle_is_named():
    """fails when a model that vLLM cannot serve is exported, or its reasons come one at a time"""
    source = Source(gated(), {}, {}, {"template": {"name": "textbind"}}, None)
    first, second = obstacles(source)
    assert "model.fusion cross_attention puts layers of its own" in first and "textbind draws images" in second
    assert obstacles(Source(tiny_model(), {}, {}, {"template": {"name": "vicuna_v0"}}, None)) == []
