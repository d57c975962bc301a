"""Activation checkpointing: the same losses and gradients to the bit, for fewer bytes kept for the backward pass."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from chatbridge.models.chat_model import ChatModel
from chatbridge.models.encoders import ENCODERS
from chatbridge.models.fusion import FUSIONS
from chatbridge.models.memory import Recomputed, checkpoint_activations, components, layers_of
from chatbridge.models.trainable import set_trainable
from tests.helpers.tiny_models import AUDIO, LANGUAGE, PERCEIVER, VISION, batch, tiny_model
from tests.helpers.tiny_towers import AST, CLIP, TIMM_VIT
from tests.models.test_contract import settings_of

MEDIA = ("image", "video", "audio", "image")
DEEP = {**LANGUAGE, "architecture": {**LANGUAGE["architecture"], "num_hidden_layers": 4, "attention_dropout": 0.2}}
WIDE = {**PERCEIVER, "num_layers": 4, "dropout": 0.3}


def trained_model(*trainable: str, **changes: Any) -> ChatModel:
    model = tiny_model(**{"language": DEEP, "bridges": {"perceiver": WIDE}, **changes})
    set_trainable(model, trainable or ("bridges.*",))
    return model.train()


def step(model: ChatModel) -> tuple[float, dict[str, Tensor], int]:
    """Loss, gradients, and the bytes that autograd keeps between forward and backward."""
    kept: dict[int, int] = {}
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    model.zero_grad(set_to_none=True)
    torch.manual_seed(5)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        total = model(batch(model, MEDIA)).total
    total.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return float(total.detach()), gradients, sum(kept.values())


@pytest.mark.parametrize(
    ("patterns", "trainable"),
    [
        (("language",), ("bridges.*",)),
        (("bridges.*",), ("bridges.*",)),
        (("*",), ("*",)),
        (("language",), ("language.lm.model.layers.3.*",)),
    ],
    ids=["frozen language model", "bridge with dropout", "everything", "last layer"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_losses_and_gradients_are_equal_to_the_bit(
    patterns: tuple[str, ...], trainable: tuple[str, ...], dtype: torch.dtype
) -> None:
    """Fails when dropout or autocast differ in the second computation, or a gradient is lost."""
    model = trained_model(*trainable)
    model.compute_dtype = dtype
    loss, gradients, _ = step(model)
    names = list(model.state_dict())
    lines = checkpoint_activations(model, patterns)
    again, others, _ = step(model)
    assert lines and list(model.state_dict()) == names == list(trained_model().state_dict())
    assert again == loss
    assert list(others) == list(gradients)
    for name, gradient in gradients.items():
        assert torch.equal(others[name], gradient), name


def test_fewer_bytes_are_kept() -> None:
    """Fails when layers keep their intermediate results: in a frozen language model in eval mode, or in a bridge."""
    plain = step(trained_model())[2]
    kept = {}
    for pattern in ("language", "bridges.perceiver", "*"):
        model = trained_model()
        checkpoint_activations(model, [pattern])
        kept[pattern] = step(model)[2]
    assert kept["*"] < kept["language"] < plain and kept["*"] < kept["bridges.perceiver"] < plain
    assert kept["*"] < 0.35 * plain


def test_layers_of_a_fusion_are_recomputed_and_run_once_around_each_decoder_layer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Fails when a hook of a fusion runs inside the recomputed part, or its own layers cannot be chosen."""
    monkeypatch.setattr(FUSIONS, "packages", [*FUSIONS.packages])
    FUSIONS.packages.append("lab_of_fusions.fusion")
    fusion = {"name": "toy_cross_attention", "gate": 0.5, "slot_token": "<image>"}
    model = trained_model("bridges.*", "fusion.*", fusion=fusion, routes={"image": {"encoder": "vision",
        "bridge": "perceiver"}}, encoders={"vision": VISION}, added_tokens=["<image>"])  # fmt: skip
    data = batch(model, ("image", "image"))

    def gradients() -> dict[str, Tensor]:
        model.zero_grad()
        torch.manual_seed(1)
        model(data).total.backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    before = gradients()
    looks: list[int] = []
    model.language.decoder_layers[0].register_forward_pre_hook(lambda *_: looks.append(1))
    assert len(checkpoint_activations(model, ["language", "fusion"])) == 2
    after = gradients()
    assert looks == [1]
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_a_copy_computes_with_its_own_parameters() -> None:
    """Fails when the replaced forward of a copied layer still refers to the layer it was copied from."""
    model = trained_model("language.*")
    checkpoint_activations(model, ["language"])
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.language.decoder_layers.parameters():
            parameter.zero_()
    assert step(other)[0] != step(model)[0]
    assert step(model)[0] == step(trained_model("language.*"))[0]


def test_generation_computes_nothing_twice() -> None:
    """Fails when checkpointing acts without gradients, where a KV cache would be extended twice."""
    model = trained_model().eval()
    prompt = batch(model, ("image",))
    before = model.generate(prompt)
    checkpoint_activations(model, ["*"])
    calls: list[int] = []
    model.language.decoder_layers[0].register_forward_hook(lambda *_: calls.append(1))
    assert model.generate(prompt) == before and len(calls) >= 1


def test_applying_it_twice_changes_nothing() -> None:
    """Fails when a layer is wrapped twice: it would be computed three times."""
    model = trained_model()
    checkpoint_activations(model, ["language"])
    checkpoint_activations(model, ["lang*"])
    first = model.language.decoder_layers[0].forward
    assert isinstance(first, Recomputed) and not isinstance(first.forward, Recomputed)


def test_the_layers_of_every_component_are_its_blocks() -> None:
    """Fails when a component's repeated layers are not found, so that a whole encoder would be one layer."""
    sizes = {"eva_vit": {**VISION, "depth": 3}, "beats": {**AUDIO, "depth": 3}, "hf_vision": CLIP, "hf_audio": AST,
             "timm_vision": TIMM_VIT}  # fmt: skip
    for name, settings in sizes.items():
        part = ENCODERS.get(name)(settings_of(ENCODERS.get(name), settings))
        layers = layers_of(part)
        depth = 3 if name in ("eva_vit", "beats") else len(layers)
        assert len(layers) == depth and part not in layers and len({type(one) for one in layers}) == 1, name
    model = tiny_model(bridges={"perceiver": WIDE})
    assert {name: len(layers_of(part)) for name, part in components(model).items()} == {
        "encoders.vision": 1, "encoders.audio": 1, "bridges.perceiver": 4, "language": 2,
    }  # fmt: skip


def test_stages_are_opened_to_their_blocks() -> None:
    """Fails when a convolutional or windowed network is recomputed stage by stage: a stage is most of its memory."""
    import timm

    swin = timm.create_model("swin_tiny_patch4_window7_224", img_size=32, embed_dim=8, depths=(2, 2), num_heads=(1, 2),
                             window_size=4)  # fmt: skip
    assert {type(one).__name__ for one in layers_of(swin)} == {"SwinTransformerBlock"} and len(layers_of(swin)) == 4
    mlp = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    assert layers_of(mlp) == [mlp]
