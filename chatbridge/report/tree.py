"""What was trained, as a tree that opens: parts of the model, then the tensors that changed."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from chatbridge.common.log import get_logger
from chatbridge.models.checkpoint_manifest import WEIGHTS, is_count
from chatbridge.report.inputs import Stage

log = get_logger(__name__)
DEEPEST = 30  # parts within parts that the tree opens; no model of ours comes near


@dataclass
class Node:
    """A part of the model by name, with how many numbers of it were trained and frozen."""

    trained: int = 0
    frozen: int = 0
    shape: tuple[int, ...] | None = None  # of a tensor
    children: dict[str, Node] = field(default_factory=dict)

    @property
    def total(self) -> int:
        return self.trained + self.frozen


def read_tree(stage: Stage) -> Node | None:
    """From a checkpoint's manifest (parts) and weights (trained tensors); None when there is no checkpoint."""
    checkpoint = stage.checkpoint
    components = stage.manifest.get("components")
    if checkpoint is None or not components:
        return None
    root = Node()
    for name, entry in components.items():
        size = entry["frozen"].get("parameters")
        _add(root, name.split(".", DEEPEST), 0, size if is_count(size) else 0, None)
    for name, shape in trained_shapes(checkpoint / WEIGHTS).items():
        size = 1
        for axis in shape:
            size *= axis
        _add(root, name.split(".", DEEPEST), size, 0, shape)
    return root


def trained_shapes(path: Path) -> Mapping[str, tuple[int, ...]]:
    """Tensor -> shape, from the header of a .safetensors file."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return {}
    try:
        with safe_open(str(path), framework="np") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError, UnicodeDecodeError) as error:
        log.warning("%s: cannot be read (%s); the page leaves its tensors out", path, error)
        return {}


def _add(node: Node, names: list[str], trained: int, frozen: int, shape: tuple[int, ...] | None) -> None:
    node.trained += trained
    node.frozen += frozen
    if names:
        child = node.children.setdefault(names[0], Node())
        _add(child, names[1:], trained, frozen, shape)
    else:
        node.shape = shape or node.shape


def draw_tree(root: Node) -> str:
    """HTML: nested <details>; the first levels that hold something trained are open."""
    return f'<div class="tree">{_node("model", root, root.total, 0)}</div>'


def _node(name: str, node: Node, whole: int, depth: int) -> str:
    line = _line(name, node, whole)
    if not node.children:
        return f'<div class="leaf">{line}</div>'
    inner = "".join(_node(key, child, whole, depth + 1) for key, child in node.children.items())
    is_open = " open" if depth < 2 else ""
    return f'<details{is_open}><summary>{line}</summary><div class="inner">{inner}</div></details>'


def _line(name: str, node: Node, whole: int) -> str:
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
