"""`python -m dataset_prep`: which commands there are, and what each is for."""

from __future__ import annotations

import ast
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

WIDTH = 118  # columns
FOLDER = Path(__file__).parent


def commands() -> Iterator[tuple[str, str]]:
    """Name behind `python -m` and first line of the docstring of everything here that runs; nothing is imported."""
    for file in sorted(FOLDER.rglob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        name = ".".join(file.relative_to(FOLDER.parent).with_suffix("").parts).removesuffix(".__main__")
        if name != FOLDER.name and any(map(_is_start, tree.body)):
            yield name, (ast.get_docstring(tree) or "").partition("\n")[0]


def _is_start(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"


def main() -> int:
    found = dict(commands())
    indent = max(map(len, found)) + 2
    print("usage: python -m COMMAND ...; --help says more, docs/datasets.md which data set needs which\n")
    for name, what in found.items():
        print(textwrap.fill(f"{name:<{indent}}{what}", WIDTH, subsequent_indent=" " * indent))
    return 0


if __name__ == "__main__":
    sys.exit(main())
