"""`python -m dataset_prep`: the list of commands with their purpose."""

from __future__ import annotations

import ast
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

WIDTH = 118  # columns
FOLDER = Path(__file__).parent


def commands() -> Iterator[tuple[str, str]]:
    """(module for `python -m`, first line of its docstring) of every command; no module is imported."""
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
    print(
        "usage: python -m COMMAND ...; COMMAND --help describes it, docs/datasets.md lists the commands by data set\n"
    )
    for name, purpose in found.items():
        print(textwrap.fill(f"{name:<{indent}}{purpose}", WIDTH, subsequent_indent=" " * indent))
    return 0


if __name__ == "__main__":
    sys.exit(main())
