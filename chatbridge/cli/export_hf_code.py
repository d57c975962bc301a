"""The Python files of an exported folder: modules of ChatBridge as files side by side, with imports relative to them.

transformers copies the file that `auto_map` names, and what it imports as `from .name import ...`, from one flat
folder (dynamic_module_utils), so chatbridge/models/routes.py becomes chatbridge_models_routes.py. Names, comments and
licence stay.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

PACKAGE = "chatbridge"
OWN = f"{PACKAGE}.serve.transformers_model"
ENTRIES = ("configuration_chatbridge", "modeling_chatbridge", "processing_chatbridge")  # what auto_map names
REPLACED = {f"{PACKAGE}.config.registry": f"{OWN}.registered_parts"}  # module -> the file in its place
ROOT = Path(__file__).parents[1]  # of the package
HEAD = "# From {source} of ChatBridge {version} (see LICENSE), written by `chatbridge export --hf`.\n"


@dataclass(frozen=True)
class _Import:
    """A statement `from chatbridge...` by its lines, from 1, and the modules it reads; empty for other packages."""

    first: int
    last: int
    module: str
    names: tuple[tuple[str, str | None], ...]
    is_optional: bool


def code_files(parts: Iterable[str]) -> dict[str, str]:
    """File name -> content of everything that a model of these parts needs.

    parts    dotted modules of its encoders, bridges and template
    raises   ValueError for a part that is not a module of ChatBridge: a plugin's
    """
    parts = sorted(parts)
    if plugins := [name for name in parts if not name.startswith(f"{PACKAGE}.")]:
        raise ValueError(
            f"{', '.join(plugins)}: the code of a plugin is not copied into a folder for transformers, as its licence "
            "and its imports are not known; export the components instead (chatbridge export RUN --out DIR)"
        )
    modules = _closure([*(f"{OWN}.{name}" for name in ENTRIES), *parts])
    every = sorted(file_name(module) for module in modules if not _is_entry(module))
    files = {f"{file_name(module)}.py": _rewritten(module) for module in modules}
    for entry in ENTRIES:  # so that transformers finds all files in one pass, the ones imported by name too
        imports = "".join(f"from .{name} import __name__ as _\n" for name in every)
        files[f"{entry}.py"] = (
            files[f"{entry}.py"].rstrip()
            + "\n\nif False:  # all files of this folder\n"
            + "".join(f"    {line}\n" for line in imports.splitlines())
        )
    return files


def file_name(module: str) -> str:
    """The file of a module in the folder, without its ending."""
    return module.removeprefix(f"{OWN}.") if _is_entry(module) else module.replace(".", "_")


def packages(files: Iterable[str]) -> list[str]:
    """Packages that the contents of these files import at their beginning, without Python's own."""
    found = {name.partition(".")[0] for text in files for node in ast.parse(text).body for name in _absolute(node)}
    return sorted(name for name in found if name not in sys.stdlib_module_names)


def licence_text() -> str:
    """ChatBridge's licence: of its repository, or of the installed package."""
    beside = Path(__file__).parents[2] / "LICENSE"
    if beside.is_file():
        return beside.read_text(encoding="utf-8")
    found = next((file for file in metadata.files(PACKAGE) or () if file.name == "LICENSE"), None)
    if found is None:
        raise ValueError(f"the licence of ChatBridge, which its code needs beside it, is not at {beside}")
    return found.read_text(encoding="utf-8")


def _absolute(node: ast.stmt) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
        yield node.module


def _is_entry(module: str) -> bool:
    return module.rpartition(".")[2] in ENTRIES and module.startswith(f"{OWN}.")


def _closure(roots: Iterable[str]) -> list[str]:
    """The modules that these need, themselves included, by name."""
    found: set[str] = set()
    left = list(roots)
    while left:
        module = left.pop()
        if module in found:
            continue
        found.add(module)
        for one in _imports(module):
            left += [read for read in _read_by(one) if _is_module(read)]
    return sorted(found)


def _read_by(one: _Import) -> list[str]:
    """The modules that a statement reads: a package's own names, or modules in it."""
    if not one.module.startswith(PACKAGE):
        return []
    inner = [f"{one.module}.{name}" for name, _ in one.names]
    modules = [name for name in inner if _is_module(name)]
    return modules if len(modules) == len(inner) else [one.module, *modules]


@cache
def _imports(module: str) -> list[_Import]:
    return list(_statements(ast.parse(_source(module)), is_inner=False))


def _statements(node: ast.AST, is_inner: bool) -> Iterator[_Import]:
    """All import statements that run, without those for type checkers."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        inner = is_inner or isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef))
        if isinstance(child, ast.ImportFrom) and child.level == 0 and child.module:
            names = tuple((alias.name, alias.asname) for alias in child.names)
            yield _Import(child.lineno, child.end_lineno or child.lineno, child.module, names, inner)
        elif isinstance(child, ast.Import):
            names = tuple((alias.name, alias.asname) for alias in child.names)
            yield _Import(child.lineno, child.end_lineno or child.lineno, "", names, inner)
        else:
            yield from _statements(child, inner)


def _rewritten(module: str) -> str:
    from chatbridge import __version__

    source = _source(module)
    lines = source.splitlines(keepends=True)
    for one in reversed(_imports(module)):
        text = "".join(lines[one.first - 1 : one.last])
        indent = text[: len(text) - len(text.lstrip())]
        lines[one.first - 1 : one.last] = [_statement(one, text, indent)]
    path = Path(REPLACED.get(module, module).replace(".", "/") + ".py")
    return HEAD.format(source=path, version=__version__) + _type_checking_removed("".join(lines))


def _statement(one: _Import, text: str, indent: str) -> str:
    """The statement in the folder: relative; an optional package within `try`, so that it is not asked for at once."""
    if not one.module.startswith(f"{PACKAGE}"):
        if not one.is_optional:
            return text
        inner = "".join(f"    {line}" for line in text.splitlines(keepends=True))
        return f"{indent}try:  # optional\n{inner}{indent}except ImportError:\n{indent}    raise\n"
    made = ""
    for name, alias in one.names:
        said = f" as {alias}" if alias else ""
        if _is_module(f"{one.module}.{name}"):
            made += f"{indent}from . import {file_name(f'{one.module}.{name}')} as {alias or name}\n"
        else:
            made += f"{indent}from .{file_name(one.module)} import {name}{said}\n"
    return made


def _type_checking_removed(text: str) -> str:
    """The text without blocks for type checkers, whose absolute imports transformers would ask for."""
    tree = ast.parse(text)
    lines = text.splitlines(keepends=True)
    for node in reversed(tree.body):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            lines[node.lineno - 1 : node.end_lineno] = []
    return re.sub(r"from typing import TYPE_CHECKING\n", "", "".join(lines))


def _source(module: str) -> str:
    path = _path(REPLACED.get(module, module))
    if path is None:
        raise ValueError(f"there is no module {module}")
    return path.read_text(encoding="utf-8")


def _is_module(name: str) -> bool:
    return _path(name) is not None


def _path(module: str) -> Path | None:
    """The file of a module of ChatBridge, without importing it; None for other names."""
    package, *inner = module.split(".")
    if package != PACKAGE or not inner:
        return None
    path = ROOT.joinpath(*inner)
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


__all__ = ["ENTRIES", "code_files", "file_name", "licence_text", "packages"]
