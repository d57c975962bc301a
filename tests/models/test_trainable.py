"""Promise 2: exactly the tensors listed under `trainable` change. Patterns, frozen parts, the printed tree."""

from __future__ import annotations

import pytest
import torch

from chatbridge.common.errors import ConfigError
from chatbridge.models.chat_model import ChatModel
from chatbridge.models.trainable import set_trainable
from tests.helpers.tiny_models import PERCEIVER, batch, tiny_model

MEDIA = ("image", "video", "audio")


def stepped(model: ChatModel) -> set[str]:
    """Names of the tensors that one AdamW step moves, weight decay included."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1, weight_decay=0.1)
    model.train()
    model(batch(model, MEDIA)).total.backward()
    optimizer.step()
    return {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


@pytest.mark.parametrize(
    "patterns",
    [
        ["bridges.*"],
        ["bridges.perceiver.output.*"],
        ["bridges.perceiver.queries.sound", "encoders.vision.norm.*"],
        ["encoders.audio.blocks.*", "language.*norm*"],
        ["*"],
    ],
)
def test_exactly_the_listed_tensors_change(patterns: list[str]) -> None:
    """Fails when a frozen tensor moves or a listed one does not (promise 2)."""
    model = tiny_model(bridges={"perceiver": {**PERCEIVER, "weight_std": 0.2}})
    report = set_trainable(model, patterns)
    moved = stepped(model)
    assert moved == set(report.names)
    assert moved == {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_nothing_trains_by_default() -> None:
    """Fails when a parameter is trainable that no pattern matches."""
    report = set_trainable(tiny_model(), [])
    assert report.num_trainable == 0 and report.names == ()


def test_a_pattern_without_a_match_is_an_error() -> None:
    """Fails when a misspelled pattern passes silently, or its nearest names are not shown."""
    with pytest.raises(ConfigError) as error:
        set_trainable(tiny_model(), ["bridges.*", "bridge.*", "bridges.perciever.*"])
    assert [problem.path for problem in error.value.problems] == ["model.trainable[1]", "model.trainable[2]"]
    assert [problem.nearest for problem in error.value.problems] == ["bridges.*", "bridges.perceiver.*"]
    assert "bridges.perceiver.*" in error.value.problems[0].allowed


def test_frozen_parts_stay_in_eval_mode() -> None:
    """Fails when train() reaches a frozen part, dropout of a trained one is off, or eval() is not undone."""
    model = tiny_model()
    set_trainable(model, ["bridges.*"])
    bridge = model.bridges["perceiver"]
    for _ in range(2):
        model.train()
        assert not any(module.training for module in (*model.encoders.modules(), *model.language.modules()))
        assert model.training and all(module.training for module in bridge.modules())
        model.eval()
        assert not any(module.training for module in model.modules())


def test_frozen_inside_a_trained_bridge_stays_in_eval_mode() -> None:
    """Fails when dropout is active in a frozen Q-Former before a trainable projection (MiniGPT-4)."""
    model = tiny_model()
    set_trainable(model, ["bridges.perceiver.output.*"])
    model.train()
    bridge = model.bridges["perceiver"]
    assert bridge.output.training and not any(module.training for module in bridge.qformer.modules())
    features = batch(model, ("image",)).media
    torch.testing.assert_close(model.media_tokens(features)["image"], model.media_tokens(features)["image"])


def test_dropout_works_where_something_trains() -> None:
    """Fails when a trained bridge's dropout is switched off during training."""
    model = tiny_model(bridges={"perceiver": {**PERCEIVER, "dropout": 0.5}})
    set_trainable(model, ["bridges.*"])
    model.train()
    features = batch(model, ("image",)).media
    assert not torch.equal(model.media_tokens(features)["image"], model.media_tokens(features)["image"])


@pytest.mark.parametrize(("pattern", "recorded"), [("bridges.*", False), ("encoders.vision.norm.*", True)])
def test_frozen_encoders_record_nothing(pattern: str, recorded: bool) -> None:
    """Fails when a frozen encoder keeps its activations for a backward pass, or a trained one does not."""
    model = tiny_model()
    set_trainable(model, [pattern])
    route = model.routes["image"]
    seen = []
    route.bridge.register_forward_pre_hook(lambda module, args: seen.append(args[0].x.requires_grad))
    route.tokens(batch(model, ("image",)).media["image"])
    assert seen == [recorded]


def test_a_frozen_bridge_passes_the_gradient_of_a_trained_encoder() -> None:
    """Fails when running frozen parts without gradient stops gradients to trainable parts before them."""
    model = tiny_model(bridges={"perceiver": {**PERCEIVER, "weight_std": 0.2}})
    report = set_trainable(model, ["encoders.vision.*"])
    model(batch(model, ("image",))).total.backward()
    assert report.names
    assert all(parameter.grad is not None for parameter in model.encoders["vision"].parameters())


def test_shared_tensors_answer_to_both_names() -> None:
    """Fails when the head of a language model that shares its embedding cannot be named."""
    language = {
        "name": "causal_lm",
        "architecture": {
            "vocab_size": 50,
            "hidden_size": 20,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "tie_word_embeddings": True,
        },
    }
    report = set_trainable(tiny_model(language=language), ["language.lm.lm_head.*"])
    assert report.names == ("language.lm.model.embed_tokens.weight",)


def test_tree_counts() -> None:
    """Fails when a number in the printed tree is not the number of parameters, or a state is wrong."""
    model = tiny_model()
    report = set_trainable(model, ["bridges.perceiver.queries.*", "encoders.audio.*"])
    queries = sum(parameter.numel() for parameter in model.bridges["perceiver"].queries.values())
    audio = sum(parameter.numel() for parameter in model.encoders["audio"].parameters())
    total = sum(parameter.numel() for parameter in model.parameters())
    assert report.counts["model"] == (queries + audio, total)
    assert report.counts["bridges.perceiver.queries"] == (queries, queries)
    tree = {line.split()[0]: " ".join(line.split()[1:]) for line in str(report).splitlines()}
    assert tree["audio"].endswith("full") and tree["vision"].endswith("frozen") and tree["language"].endswith("frozen")
    assert tree["perceiver"].endswith(f"{queries} trainable")
    assert report.as_dict()["tree"]["language"] == {"trainable": 0, "total": report.counts["language"][1]}
