"""`chatbridge export --layout textbind...`: files of TextBind's layout, read back as a user's download is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from chatbridge.cli import export
from chatbridge.common.errors import DataError
from chatbridge.config.schema import parse, plain
from chatbridge.models.chat_model import ChatModel
from chatbridge.models.checkpoint_manifest import FORMAT, WEIGHTS, write_manifest
from chatbridge.models.component_tensors import describe_components, trainable_parameters
from chatbridge.models.config import ModelConfig
from chatbridge.models.importers.released import start_from
from chatbridge.models.loading import load_weights, save_component
from chatbridge.models.trainable import set_trainable
from tests.helpers.mini_world import MiniWorld
from tests.helpers.textbind_release import ROWS, settings, stage_2_file
from tests.helpers.tiny_models import LANGUAGE, VISION, tiny_model
from tests.helpers.train_runs import run, run_processes

STAGE_1 = ["bridges.qformer.*"]
STAGE_2 = ["bridges.qformer.*", "language.*", "added_tokens.*"]


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The model's settings, with files of encoder, Q-Former and language model."""
    folder = tmp_path_factory.mktemp("parts")
    model = tiny_model(**settings())
    for name, part in (("vision", model.encoders["vision"]), ("qformer", model.bridges["qformer"])):
        save_component(part, folder / f"{name}.safetensors")
    lm: Any = model.language.lm
    lm.save_pretrained(folder / "llama")
    own = settings()
    own["encoders"] = {"vision": {**VISION, "eps": 1e-5, "weights": str(folder / "vision.safetensors")}}
    own["bridges"] = {"qformer": {**own["bridges"]["qformer"], "weights": str(folder / "qformer.safetensors")}}
    own["language"] = {**LANGUAGE, "weights": str(folder / "llama"), "template": "textbind"}
    return own


def built(parts: dict[str, Any], **changes: Any) -> ChatModel:
    torch.manual_seed(5)
    model = ChatModel(parse(ModelConfig, {**parts, **changes}))
    load_weights(model)
    return model


def step(path: Path, parts: dict[str, Any], trainable: list[str], **changes: Any) -> tuple[Path, dict[str, Tensor]]:
    """A checkpoint of a model whose trainable tensors have moved, and all tensors of that model."""
    model = built(parts, trainable=trainable, **changes)
    set_trainable(model, trainable)
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in trainable_parameters(model).values():
            parameter += 0.02 * torch.randn(parameter.shape, generator=draw)
    path.mkdir(parents=True)
    save_file({name: value.detach().clone() for name, value in trainable_parameters(model).items()}, path / WEIGHTS)
    manifest = {"format": FORMAT, "step": 1, "model": plain(model.config), "template": {"name": "textbind"}}
    write_manifest(path, {**manifest, "components": describe_components(model)})
    return path, {name: value.detach().clone() for name, value in model.state_dict().items()}


def exported(path: Path, out: Path, *arguments: str) -> dict[str, Tensor]:
    assert export.main([str(path), "--out", str(out), *arguments]) == 0
    (file,) = out.iterdir()
    assert file.name == ("second_stage_model.pt" if "textbind" in arguments else "first_stage_model.pt")
    return torch.load(file, weights_only=True)


def test_stage_1_goes_round(parts: dict[str, Any], tmp_path: Path) -> None:
    """Fails when a name is not that of the release, a tensor changes, or parts that were not trained are written."""
    path, want = step(tmp_path / "step_000001", parts, STAGE_1)
    tensors = exported(path, tmp_path / "out", "--layout", "textbind-stage1")
    released = {name: value for name, value in stage_2_file().items() if not name.startswith("language_model.")}
    assert {name: value.shape for name, value in tensors.items()} == {n: v.shape for n, v in released.items()}
    model = built(parts)
    start_from(model, tmp_path / "out")
    assert all(torch.equal(value, want[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("trainable", [STAGE_1, STAGE_2], ids=["stage1", "stage2"])
def test_the_whole_file_goes_round(parts: dict[str, Any], tmp_path: Path, trainable: list[str]) -> None:
    """Fails when the rows of added tokens are lost, a tensor changes, or a name is not that of the release."""
    path, want = step(tmp_path / "step_000001", parts, trainable, added_tokens=["<end>", "<start>", "<image>"])
    tensors = exported(path, tmp_path / "out", "--layout", "textbind", "--dtype", "fp32")
    released = {name: value for name, value in stage_2_file().items() if "rotary_emb" not in name}
    assert {name: value.shape for name, value in tensors.items()} == {n: v.shape for n, v in released.items()}
    rows = tensors["language_model.lm_head.weight"][ROWS:]
    for row, token in zip(rows, ("<image>", "<start>", "<end>"), strict=True):
        assert torch.equal(row, want[f"added_tokens.head.{token}"])
    model = built(parts)
    start_from(model, tmp_path / "out" / "second_stage_model.pt")
    assert all(torch.equal(value, want[name]) for name, value in model.state_dict().items())


def test_a_tied_language_model_goes_round(parts: dict[str, Any], tmp_path: Path) -> None:
    """Fails when a model whose head is its embedding has no head in the file, or comes back as another model."""
    sizes = {**LANGUAGE["architecture"], "tie_word_embeddings": True}
    lm: Any = tiny_model(**settings(language={"name": "causal_lm", "architecture": sizes})).language.lm
    lm.save_pretrained(tmp_path / "tied")
    tied = {**parts, "language": {**LANGUAGE, "weights": str(tmp_path / "tied"), "template": "textbind"}}
    path, want = step(tmp_path / "step_000001", tied, STAGE_2)
    tensors = exported(path, tmp_path / "out", "--layout", "textbind", "--dtype", "fp32")
    embedding, head = (tensors[f"language_model.{name}.weight"] for name in ("model.embed_tokens", "lm_head"))
    assert torch.equal(embedding, head) and len(head) == ROWS + 3
    model = built(tied)
    start_from(model, tmp_path / "out")
    assert all(torch.equal(value, want[name]) for name, value in model.state_dict().items())


def test_what_has_no_such_layout(parts: dict[str, Any], tmp_path: Path) -> None:
    """Fails when a file that TextBind could not read is written, or anything stays behind."""
    more, _ = step(
        tmp_path / "more" / "step_000001", parts, STAGE_1, added_tokens=["<image>", "<start>", "<end>", "<x>"]
    )
    linear = {
        "bridges": {"linear": {"name": "linear"}},
        "routes": {"image": {"encoder": "vision", "bridge": "linear"}},
    }
    other, _ = step(tmp_path / "other" / "step_000001", parts, ["bridges.*"], **linear)
    temporal = {"qformer": {**parts["bridges"]["qformer"], "temporal": {"all": 2}}}
    frames, _ = step(tmp_path / "frames" / "step_000001", parts, STAGE_1, bridges=temporal)
    for path, layout, message in (
        (more, "textbind", "model.added_tokens has <image>, <start>, <end>, <x>"),
        (other, "textbind-stage1", "bridges.linear is Linear, expected a Q-Former"),
        (frames, "textbind-stage1", "temporal.all has no place in the huggingface layout"),
    ):
        with pytest.raises(DataError, match=message):
            export.main([str(path), "--out", str(tmp_path / "never"), "--layout", layout])
    assert not (tmp_path / "never").exists()


@pytest.mark.slow
def test_both_stages_start_from_released_files(tmp_path: Path) -> None:
    """Fails when a sharded training of two ranks cannot start from the file of either stage, or what it trained does
    not come back through the same layout."""
    world = MiniWorld(tmp_path / "world")
    first = textbind_run(world, tmp_path / "first", STAGE_1, max_steps=2)
    assert run(first, tmp_path) == 0
    aligned = exported(tmp_path / "first", tmp_path / "one", "--layout", "textbind-stage1", "--dtype", "fp32")
    whole = exported(tmp_path / "first", tmp_path / "two", "--layout", "textbind", "--dtype", "fp32")
    for start, want in (("one", aligned), ("two", whole)):
        out = tmp_path / f"from_{start}"
        (file,) = (tmp_path / start).iterdir()
        frozen = {"parallel": "shard", "init_from": str(file), "optimizer": {"lr": 0.0}}
        second = textbind_run(world, out, STAGE_2, max_steps=1, schedule={"kind": "constant"}, **frozen)
        done = run_processes(second, tmp_path, num_processes=2)
        assert done.returncode == 0, done.stderr
        found = exported(out, tmp_path / f"again_{start}", "--layout", "textbind", "--dtype", "fp32")
        assert [name for name in want if not torch.equal(want[name], found[name])] == []


def textbind_run(world: MiniWorld, output: Path, trainable: list[str], **changes: Any) -> dict[str, Any]:
    """A training on images with TextBind's parts."""
    config = world.experiment(output, **changes)
    sources = {name: one for name, one in config["data"]["sources"].items() if name in ("pictures", "image_qa")}
    config["data"]["sources"] = sources
    own = {key: value for key, value in settings().items() if key != "language"}
    config["model"] |= {**own, "trainable": trainable}
    torch.manual_seed(0)
    if not (file := world.folder / "vision.safetensors").exists():
        save_component(ChatModel(parse(ModelConfig, config["model"])).encoders["vision"], file)
    config["model"]["encoders"] = {"vision": {**VISION, "eps": 1e-5, "weights": str(file)}}
    return config
