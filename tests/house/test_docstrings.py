"""Public functions with tensors document their shapes as `dtype[letters]`."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOMS = ("models", "conversation", "datasets", "processors", "tasks", "runners", "serve")
WITHOUT_SHAPES: set[str] = set()  # `file: function` of exceptions; may only become shorter


def public_functions(node: ast.Module | ast.ClassDef, prefix: str = "") -> Iterator[tuple[str, ast.FunctionDef]]:
    """Functions and methods whose names, and whose classes' names, have no leading underscore."""
    for one in node.body:
        if isinstance(one, ast.ClassDef) and not one.name.startswith("_"):
            yield from public_functions(one, f"{prefix}{one.name}.")
        elif isinstance(one, ast.FunctionDef) and not one.name.startswith("_"):
            yield prefix + one.name, one


def has_tensors(function: ast.FunctionDef) -> bool:
    given = [one.annotation for one in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)]
    types = " ".join(ast.unparse(one) for one in (*given, function.returns) if one is not None)
    return re.search(r"\bTensor\b", types) is not None


def undocumented(root: Path) -> set[str]:
    """`file: function` of every public function with tensors whose docstring has no shape."""
    found = set()
    for room in ROOMS:
        for path in sorted((root / "chatbridge" / room).rglob("*.py")):
            for name, function in public_functions(ast.parse(path.read_text(encoding="utf-8"))):
                if has_tensors(function) and "[" not in (ast.get_docstring(function) or ""):
                    found.add(f"{path.relative_to(root).as_posix()}: {name}")
    return found


def test_public_functions_document_the_shapes_of_their_tensors(repository: Path) -> None:
    """fails when a public function takes or returns tensors and its docstring has no `dtype[letters]`"""
    found = undocumented(repository)
    assert not found - WITHOUT_SHAPES, f"add dtype[letters] to the docstrings: {sorted(found - WITHOUT_SHAPES)}"
    assert not WITHOUT_SHAPES - found, f"remove from WITHOUT_SHAPES: {sorted(WITHOUT_SHAPES - found)}"


def test_a_missing_shape_is_found(tmp_path: Path) -> None:
    """fails when methods, keyword arguments or return values with tensors are not checked"""
    file = tmp_path / "chatbridge/models/part.py"
    file.parent.mkdir(parents=True)
    file.write_text(
        'class Part:\n    def a(self, *, x: "Tensor"):\n        """No shape."""\n'
        "    def b(self) -> dict[str, Tensor]: ...\n    def _c(self, x: Tensor): ...\n"
        'def d(x: Tensor):\n    """float[M, N] -> float[M]"""\n'
    )
    assert undocumented(tmp_path) == {f"chatbridge/models/part.py: Part.{name}" for name in "ab"}
