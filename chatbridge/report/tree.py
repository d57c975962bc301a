"""The trained and frozen parameters as a tree that opens: parts of the model, then the trained tensors."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from chatbridge.common.log import get_logger
from chatbridge.models.checkpoint_manifest import WEIGHTS, is_count
from chatbridge.report.runs import TrainingRun

log = get_logger(__name__)
DEEPEST = 30  # levels of the tree; a longer name of a damaged manifest would exceed the recursion limit


@dataclass
class ParameterNode:
    """A part of the model with its numbers of trained and frozen parameters."""

    trained: int = 0
    frozen: int = 0
    shape: tuple[int, ...] | None = None  # of a tensor
    children: dict[str, ParameterNode] = field(default_factory=dict)

    @property
    def total(self) -> int:
        return self.trained + self.frozen


def read_tree(run: TrainingRun) -> ParameterNode | None:
    """The parts of a checkpoint's manifest with the trained tensors of its weights; None without a checkpoint."""
    checkpoint = run.checkpoint
    components = run.manifest.get("components")
    if checkpoint is None or not components:
        return None
    root = ParameterNode()
    for name, entry in components.items():
        size = entry["frozen"].get("parameters")
        _add(root, name.split(".", DEEPEST), 0, size if is_count(size) else 0, None)
    for name, shape in {**trained_shapes(checkpoint / WEIGHTS), **sharded_shapes(checkpoint)}.items():
        size = 1
        for axis in shape:
            size *= axis
        _add(root, name.split(".", DEEPEST), size, 0, shape)
    return root


def trained_shapes(path: Path) -> Mapping[str, tuple[int, ...]]:
    """Tensor -> shape, of the header of a .safetensors file."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return {}
    try:
        with safe_open(str(path), framework="np") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError, UnicodeDecodeError) as error:
        log.warning("%s: cannot be read (%s); the page does not show its tensors", path, error)
        return {}


def sharded_shapes(checkpoint: Path) -> Mapping[str, tuple[int, ...]]:
    """Tensor -> whole shape, of the files that hold the rows of each rank; empty for a checkpoint without them."""
    if next(checkpoint.glob("shard-*.safetensors"), None) is None:
        return {}
    from chatbridge.models import checkpoint_tensors  # imports torch

    try:
        return {name: tuple(tensor.shape) for name, tensor in checkpoint_tensors.trained_shapes(checkpoint).items()}
    except ValueError as error:
        log.warning("%s; the page does not show its tensors", error)
        return {}


def _add(node: ParameterNode, names: list[str], trained: int, frozen: int, shape: tuple[int, ...] | None) -> None:
    node.trained += trained
    node.frozen += frozen
    if names:
        child = node.children.setdefault(names[0], ParameterNode())
        _add(child, names[1:], trained, frozen, shape)
    else:
        node.shape = shape or node.shape


def draw_tree(root: ParameterNode) -> str:
    """HTML: nested <details>; the first two levels are open."""
    return f'<div class="tree">{_node("model", root, root.total, 0)}</div>'


def _node(name: str, node: ParameterNode, whole: int, depth: int) -> str:
    line = _line(name, node, whole)
    if not node.children:
        return f'<div class="leaf">{line}</div>'
    inner = "".join(_node(key, child, whole, depth + 1) for key, child in node.children.items())
    is_open = " open" if depth < 2 else ""
    return f'<details{is_open}><summary>{line}</summary><div class="inner">{inner}</div></details>'


def _line(name: str, node: ParameterNode, whole: int) -> str:
    state = "frozen" if not node.trained else "trained" if not node.frozen else f"{short(node.trained)} trained"
    shape = f" <code>{' × '.join(map(str, node.shape)) or 'scalar'}</code>" if node.shape is not None else ""
    share = 100 * node.total / (whole or 1)
    kind = "frozen" if not node.trained else "trained"
    return (
        f'<span class="what">{html.escape(name)}{shape}</span><span class="size">{short(node.total)}</span>'
        f'<span class="tag {kind}">{state}</span><span class="share {kind}"><i style="width:{share:.1f}%"></i></span>'
    )


def short(count: int) -> str:
    """1234567 -> 1.23 M"""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g} {letter}"
    return str(count)
