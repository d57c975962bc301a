"""`chatbridge export --layout mmgpt|openflamingo`: files of the released layouts, read back as a download is."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from chatbridge.cli import export
from chatbridge.common.errors import DataError
from chatbridge.config.schema import plain
from chatbridge.models.chat_model import ChatModel
from chatbridge.models.checkpoint_manifest import FORMAT, WEIGHTS, write_manifest
from chatbridge.models.component_tensors import describe_components, trainable_parameters
from chatbridge.models.importers.released import load_model_weights, start_from
from chatbridge.models.loading import load_weights, save_component
from chatbridge.models.trainable import set_trainable
from tests.helpers.flamingo_release import LORA, TOKENS, adapters, flamingo, random_values, released

BASE = ["bridges.*", "fusion.*", "added_tokens.embedding.*", "language.lm.model.embed_tokens.weight"]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with vision.safetensors, lm/ and OpenFlamingo's checkpoint.pt."""
    folder = tmp_path_factory.mktemp("files")
    model: Any = flamingo()
    save_component(model.encoders["vision"], folder / "vision.safetensors")
    model.language.lm.save_pretrained(folder / "lm")
    torch.save(released(random_values(model)), folder / "checkpoint.pt")
    return folder


def built(files: Path, base: Path | None, **changes: Any) -> ChatModel:
    """The model of these files, with all its weights."""
    parts = flamingo().config.encoders["vision"]
    more: dict[str, Any] = {} if base is None else {"weights": str(base)}
    vision = {**plain(parts.config), "name": "eva_vit", "weights": str(files / "vision.safetensors")}
    language = {"name": "causal_lm", "weights": str(files / "lm")}
    model = flamingo(seed=7, encoders={"vision": vision}, language=language, **more, **changes)
    set_trainable(model, list(model.config.trainable))
    load_weights(model)
    load_model_weights(model)
    return model


def step(path: Path, model: ChatModel) -> dict[str, Tensor]:
    """Write a checkpoint of a model whose trainable tensors have moved; all its tensors."""
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in trainable_parameters(model).values():
            parameter += torch.randn(parameter.shape, generator=draw)
    path.mkdir()
    save_file({name: value.detach().clone() for name, value in trainable_parameters(model).items()}, path / WEIGHTS)
    settings = {
        "format": FORMAT,
        "step": int(path.name[5:]),
        "model": plain(model.config),
        "template": {"name": "mmgpt"},
    }
    write_manifest(path, {**settings, "components": describe_components(model)})
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def exported(path: Path, out: Path, *arguments: str) -> Any:
    assert export.main([str(path), "--out", str(out), *arguments]) == 0
    (file,) = out.iterdir()
    return file


def test_adapters_go_round(files: Path, tmp_path: Path, capsys: Any) -> None:
    """Fails when a name, a value or a setting of the file is not what the reference's demo reads, or the file does not
    give the same model back; or when the frozen base went into the checkpoint."""
    want = step(tmp_path / "step_000001", built(files, files / "checkpoint.pt", adapters=[LORA]))
    file = exported(tmp_path / "step_000001", tmp_path / "out", "--layout", "mmgpt")
    assert file.name == "final_weights.pt" and "set it as run.init_from" in capsys.readouterr().out
    content = torch.load(file, weights_only=False)
    expected = adapters(want, prefix="module.")
    assert content["model_state_dict"].keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in content["model_state_dict"].items())
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "to_q", "to_kv", "to_out", "ff.1", "ff.3"]
    settings: Namespace = content["tuning_config"]
    assert sorted(settings.lora_target_modules) == sorted(targets) and settings.lora and settings.unfrozen == []
    assert (settings.lora_r, settings.lora_alpha, settings.lora_dropout) == (2, 3, 0.0)
    other = built(files, files / "checkpoint.pt", adapters=[LORA])
    start_from(other, file)
    assert all(torch.equal(value, want[name]) for name, value in other.state_dict().items())


@pytest.mark.slow
def test_what_was_trained_beside_adapters(files: Path, tmp_path: Path) -> None:
    """Fails when tensors that trained beside the adapters are lost on the way, or `unfrozen` does not name them."""
    extra = ["fusion.layers.*_gate", "bridges.resampler.latents", "added_tokens.embedding.<image>"]
    base = files / "checkpoint.pt"
    want = step(tmp_path / "step_000001", built(files, base, adapters=[LORA], trainable=extra))
    file = exported(tmp_path / "step_000001", tmp_path / "out", "--layout", "mmgpt")
    unfrozen = torch.load(file, weights_only=False)["tuning_config"].unfrozen
    assert len(unfrozen) == 6 and "lang_encoder.base_model.model.model.embed_tokens.weight" in unfrozen
    other = built(files, base, adapters=[LORA])
    start_from(other, file)
    assert all(torch.equal(value, want[name]) for name, value in other.state_dict().items())


def test_the_base_goes_round(files: Path, tmp_path: Path) -> None:
    """Fails when the file lacks a tensor of OpenFlamingo's, has one more, or gives another model as model.weights."""
    want = step(tmp_path / "step_000001", built(files, None, trainable=BASE))
    file = exported(tmp_path / "step_000001", tmp_path / "out", "--layout", "openflamingo")
    found = torch.load(file, weights_only=True)
    expected = {name: one for name, one in released(want, has_aliases=False).items() if "inv_freq" not in name}
    assert file.name == "checkpoint.pt" and found.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in found.items())
    other = built(files, file)
    assert all(torch.equal(value, want[name]) for name, value in other.state_dict().items() if "head" not in name)


@pytest.mark.slow
def test_merged_blocks_and_the_frozen_base(files: Path, tmp_path: Path) -> None:
    """Fails when tensors of model.weights are not those that were trained beside, or other ones pass for them."""
    blocks = {**LORA, "targets": ["fusion.layers.*"]}
    model = built(files, files / "checkpoint.pt", adapters=[blocks])
    want = step(tmp_path / "step_000001", model)
    found = torch.load(
        exported(tmp_path / "step_000001", tmp_path / "out", "--layout", "openflamingo", "--merge"), weights_only=True
    )
    given = torch.load(files / "checkpoint.pt", weights_only=True)
    layer = "fusion.layers.3.attention.to_q"
    update = 1.5 * want[f"{layer}.lora_B.default.weight"] @ want[f"{layer}.lora_A.default.weight"]
    name = "lang_encoder.model.layers.3.gated_cross_attn_layer.attn.to_q.weight"
    assert torch.allclose(found[name], given[name] + update, atol=1e-5)
    for same in ("perceiver.latents", "lang_encoder.model.embed_tokens.weight"):
        assert torch.equal(found[same], given[same])
    moved = {name: value + 1 for name, value in given.items()}
    torch.save(moved, tmp_path / "other.pt")
    with pytest.raises(DataError, match="its weights are not those of the training"):
        export.main([
            str(tmp_path / "step_000001"), "--out", str(tmp_path / "no"), "--layout", "openflamingo", "--merge",
            "--options", f"model.weights={tmp_path / 'other.pt'}",
        ])  # fmt: skip


@pytest.mark.slow
def test_models_without_such_a_layout(files: Path, tmp_path: Path) -> None:
    """Fails when a model is written in part, or a refusal lacks the way out."""

    def refusal(name: str, *arguments: str, **changes: Any) -> str:
        changes.setdefault("base", files / "checkpoint.pt")
        step(tmp_path / name, built(files, **changes))
        with pytest.raises(DataError) as caught:
            export.main([str(tmp_path / name), "--out", str(tmp_path / "out"), *arguments])
        assert not (tmp_path / "out").exists()
        return str(caught.value)

    mmgpt, base = ("--layout", "mmgpt"), ("--layout", "openflamingo")
    assert "leaves nothing" in refusal("step_000001", *mmgpt, "--merge", adapters=[LORA])
    assert "none were trained" in refusal("step_000002", *mmgpt, trainable=["bridges.*"])
    assert "--layout mmgpt writes them" in refusal("step_000003", *base, adapters=[LORA])
    two = [{**LORA, "targets": ["fusion.layers.*"]}, {**LORA, "targets": ["language.*q_proj"], "rank": 1}]
    assert "one rank and one alpha" in refusal("step_000004", *mmgpt, adapters=two)
    message = refusal("step_000005", *mmgpt, adapters=[{**LORA, "targets": ["encoders.vision.*qkv"]}])
    assert "decoder layers of a LLaMA and in gated blocks alone" in message
    fewer = refusal("step_000006", *base, base=None, trainable=["bridges.*"], added_tokens=[TOKENS[1]])
    assert "model.added_tokens lacks <|endofchunk|>, <PAD>" in fewer
