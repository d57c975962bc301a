"""`chatbridge export --layout chatbind...`: files of ChatBind's layout, read back as a user's download is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from chatbridge.cli import export
from chatbridge.cli.weights.command import main as weights
from chatbridge.common.errors import DataError
from chatbridge.config.schema import parse, plain
from chatbridge.conversation.tokenizer import Tokenizer
from chatbridge.models.chat_model import ChatModel
from chatbridge.models.checkpoint_manifest import FORMAT, WEIGHTS, write_manifest
from chatbridge.models.component_tensors import describe_components, trainable_parameters
from chatbridge.models.config import ModelConfig
from chatbridge.models.importers.released import start_from
from chatbridge.models.loading import load_weights, save_component
from chatbridge.models.tensor_headers import read_tensors
from chatbridge.models.trainable import set_trainable
from tests.helpers.chatbind_release import BASE, LLAMA, TOKENS, release_settings, release_tensors, write_tokenizer
from tests.helpers.mini_world import MiniWorld
from tests.helpers.tiny_models import VISION
from tests.helpers.train_runs import run, run_processes

ALL = ("[PAD]", *TOKENS)
STAGE_1 = ["bridges.projector.*", "added_tokens.embedding.<im_start>", "added_tokens.embedding.<im_end>"]
STAGE_2 = ["bridges.projector.*", "language.*", "added_tokens.*"]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory, reference: Path) -> Path:
    """The base model: LLaMA's rows, and a tokenizer without the tokens."""
    folder = tmp_path_factory.mktemp("base") / "llama-7b"
    folder.mkdir()
    write_tokenizer(folder, reference)
    (folder / "added_tokens.json").unlink()
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        settings = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({key: value for key, value in settings.items() if key != "pad_token"}))
    (folder / "config.json").write_text(json.dumps({**LLAMA, "model_type": "llama", "vocab_size": BASE}))
    names = {name: value[:BASE].clone() for name, value in release_tensors().items() if "mm_projector" not in name}
    save_file(names, folder / "model.safetensors")
    return folder


def built(folder: Path, tokens: tuple[str, ...] = ALL, **changes: Any) -> ChatModel:
    torch.manual_seed(0)
    return ChatModel(parse(ModelConfig, {**release_settings(folder), "added_tokens": list(tokens), **changes}))


def step(path: Path, llama: Path, trainable: list[str], **changes: Any) -> tuple[Path, dict[str, Tensor]]:
    """A checkpoint of a model whose trainable tensors have moved, and all tensors of that model."""
    model = built(llama, trainable=trainable, **changes)
    set_trainable(model, trainable)
    load_weights(model)
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in trainable_parameters(model).values():
            parameter += 0.02 * torch.randn(parameter.shape, generator=draw)
    path.mkdir(parents=True)
    trained = {name: value.detach().clone() for name, value in trainable_parameters(model).items()}
    save_file(trained, path / WEIGHTS)
    settings = {"format": FORMAT, "step": 1, "model": plain(model.config), "template": {"name": "chatbind_v0"}}
    write_manifest(path, {**settings, "components": describe_components(model)})
    return path, {name: value.detach().clone() for name, value in model.state_dict().items()}


@pytest.fixture(scope="module")
def stage_1(tmp_path_factory: pytest.TempPathFactory, llama: Path) -> tuple[Path, dict[str, Tensor]]:
    return step(tmp_path_factory.mktemp("stage_1") / "step_000001", llama, STAGE_1)


@pytest.fixture(scope="module")
def stage_2(tmp_path_factory: pytest.TempPathFactory, llama: Path) -> tuple[Path, dict[str, Tensor]]:
    return step(tmp_path_factory.mktemp("stage_2") / "step_000001", llama, STAGE_2)


def exported(path: Path, out: Path, *arguments: str) -> Path:
    assert export.main([str(path), "--out", str(out), *arguments]) == 0
    return out


def same(model: ChatModel, want: dict[str, Tensor], close: Callable[[Tensor, Tensor], bool] = torch.equal) -> list[str]:
    """Names of the tensors outside the encoder that differ."""
    own = model.state_dict()
    return [name for name, value in own.items() if not name.startswith("enc") and not close(value, want[name])]


def test_the_projector_file_goes_round(stage_1: Any, llama: Path, tmp_path: Path) -> None:
    """Fails when the trained rows or the projector come back changed, the two tensors named `weight` are in an order
    that the reference's loader confuses, or the embedding is not of full height."""
    path, want = stage_1
    out = exported(path, tmp_path / "out", "--layout", "chatbind-projector")
    tensors = torch.load(out / "mm_projector.bin", weights_only=True)
    assert list(tensors)[-1].endswith("mm_projector.bias") and next(iter(tensors)) == "model.embed_tokens.weight"
    assert tensors["model.embed_tokens.weight"].shape == (BASE + 4, 20)
    model = built(llama)
    load_weights(model)
    start_from(model, out)
    assert same(model, want, lambda one, other: torch.allclose(one, other, atol=1e-3)) == []
    assert same(model, want) == ["added_tokens.embedding.<im_start>", "added_tokens.embedding.<im_end>"]  # in fp16


def test_the_merged_model_goes_round(stage_2: Any, llama: Path, tmp_path: Path) -> None:
    """Fails when a tensor, the settings or the tokens' ids of the folder are not those that ChatBind's code reads, or
    it comes back as another model."""
    path, want = stage_2
    out = exported(path, tmp_path / "out", "--layout", "chatbind", "--dtype", "fp32", "--shard-bytes", "60000")
    assert len(list(out.glob("pytorch_model-*.bin"))) > 1 and (out / "pytorch_model.bin.index.json").is_file()
    released = release_tensors()
    found = read_tensors(out)
    assert {name: value.shape for name, value in found.items()} == {name: v.shape for name, v in released.items()}
    config = json.loads((out / "config.json").read_text())
    assert config["vocab_size"] == BASE + 4 and config["pad_token_id"] == BASE and config["mm_hidden_size"] == 24
    ids = json.loads((out / "added_tokens.json").read_text())
    assert ids == {token: BASE + number for number, token in enumerate(ALL)}
    model = built(llama)
    load_weights(model)
    start_from(model, out)
    assert same(model, want, torch.allclose) == []
    alone = built(out, TOKENS)
    load_weights(alone)
    start_from(alone, out)
    assert torch.equal(alone.state_dict()["language.lm.lm_head.weight"][BASE], want["added_tokens.head.[PAD]"])
    assert Tokenizer.from_pretrained(out, BASE + 1, TOKENS).pad_id == BASE


def test_the_delta_goes_round(stage_2: Any, llama: Path, tmp_path: Path) -> None:
    """Fails when apply-delta gives another model than the one that was exported, or refuses it."""
    path, want = stage_2
    out = exported(path, tmp_path / "delta", "--layout", "chatbind-delta", "--base", str(llama), "--dtype", "fp32")
    change = read_tensors(out)
    assert all(value.dtype == torch.float16 for name, value in change.items() if not name.endswith("inv_freq"))
    assert float(change["model.norm.weight"].abs().max()) < 0.2
    assert weights(["apply-delta", str(llama), str(out), str(tmp_path / "merged")]) == 0
    model = built(llama)
    load_weights(model)
    start_from(model, tmp_path / "merged")
    assert same(model, want, lambda one, other: torch.allclose(one, other, atol=2e-3, rtol=2e-3)) == []


def test_what_has_no_released_layout(stage_1: Any, stage_2: Any, llama: Path, tmp_path: Path) -> None:
    """Fails when an export that ChatBind could not read is written, or anything stays behind."""
    taller = tmp_path / "taller"
    taller.mkdir()
    names = {name: value.clone() for name, value in release_tensors().items() if "mm_projector" not in name}
    save_file(names, taller / "model.safetensors")
    other, _ = step(tmp_path / "other" / "step_000001", llama, STAGE_1, added_tokens=[*ALL, "<audio>"])
    joined = {"projector": {"name": "linear", "pool": 1}}
    wide, _ = step(tmp_path / "wide" / "step_000001", llama, STAGE_1, bridges=joined)
    shared = tmp_path / "shared"
    shutil.copytree(llama, shared)
    settings = json.loads((shared / "config.json").read_text())
    (shared / "config.json").write_text(json.dumps({**settings, "tie_word_embeddings": True}))
    state = read_tensors(shared)
    save_file({name: value for name, value in state.items() if "lm_head" not in name}, shared / "model.safetensors")
    tied, _ = step(tmp_path / "tied" / "step_000001", shared, ["bridges.projector.*"])
    for path, arguments, message in (
        (stage_2[0], ("--layout", "chatbind-delta"), "needs --base FOLDER"),
        (tied, ("--layout", "chatbind-projector"), "tie_word_embeddings"),
        (tied, ("--layout", "chatbind"), "tie_word_embeddings"),
        (stage_2[0], ("--layout", "chatbind", "--base", str(llama)), "it needs --layout chatbind-delta"),
        (stage_2[0], ("--layout", "chatbind", "--component", "language"), "leave --component out"),
        (stage_2[0], ("--layout", "chatbind-delta", "--base", str(taller)), "has 604 rows there"),
        (other, ("--layout", "chatbind-projector"), "no row for <audio>"),
        (wide, ("--layout", "chatbind-projector"), "one linear projector of single features"),
    ):
        with pytest.raises(DataError, match=message):
            export.main([str(path), "--out", str(tmp_path / "never"), *arguments])
    assert not (tmp_path / "never").exists()
    plain_rows = exported(stage_1[0], tmp_path / "ours")
    assert {path.name for path in plain_rows.iterdir()} == {"bridges.projector.safetensors", "added_tokens.safetensors"}


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["replicate", "shard"])
def test_both_stages_start_from_released_files(tmp_path: Path, parallel: str) -> None:
    """Fails when a training of one or two ranks cannot start from the projector's file or the merged model, or what
    it trained does not come back through the same layouts."""
    world = MiniWorld(tmp_path / "world")
    config = chatbind_run(world, tmp_path / "first", STAGE_1, max_steps=2)
    assert run(config, tmp_path) == 0
    file = exported(tmp_path / "first", tmp_path / "projector", "--layout", "chatbind-projector", "--dtype", "fp32")
    merged = exported(tmp_path / "first", tmp_path / "merged", "--layout", "chatbind", "--dtype", "fp32")
    for start in (file, merged):
        out = tmp_path / f"from_{start.name}"
        settings = {"parallel": parallel, "init_from": str(start), "optimizer": {"lr": 0.0}}
        second = chatbind_run(world, out, STAGE_2, max_steps=1, schedule={"kind": "constant"}, **settings)
        done = run_processes(second, tmp_path, num_processes=2)
        assert done.returncode == 0, done.stderr
        again = exported(out, tmp_path / f"again_{start.name}", "--layout", "chatbind", "--dtype", "fp32")
        want, found = read_tensors(merged), read_tensors(again)
        assert want.keys() == found.keys()
        heads = {"lm_head.weight"} if start == file else set()  # the file of stage 1 has no rows of the head
        assert [name for name in want if name not in heads and not torch.equal(want[name], found[name])] == []


def chatbind_run(world: MiniWorld, output: Path, trainable: list[str], **settings: Any) -> dict[str, Any]:
    """A training on images with ChatBind's parts."""
    config = world.experiment(output, **settings)
    sources = {name: one for name, one in config["data"]["sources"].items() if name in ("pictures", "image_qa")}
    config["data"]["sources"] = sources
    config["model"] |= {
        **{key: value for key, value in release_settings(world.folder / "lm").items() if key != "language"},
        "trainable": trainable,
        "added_tokens": list(ALL),
    }
    torch.manual_seed(0)
    vision = ChatModel(parse(ModelConfig, config["model"])).encoders["vision"]
    if not (file := world.folder / "vision.safetensors").exists():
        save_component(vision, file)
    config["model"]["encoders"] = {"vision": {**VISION, "weights": str(file)}}
    return config
