"""The cross-entropy of the supervised points, in chunks, so the logits of all points never exist at once.

With a vocabulary of V, the logits of S points and what their gradient needs take about 16 * S * V bytes when computed
at once. In chunks, each one's gradient with respect to the hidden states (and to trainable tensors of the head) is
computed right after its logits, which are then freed; nothing is computed twice.
source   the order of operations: linkedin/Liger-Kernel: src/liger_kernel/ops/fused_linear_cross_entropy.py
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cache
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

Head = Callable[[Tensor], Tensor]  # float[n, D] -> float[n, V]

CHUNK_MB = {"cpu": 24}  # fp32 logits of a chunk; above 32, the C library maps and clears fresh pages for each of them
USUAL_VOCABULARY = 32_000  # for language models that do not tell theirs
GPU_CHUNK_MB = 256  # a product of fewer rows does not fill a large GPU


def most_logits(chunk_mb: int | None, device: torch.device, head: nn.Module | None) -> float:
    """Bytes that the fp32 logits of a chunk may take.

    chunk_mb   None: the default of the device
    head       the module of the head, if it is known. Trainable and sharded (FSDP2), it is called once per step only:
               its gradients are reduced by hooks of the backward pass, which chunks do not wait for
    """
    if head is not None and any(one.requires_grad and hasattr(one, "device_mesh") for one in head.parameters()):
        return math.inf
    return (CHUNK_MB.get(device.type, GPU_CHUNK_MB) if chunk_mb is None else chunk_mb) << 20


def cross_entropy(
    head: Head, points: Tensor, target: Tensor, vocabulary: int, most_bytes: float
) -> tuple[Tensor, Tensor]:
    """The sum of the cross-entropy over S points, and its terms.

    If all points fit into a chunk, this is torch's cross-entropy over head(points), operation for operation.
    head        called once per chunk, in the caller's autocast; may have trainable tensors, hooks, adapters and caps
    points      float[S, D]
    target      int64[S]
    vocabulary  V, or an estimate: it decides the number of chunks only
    most_bytes  of the fp32 logits of a chunk
    returns     float[] with a gradient, nats, and float[S] without one, both fp32
    """
    rows = max(1, min(len(points), most_bytes / (4 * vocabulary)))
    num_chunks = math.ceil(len(points) / math.floor(rows))
    if num_chunks <= 1:
        logits = head(points)  # [S, V]
        losses = F.cross_entropy(logits.float(), target, reduction="none")  # [S]
        return losses.sum(), losses.detach()
    chunks = [_chunk(head, *piece) for piece in zip(points.chunk(num_chunks), target.chunk(num_chunks), strict=True)]
    losses = torch.cat([chunk.losses for chunk in chunks])  # [S]
    return _with_gradients(losses.sum(), points, chunks), losses


class _Chunk(NamedTuple):
    """The losses float[n] of n points, and the gradients of their sum by the points and by each trainable tensor."""

    losses: Tensor
    points: Tensor | None = None
    tensors: dict[Tensor, Tensor] | None = None


def _chunk(head: Head, points: Tensor, target: Tensor) -> _Chunk:
    """points float[n, D], target int64[n]"""
    leaf = points.detach().requires_grad_(points.requires_grad)
    inputs = leaf.view_as(leaf)  # not a leaf: torch's counters of operations hook into inputs of modules
    logits = head(inputs)  # [n, V]
    if not logits.requires_grad:
        return _Chunk(F.cross_entropy(logits.float(), target, reduction="none"))
    tensors = list(_leaves(logits, leaf))
    losses, gradient = _losses_and_gradient(logits, target)
    wanted = [*([inputs] if inputs.requires_grad else []), *tensors]
    with torch.autocast(points.device.type, enabled=False):  # as in a backward pass
        found: list[Any] = list(torch.autograd.grad(logits, wanted, gradient))
    by_points = found.pop(0) if inputs.requires_grad else None
    return _Chunk(losses, by_points, dict(zip(tensors, found, strict=True)))


def _losses_and_gradient(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The losses fp32[n] and the gradient of their sum by the logits, float[n, V] in the dtype of the logits."""
    if logits.is_cuda and _has_liger():
        from liger_kernel.transformers.functional import liger_cross_entropy  # pyright: ignore[reportMissingImports]

        leaf = logits.detach().requires_grad_()
        losses = liger_cross_entropy(leaf, target, reduction="none")
        return losses.detach().float(), torch.autograd.grad(losses.sum(), leaf)[0]
    with torch.no_grad():
        log_shares = F.log_softmax(logits.float(), -1)  # [n, V]
        at_target = target[:, None]  # [n, 1]
        losses = -log_shares.gather(1, at_target).squeeze(1)  # [n]
        gradient = log_shares.exp_()  # share of each token ...
        gradient.scatter_add_(1, at_target, gradient.new_full(at_target.shape, -1.0))  # ... minus 1 at the target
    return losses, gradient.to(logits.dtype)


@cache
def _has_liger() -> bool:
    return find_spec("liger_kernel") is not None


def _leaves(result: Tensor, besides: Tensor) -> Iterator[Tensor]:
    """The tensors with requires_grad that `result` was computed from, without `besides`."""
    seen, open_nodes = set(), [result.grad_fn]
    while open_nodes:
        node = open_nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        open_nodes += [before for before, _ in node.next_functions]
        leaf = getattr(node, "variable", None)
        if leaf is not None and leaf is not besides:
            yield leaf


def _with_gradients(total: Tensor, points: Tensor, chunks: list[_Chunk]) -> Tensor:
    """`total`, float[], with the gradients of the chunks. They are added up in the order of the chunks."""
    by_tensor: dict[Tensor, Tensor] = {}
    for tensor, gradient in (item for chunk in chunks for item in (chunk.tensors or {}).items()):
        by_tensor[tensor] = by_tensor[tensor].add_(gradient) if tensor in by_tensor else gradient.clone()
    found = [chunk.points for chunk in chunks if chunk.points is not None]
    if not found and not by_tensor:
        return total
    gradients = [torch.cat(found) if found else None, *by_tensor.values()]
    return _KnownGradients.apply(total, gradients, points, *by_tensor)


class _KnownGradients(torch.autograd.Function):
    """A number whose gradients by `inputs` are known; gradients of these gradients are refused."""

    @staticmethod
    def forward(ctx: Any, total: Tensor, gradients: list[Tensor | None], *inputs: Tensor) -> Tensor:
        ctx.save_for_backward(*gradients)
        return total.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, factor: Tensor) -> tuple[Tensor | None, ...]:
        """factor   float[], the gradient of the result"""
        gradients = (None if one is None else (one.float() * factor).to(one.dtype) for one in ctx.saved_tensors)
        return (None, None, *gradients)
