"""CLIP's vision tower from files of OpenAI and open_clip, and its tokens without the class token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from chatbridge.cli.weights.convert import main as convert
from chatbridge.models.encoders.hf_vision import HFVision
from chatbridge.models.loading import load_component
from chatbridge.models.weight_files import read_state
from tests.helpers.tiny_towers import DINOV2, VIT

SIZES = {**VIT, "model_type": "clip_vision_model", "num_attention_heads": 1}
INNER = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "self_attn.out_proj": "attn.out_proj", "mlp.fc1": "mlp.c_fc",
         "mlp.fc2": "mlp.c_proj"}  # fmt: skip
OUTER = {"embeddings.class_embedding": "class_embedding", "embeddings.patch_embedding.weight": "conv1.weight",
         "embeddings.position_embedding.weight": "positional_embedding"}  # fmt: skip


def encoder(**settings: Any) -> HFVision:
    torch.manual_seed(0)
    return HFVision(HFVision.Config(architecture=dict(SIZES), **settings)).eval()


def open_clip(tower: dict[str, Tensor]) -> dict[str, Tensor]:
    """The names of the published files, with a tower of texts beside."""
    state: dict[str, Tensor] = {}
    for name, value in tower.items():
        if name in OUTER:
            state[f"visual.{OUTER[name]}"] = value
        elif name.startswith("pre_layrnorm."):
            state[f"visual.ln_pre.{name.rpartition('.')[2]}"] = value
        else:
            _, _, layer, *rest = name.split(".")
            part, leaf = ".".join(rest[:-1]), rest[-1]
            if part in INNER:
                state[f"visual.transformer.resblocks.{layer}.{INNER[part]}.{leaf}"] = value
    for layer in range(SIZES["num_hidden_layers"]):
        for leaf in ("weight", "bias"):
            parts = [tower[f"encoder.layers.{layer}.self_attn.{one}_proj.{leaf}"] for one in "qkv"]
            state[f"visual.transformer.resblocks.{layer}.attn.in_proj_{leaf}"] = torch.cat(parts)
    norm = {f"visual.ln_post.{leaf}": torch.ones(16) for leaf in ("weight", "bias")}
    texts = {"token_embedding.weight": torch.ones(9, 4), "transformer.resblocks.0.ln_1.weight": torch.ones(4)}
    return state | norm | texts | {"visual.proj": torch.ones(16, 6), "logit_scale": torch.ones(())}


def test_open_clip_fills_the_tower_and_its_folder(tmp_path: Path, capsys: Any) -> None:
    """Fails when a tensor gets another's place (in_proj in another order, the norms swapped), directly or through the
    folder that `weights convert` writes; or when the first token is not the class token."""
    given = encoder()
    tower = {name.removeprefix("tower."): value.clone() for name, value in given.state_dict().items()}
    path = tmp_path / "ViT.pt"
    torch.save(open_clip({name: value + torch.randn(value.shape) for name, value in tower.items()}), path)
    other = encoder(drop_first=1)
    report = load_component(other, path)
    assert len(report.notes.dropped) == 6  # the last norm, the projection, the tower of texts
    assert len(report.loaded) == len(other.state_dict())
    convert([str(path), str(tmp_path / "clip")])
    assert "3 tensors of other parts left out" in capsys.readouterr().out
    folder = HFVision(HFVision.Config(weights=tmp_path / "clip")).eval()
    folder.load_folder()
    media = torch.randn(2, 3, 28, 28)
    with torch.no_grad():
        whole = folder(media).x
        assert torch.allclose(other(media).x, whole[:, 1:], atol=1e-5)
    assert other.num_tokens("image") == 4 and folder.num_tokens("image") == 5
    assert not torch.allclose(whole[:, 1:], given(media).x[:, 1:], atol=1e-2)
    assert folder.config.processor("image", False, 1)(torch.zeros(3, 30, 40, dtype=torch.uint8)).shape == (3, 28, 28)


def test_one_file_is_enough_beside_the_sizes(tmp_path: Path) -> None:
    """Fails when `weights` must be a folder, a folder of other sizes passes, or images are not cropped as CLIP's."""
    tower = {name.removeprefix("tower."): value for name, value in encoder().state_dict().items()}
    torch.save(open_clip({name: value + 1 for name, value in tower.items()}), tmp_path / "ViT.pt")
    config = HFVision.Config(architecture=dict(SIZES), weights=tmp_path / "ViT.pt")
    assert not list(config.problems())
    other = HFVision(config).eval()
    ((path, only),) = other.files()
    assert len(load_component(other, path, only).loaded) == len(tower) and other.load_folder() is None
    image = torch.zeros(3, 28, 56, dtype=torch.uint8)
    image[:, :, 14:42] = 255  # the middle: with a center crop nothing else is left
    assert config.processor("image", False, 1)(image).flatten(1).std(1).max() < 1e-5
    assert "one file, which has no sizes" in str(next(HFVision.Config(weights=tmp_path / "ViT.pt").problems()))
    convert([str(tmp_path / "ViT.pt"), str(tmp_path / "clip")])
    wrong = HFVision.Config(weights=tmp_path / "clip", architecture={**SIZES, "hidden_size": 32})
    assert "has hidden_size 16, this configuration is for 32" in str(next(wrong.problems()))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"visual.attnpool.q_proj.weight": torch.ones(1)}, "attnpool.q_proj.weight is not a tensor of CLIP's ViT"),
        ({"visual.transformer.resblocks.0.ls_1.gamma": torch.ones(1)}, "not a tensor of a block of CLIP's ViT"),
        ({"audio.weight": torch.ones(1)}, "unexpected  audio.weight"),
    ],
)
def test_other_towers_are_refused(change: dict[str, Tensor], words: str, tmp_path: Path) -> None:
    """Fails when tensors that the tower has no place for are left out silently: a ResNet, layer scale."""
    tower = {name.removeprefix("tower."): value for name, value in encoder().state_dict().items()}
    torch.save({**open_clip(tower), **change}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=words):
        load_component(encoder(), tmp_path / "other.pt")


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_a_program_says_how_to_get_its_tensors(tmp_path: Path) -> None:
    """Fails when OpenAI's own file of CLIP, a program, gives no next step, or the step does not work."""
    layer = torch.nn.Linear(2, 2)
    torch.jit.trace(layer, torch.ones(1, 2)).save(str(tmp_path / "ViT-L-14.pt"))
    with pytest.raises(ValueError, match="a program of TorchScript") as caught:
        read_state(tmp_path / "ViT-L-14.pt")
    step = str(caught.value).partition("tensors: ")[2].replace("FILE", str(tmp_path / "ViT-L-14.pt"))
    exec(step.replace("tensors.pt", str(tmp_path / "tensors.pt")), {"torch": torch})
    assert torch.equal(read_state(tmp_path / "tensors.pt")["weight"], layer.weight)


def test_dropping_every_token_is_refused() -> None:
    """Fails when an encoder without tokens is built, or another family's class token stays."""
    with pytest.raises(ValueError, match="drop_first: 5 leaves no token: an image of 28 pixels has 5"):
        encoder(drop_first=5)
    dino = HFVision(HFVision.Config(architecture=DINOV2["architecture"], drop_first=1)).eval()
    whole = HFVision(HFVision.Config(architecture=DINOV2["architecture"])).eval()
    whole.load_state_dict(dino.state_dict())
    media = torch.randn(1, 3, 28, 28)
    assert torch.equal(dino(media).x, whole(media).x[:, 1:]) and dino.num_tokens("image") == 4
