"""The cross-entropy in chunks: the same losses and gradients, with a fraction of the memory."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measure import peak_bytes
from chatbridge.models.chat_model import ChatModel
from chatbridge.models.loss import CHUNK_MB, GPU_CHUNK_MB, cross_entropy, most_logits
from chatbridge.models.placement import place_model
from tests.helpers.tiny_models import LANGUAGE, batch, tiny_model

NUM_POINTS, WIDTH, VOCABULARY = 50, 16, 300
CHUNK = 4 * VOCABULARY * 7  # bytes of 7 points, which do not divide 50
GEMMA = {
    "model_type": "gemma3_text", "vocab_size": 50, "hidden_size": 20, "intermediate_size": 24, "num_hidden_layers": 1,
    "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 10, "final_logit_softcapping": 0.5,
}  # fmt: skip


def points(requires_grad: bool = True) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1)
    target = torch.randint(VOCABULARY, (NUM_POINTS,), generator=draw)
    return torch.randn(NUM_POINTS, WIDTH, generator=draw).requires_grad_(requires_grad), target


def head(trainable: bool) -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(WIDTH, VOCABULARY).requires_grad_(trainable)


def gradients(loss: Callable[[Tensor, Tensor], Tensor], module: nn.Module) -> dict[str, Tensor | None]:
    """The loss over a number of points, and its gradients"""
    hidden, target = points()
    total = loss(hidden, target)
    (total / 123.0).backward()
    return {"total": total.detach(), "hidden": hidden.grad} | {name: p.grad for name, p in module.named_parameters()}


@pytest.mark.parametrize("trainable", [False, True])
def test_chunks_have_the_loss_and_the_gradients_of_all_points_at_once(trainable: bool):
    """fails when a chunk is left out or scaled, or the gradient of a trainable head is lost"""
    module = head(trainable)
    expected = gradients(lambda x, target: F.cross_entropy(module(x), target, reduction="sum"), module)
    module = head(trainable)
    found = gradients(lambda x, target: cross_entropy(module, x, target, VOCABULARY, CHUNK)[0], module)
    assert (found["weight"] is not None) == trainable
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)


def test_points_that_fit_into_a_chunk_follow_the_plain_operations():
    """fails when the loss or a gradient of few points differs in the last bit from torch's own"""
    module = head(True)
    expected = gradients(lambda x, target: F.cross_entropy(module(x).float(), target, reduction="none").sum(), module)
    module = head(True)
    most = 4 * VOCABULARY * NUM_POINTS
    found = gradients(lambda x, target: cross_entropy(module, x, target, VOCABULARY, most)[0], module)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_terms_are_those_of_each_point_without_a_gradient():
    """fails when the losses by data source are of other points, or hold the graph of the step"""
    module, (hidden, target) = head(True), points()
    total, losses = cross_entropy(module, hidden, target, VOCABULARY, CHUNK)
    torch.testing.assert_close(losses, F.cross_entropy(module(hidden), target, reduction="none").detach())
    assert not losses.requires_grad and total.requires_grad
    assert total.item() == losses.sum().item()


def test_validation_needs_no_gradient():
    """fails when a loss under no_grad, or of frozen parts alone, keeps or asks for a graph"""
    module, (hidden, target) = head(True), points()
    with torch.no_grad():
        total, _ = cross_entropy(module, hidden, target, VOCABULARY, CHUNK)
    assert not total.requires_grad
    hidden, target = points(requires_grad=False)
    frozen, _ = cross_entropy(head(False), hidden, target, VOCABULARY, CHUNK)
    assert not frozen.requires_grad
    torch.testing.assert_close(frozen, total)


def test_only_the_head_needs_a_gradient():
    """fails when a trainable head above frozen layers is not trained"""
    module, (hidden, target) = head(True), points(requires_grad=False)
    cross_entropy(module, hidden, target, VOCABULARY, CHUNK)[0].backward()
    weight = module.get_parameter("weight").grad
    other = head(True)
    F.cross_entropy(other(hidden), target, reduction="sum").backward()
    torch.testing.assert_close(weight, other.get_parameter("weight").grad)


def test_a_loss_may_be_used_twice():
    """fails when the second use of a loss, or a second backward pass, has another gradient than the first"""
    module, (hidden, target) = head(False), points()
    total, _ = cross_entropy(module, hidden, target, VOCABULARY, CHUNK)
    once = torch.autograd.grad(total, hidden, retain_graph=True)[0]
    twice = torch.autograd.grad(2.0 * total + total, hidden, retain_graph=True)[0]
    torch.testing.assert_close(twice, 3.0 * once)
    again = torch.autograd.grad(total**2, hidden, create_graph=True)[0].sum()
    with pytest.raises(RuntimeError, match="differentiate twice"):
        again.backward()


def test_operations_can_be_counted():
    """fails when torch's FlopCounterMode, which hooks into modules, breaks the gradient of a chunk"""
    module, (hidden, target) = head(True), points()
    with FlopCounterMode(display=False) as counter:
        cross_entropy(module, hidden, target, VOCABULARY, CHUNK)[0].backward()
    assert counter.get_total_flops() == 3 * 2 * NUM_POINTS * WIDTH * VOCABULARY


def test_gradients_in_bf16_are_scaled_in_fp32():
    """fails when the number of points that the loss is divided by is rounded to bf16, which is off by up to 0.4 %"""
    module, (hidden, target) = head(False).bfloat16(), points()
    half = hidden.detach().bfloat16().requires_grad_()
    total, _ = cross_entropy(module, half, target, VOCABULARY, CHUNK)
    whole = torch.autograd.grad(total, half, retain_graph=True)[0]
    divided = torch.autograd.grad(total / 257.0, half)[0]
    assert torch.equal(divided, (whole.float() * (1.0 / 257.0)).bfloat16())
    at_once = torch.autograd.grad(F.cross_entropy(module(half).float(), target, reduction="sum"), half)[0]
    torch.testing.assert_close(whole, at_once, rtol=2e-2, atol=2e-3)


def losses_of(model: ChatModel, dtype: torch.dtype) -> dict[str, Any]:
    place_model(model, "cpu", dtype)
    loss = model(batch(model, ("image", "video", "audio", "image")))
    (loss.total / loss.count).backward()
    found = {name: p.grad.float() for name, p in model.named_parameters() if p.grad is not None}
    return {"total": loss.total.detach(), **{source: total for source, (total, _) in loss.per_source.items()}, **found}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["llama", "gemma3, tied and capped, with added tokens"])
def test_whole_model_in_chunks(name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch):
    """fails when chunks change the gradient of a model that is trained whole: its tied embedding, added rows, caps"""
    changes: dict[str, Any] = {"language": LANGUAGE}
    if name != "llama":
        changes = {"language": {"name": "causal_lm", "architecture": GEMMA}, "added_tokens": ("<image>", "[END]")}
    model = tiny_model(**changes).eval()
    expected = losses_of(copy.deepcopy(model), dtype)
    monkeypatch.setattr("chatbridge.models.chat_model.most_logits", lambda *_: 4 * 50 * 5)
    found = losses_of(model, dtype)
    rounding = 1e-5 if dtype == torch.float32 else 3e-2
    torch.testing.assert_close(found, expected, rtol=rounding, atol=rounding * 1e-1)


def test_peak_memory_is_a_quarter():
    """fails when the logits of all points, or their gradients, exist at once"""
    module = nn.Linear(8, 2000).requires_grad_(False)
    hidden, target = torch.randn(600, 8).requires_grad_(), torch.randint(2000, (600,))

    def bytes_with(most: float) -> int:
        def run() -> Tensor:
            total, _ = cross_entropy(module, hidden, target, 2000, most)
            total.backward()
            return total

        return peak_bytes(run)

    at_once = bytes_with(math.inf)
    assert at_once > 2 * 600 * 2000 * 4
    assert bytes_with(100 * 2000 * 4) < 0.25 * at_once


def test_size_of_a_chunk():
    """fails when run.loss_chunk_mb is ignored, or a trainable head whose gradients hooks reduce is called in chunks"""
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert most_logits(None, cpu, head(True)) == CHUNK_MB["cpu"] << 20
    assert most_logits(None, gpu, None) == GPU_CHUNK_MB << 20
    assert most_logits(3, gpu, None) == 3 << 20
    sharded = head(True)
    for parameter in sharded.parameters():
        vars(parameter)["device_mesh"] = object()  # as DTensor has it
    assert most_logits(3, cpu, sharded) == math.inf
    assert most_logits(3, cpu, sharded.requires_grad_(False)) == 3 << 20
