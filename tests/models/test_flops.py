"""Operations of a step by component, against torch's FlopCounterMode over the real forward and backward pass."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from chatbridge.common.types import Batch
from chatbridge.models.chat_model import ChatModel
from chatbridge.models.flops import HEAD, LANGUAGE, BatchShape, StepFlops, step_flops, total
from chatbridge.models.memory import checkpoint_activations
from chatbridge.models.trainable import set_trainable
from tests.helpers.fused_rows import batch_of
from tests.helpers.gated_models import gated
from tests.helpers.tiny_models import IMAGEBIND, IMAGEBIND_MEDIA, ROUTES, VISION, batch, tiny_model

ALL = ("image", "video", "audio")
GPT2 = {"model_type": "gpt2", "vocab_size": 50, "n_embd": 20, "n_layer": 2, "n_head": 2, "bos_token_id": 1,
        "eos_token_id": 2}  # fmt: skip


def counted(model: ChatModel, one: Batch) -> tuple[float, float]:
    """Operations of the forward pass, and of forward and backward, as torch counts them."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        loss = model(one).total
        forward = counter.get_total_flops()
        if loss.requires_grad:
            loss.backward()
    return forward, counter.get_total_flops()


PATTERNS = ([], ["bridges.*"], ["bridges.perceiver.output.*"], ["language.*"], ["language.lm.model.layers.1.*"],
            ["bridges.*", "language.*"], ["encoders.*"], ["*"])  # fmt: skip


def test_what_trains_decides_the_backward_pass() -> None:
    """fails when a frozen part costs its weight's gradient, or a part without a gradient a backward pass"""
    model = tiny_model().train()
    one = batch(model, ALL)
    for patterns in PATTERNS:
        set_trainable(model, patterns)
        forward, both = counted(model, one)
        found = total(step_flops(model, BatchShape.of(one)))
        assert found.forward == pytest.approx(forward, rel=0.02), patterns
        assert found.total == pytest.approx(both, rel=0.02), patterns
        assert (found.backward > 0) == bool(patterns)


@pytest.mark.parametrize("merge", ["concat", "separate", "mean", "mean_features"])
def test_other_parts_and_shapes(merge: str) -> None:
    """fails when pieces are counted once for all, lengths enter linearly only, or a family of models is not counted"""
    routes = {**ROUTES, "video": {**ROUTES["video"], "frames": {"count": 2, "merge": merge}}}
    language = {"language": {"name": "causal_lm", "architecture": GPT2}} if merge == "concat" else {}
    model = tiny_model(routes=routes, **language)
    set_trainable(model, ["bridges.*"])
    costs = StepFlops(model.train())
    for rows, lengths in ((("video", "video"), (31, 18)), (ALL, ())):
        one = batch(model, rows, lengths)
        assert total(costs(BatchShape.of(one))).total == pytest.approx(counted(model, one)[1], rel=0.02)


def test_a_shared_linear_bridge() -> None:
    """fails when a bridge other than the Q-Former is measured with features of the wrong number or width"""
    bridges = {"perceiver": {"name": "linear", "pool": 2}}
    model = tiny_model(
        encoders={"vision": VISION}, bridges=bridges, routes={"image": ROUTES["image"], "video": ROUTES["video"]}
    )
    set_trainable(model, ["bridges.*"])
    one = batch(model.train(), ("image", "video"))
    assert total(step_flops(model, BatchShape.of(one))).total == pytest.approx(counted(model, one)[1], rel=0.02)


@pytest.mark.parametrize("patterns", [["bridges.*"], ["*"]])
def test_trunks_with_one_feature(patterns: list[str]) -> None:
    """fails when ImageBind cannot be measured (it would be estimated from its size), or clips count once for all"""
    route = {"encoder": "bind", "bridge": "linear"}
    model = tiny_model(
        encoders={"bind": IMAGEBIND}, bridges={"linear": {"name": "linear"}},
        routes={"image": route, "audio": {**route, "clips": {"count": 3, "merge": "mean_features"}}},
    ).train()  # fmt: skip
    set_trainable(model, patterns)
    one = batch(model, ("image", "audio"), shapes={**IMAGEBIND_MEDIA, "audio": (3, *IMAGEBIND_MEDIA["audio"])})
    found = step_flops(model, BatchShape.of(one))
    assert total(found).total == pytest.approx(counted(model, one)[1], rel=0.02)
    assert (found["encoders.bind"].backward > 0) == (patterns == ["*"])


def test_components_and_what_is_not_work_of_the_model() -> None:
    """fails when a cached encoder still costs, text-only batches have a backward pass, or repeated passes count"""
    model = tiny_model()
    set_trainable(model, ["bridges.*"])
    one = batch(model.train(), ("image", "image"))
    shape = BatchShape.of(one)
    parts = step_flops(model, shape)
    assert set(parts) == {"encoders.vision", "bridges.perceiver", LANGUAGE, HEAD}
    assert parts["encoders.vision"].backward == 0 < parts["bridges.perceiver"].backward
    scores = 2 * 2 * 2 * 20 * shape.num_pairs  # layers x products x operations x width: both operands need a gradient
    assert parts[LANGUAGE].backward == parts[LANGUAGE].forward + scores  # frozen, with a gradient that flows through it
    features = model.encoders["vision"](one.media["image"], "image").x
    cached = step_flops(model, replace(shape, media={"image": tuple(features.shape)}, cached=frozenset({"image"})))
    assert cached["encoders.vision"].total == 0 and cached["bridges.perceiver"] == parts["bridges.perceiver"]
    text = step_flops(model, BatchShape(rows=2, length=9, points=5))
    assert total(text).backward == 0 < total(text).forward
    repeated = step_flops(model, shape, checkpointed={LANGUAGE, "encoders.vision"})
    assert total(repeated).total == total(parts).total
    assert 0.7 < total(repeated).repeated / parts[LANGUAGE].forward < 1  # the encoder has no backward pass
    packed = step_flops(model, replace(shape, pairs=shape.num_pairs / 2))
    assert packed[LANGUAGE].total < parts[LANGUAGE].total and packed[HEAD] == parts[HEAD]


@pytest.mark.parametrize("patterns", [["bridges.*"], ["*"]])
def test_what_checkpointing_repeats(patterns: list[str]) -> None:
    """fails when the repeated operations are not those of a real step, whose layers end before their last product"""
    parts = (LANGUAGE, "bridges.perceiver", "encoders.vision")
    model = tiny_model()
    set_trainable(model, patterns)
    one = batch(model.train(), ALL)
    kept = counted(model, one)[1]
    found = total(step_flops(model, BatchShape.of(one), checkpointed=parts)).repeated
    checkpoint_activations(model, parts)
    assert found == pytest.approx(counted(model, one)[1] - kept, rel=0.01)


def test_the_last_feed_forward_part_counts_where_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """fails when positions that the last layer skips are counted"""
    monkeypatch.setattr("chatbridge.models.language._last_layer.LEAST_SAVED", 1)
    model = tiny_model()
    for patterns in (["bridges.*"], ["language.*"]):
        set_trainable(model, patterns)
        one = batch(model.train(), ALL)
        found = total(step_flops(model, BatchShape.of(one)))
        assert found.total == pytest.approx(counted(model, one)[1], rel=0.02)
    whole = step_flops(model, BatchShape.of(one), checkpointed={LANGUAGE})  # runs again, so it skips nothing
    checkpoint_activations(model, ("language",))
    assert total(whole).forward == pytest.approx(counted(model, one)[0], rel=0.005)
    assert total(whole).total > found.total


def test_whether_the_last_part_is_skipped_depends_on_one_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """fails when many small batches that are counted together seem large enough to skip positions"""
    model = tiny_model()
    saved = sum(one.numel() for one in model.language.decoder_layers[-1].mlp.parameters()) * (2 * 9 - 5)
    monkeypatch.setattr("chatbridge.models.language._last_layer.LEAST_SAVED", saved + 1)
    costs, one = StepFlops(model), BatchShape(rows=2, length=9, points=5)
    ten = replace(one, rows=20, points=50)
    assert total(costs(replace(ten, batches=10))).total == pytest.approx(10 * total(costs(one)).total)
    assert total(costs(ten)).total < 10 * total(costs(one)).total


def test_the_model_is_not_changed_or_run() -> None:
    """fails when counting leaves gradients, or replaces a parameter by an empty one"""
    model = tiny_model()
    set_trainable(model, ["bridges.*"])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    step_flops(model, BatchShape.of(batch(model, ALL)))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None and not parameter.is_meta for parameter in model.parameters())


def test_layers_that_read_media() -> None:
    """fails when blocks inside the language model are counted for batches without media, keys for every text position,
    or a frozen block as a trained one"""
    model = gated().train()
    rows = batch_of((1, ("image", 0), 5, 6, 7, 8, 9), (1, 4, 4, 4, ("image", 1), 5, 6))
    text = batch_of((1, 5, 6, 7, 8, 9, 4))
    for patterns in ([], ["fusion.*"], ["bridges.*"], ["fusion.*", "bridges.*"], ["language.*"], ["fusion.*.to_q.*"]):
        set_trainable(model, patterns)
        costs = StepFlops(model)
        for one in (rows, text):
            parts = costs(BatchShape.of(one))
            assert total(parts).total == pytest.approx(counted(model, one)[1], rel=0.02), patterns
        assert parts["fusion"].total == 0
