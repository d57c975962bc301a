"""The arrows of the architecture point down only, also through a third file; a message names the whole chain."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections import deque
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

BELOW = {  # layer -> the layers it may import
    "common": set(),
    "config": {"common"},
    "conversation": {"config", "common"},
    "processors": {"config", "common"},
    "datasets": {"conversation", "processors", "config", "common"},
    "models": {"conversation", "processors", "config", "common"},
    "tasks": {"models", "datasets", "conversation", "processors", "config", "common"},
    "runners": {"tasks", "models", "datasets", "conversation", "processors", "config", "common"},
    "experiment": {"runners", "tasks", "models", "datasets", "conversation", "processors", "config", "common"},
}
BELOW["serve"] = BELOW["report"] = BELOW["review"] = {"experiment", *BELOW["experiment"]}
BELOW["cli"] = {"serve", "report", "review", *BELOW["serve"]}
BELOW["__main__"] = {"cli", "common"}
BELOW["__init__"] = {"serve"}  # chatbridge.load_model, imported when it is asked for
OUTSIDE = {"train", "demo", "dataset_prep", "tests"}  # they use the package, never the other way round
WITHOUT_TORCH = (
    "common.process_pool",
    "common.safe_files",
    "common.errors",
    "common.extras",
    "config.origins",
    "config.constraints",
    "config.field_help",
    "config.registry",
    "config.schema",
    "config.yaml_io",
    "config.merge",
)


Imports = dict[str, dict[str, int]]  # module -> the modules of ours that it imports, with the line


def imported(file: Path, package: str) -> tuple[tuple[int, str], ...]:
    """Line and dotted name of everything a file imports, in functions too; relative names are made absolute."""
    return imports_of(file.read_text(encoding="utf-8"), package)


@cache  # several tests read every file of the package
def imports_of(text: str, package: str) -> tuple[tuple[int, str], ...]:
    """The same of the text of a file."""
    found: list[tuple[int, str]] = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found.extend((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: -node.level + 1 or None] if node.level else []
            module = ".".join([*parents, *([node.module] if node.module else [])])
            found.extend((node.lineno, f"{module}.{alias.name}") for alias in node.names)
    return tuple(found)


def import_graph(root: Path) -> Imports:
    """Which module of root/chatbridge imports which other, and in which line."""
    files = {".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): file
             for file in sorted((root / "chatbridge").rglob("*.py"))}  # fmt: skip
    graph: Imports = {}
    for module, file in files.items():
        package = file.relative_to(root).parent.as_posix().replace("/", ".")
        found = graph.setdefault(module, {})
        for line, name in imported(file, package):
            target = name
            while target and target not in files:  # a class or function: the module that has it
                target = target.rpartition(".")[0]
            if target not in ("", "chatbridge", module) or name == "chatbridge.load_model":
                found.setdefault(target, line)
    return graph


def layer_of(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


def reachable(layer: str) -> set[str]:
    """The layer, those it may import, and those that they may import."""
    return {layer}.union(*(reachable(below) for below in BELOW.get(layer, ())))


def chains(root: Path) -> list[str]:
    """A line per module and forbidden layer that it reaches through any chain of imports: the shortest chain."""
    graph, found = import_graph(root), []
    for start in graph:
        layer, seen, queue = layer_of(start), {start}, deque([(start,)])
        allowed, reported = reachable(layer), set()
        while queue:
            chain = queue.popleft()
            for target in graph.get(chain[-1], {}):
                if target in seen:
                    continue
                seen.add(target)
                reached = layer_of(target)
                if reached not in allowed and reached not in reported:
                    reported.add(reached)
                    steps = [*chain, target]
                    path = " -> ".join(f"{one}:{graph[one][after]}" for one, after in zip(steps, steps[1:]))
                    found.append(f"{layer} must not reach {reached}: {path} -> {target}")
                elif reached in allowed:
                    queue.append((*chain, target))
    return found


def cycle(graph: Imports) -> list[str]:
    """One circle of imports as `module:line` steps; empty when there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        modules = error.args[1][::-1]
        return [f"{one}:{graph[one][after]}" for one, after in zip(modules, modules[1:])]
    return []


def violations(root: Path) -> list[str]:
    """One line per import in root/chatbridge that the architecture forbids."""
    found = []
    for file in sorted((root / "chatbridge").rglob("*.py")):
        package = file.relative_to(root).parent.as_posix().replace("/", ".")
        layer = file.relative_to(root / "chatbridge").parts[0].removesuffix(".py")
        for line, name in imported(file, package):
            top, *inner = name.split(".")
            target = inner[0] if top == "chatbridge" and inner else None
            is_up = target in BELOW and target != layer and target not in BELOW.get(layer, set())
            if is_up or top in OUTSIDE:
                found.append(f"{file.relative_to(root)}:{line}: {layer} must not import {name}")
    return found


def test_imports_point_down_only(repository: Path):
    """fails when a layer imports one that stands above or beside it, such as datasets and models each other"""
    assert violations(repository) == []


def test_no_layer_reaches_a_higher_one_through_a_third_file(repository: Path):
    """fails when a chain of imports, those in functions included, leads from a layer to one that it may not import"""
    assert chains(repository) == []


def test_no_modules_import_each_other(repository: Path):
    """fails when two or more modules import each other in a circle, in functions and for the type checker too"""
    assert cycle(import_graph(repository)) == []


def test_the_whole_chain_is_named(tmp_path: Path):
    """fails when a chain through a third file is overlooked, or the message leaves out a file or a line of it"""
    files = {
        "datasets/loader.py": "import os\nfrom chatbridge.common.log import x",
        "common/log.py": "def f():\n    from chatbridge.common import types",
        "common/types.py": "from chatbridge.models.chat_model import ChatModel",
        "models/chat_model.py": "",
        "models/config.py": "import chatbridge.models.routes",
        "models/routes.py": "def f():\n    from chatbridge.models.config import x",
    }
    for name, text in files.items():
        path = tmp_path / "chatbridge" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert (
        "datasets must not reach models: chatbridge.datasets.loader:2 -> chatbridge.common.log:2 -> "
        "chatbridge.common.types:1 -> chatbridge.models.chat_model"
    ) in chains(tmp_path)
    found = cycle(import_graph(tmp_path))
    assert sorted(found) == ["chatbridge.models.config:1", "chatbridge.models.routes:2"]


def test_every_layer_is_known(repository: Path):
    """fails when a new folder or module of the package has no place in the architecture's table"""
    found = {
        path.name.removesuffix(".py") for path in (repository / "chatbridge").iterdir() if path.suffix in ("", ".py")
    }
    assert found - {"__init__", "__pycache__"} <= set(BELOW)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("datasets/loader.py", "from chatbridge.models.chat_model import ChatModel"),
        ("models/chat_model.py", "from chatbridge.datasets import loader"),
        ("models/encoders/beats.py", "def f():\n    import chatbridge.datasets.loader"),
        ("models/routes.py", "from ..datasets import loader"),
        ("models/routes.py", "from .. import datasets"),
        ("config/merge.py", "from chatbridge import conversation"),
        ("processors/image.py", "from chatbridge.conversation.messages import Media"),
        ("tasks/base.py", "from chatbridge.runners.runner import Runner"),
        ("runners/runner.py", "import train"),
        ("runners/runner.py", "from chatbridge.experiment.roots import Experiment"),
        ("tasks/vqa.py", "from tests.conftest import x"),
    ],
)
def test_a_forbidden_import_is_found(tmp_path: Path, file: str, text: str):
    """fails when the check itself overlooks a way to write an import"""
    path = tmp_path / "chatbridge" / file
    path.parent.mkdir(parents=True)
    path.write_text(f"import os\n{text}\n")
    (found,) = violations(tmp_path)
    assert found.startswith(f"chatbridge/{file}:{2 + text.count(chr(10))}: ")


@pytest.mark.parametrize(
    ("file", "text"),
    [
        (
            "datasets/loader.py",
            "from chatbridge.common.types import Batch\nfrom . import mixture\nfrom .mixture import x",
        ),
        ("models/encoders/eva_vit.py", "from chatbridge.models.encoders.base import ENCODERS\nfrom ..bridges import x"),
        ("runners/runner.py", "import chatbridge.tasks.vqa\nimport training"),
        ("conversation/layout.py", "import chatbridge\nfrom chatbridge import __version__"),
    ],
)
def test_allowed_imports_pass(tmp_path: Path, file: str, text: str):
    """fails when the check forbids what the architecture allows"""
    path = tmp_path / "chatbridge" / file
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert violations(tmp_path) == []


def test_the_core_of_common_names_no_torch(repository: Path):
    """fails when registry, schema, config or errors import torch; names the line"""
    files = [repository / "chatbridge" / f"{name.replace('.', '/')}.py" for name in WITHOUT_TORCH]
    found = [
        f"{file.relative_to(repository)}:{line}: imports {name}"
        for file in files
        for line, name in imported(file, f"chatbridge.{file.parent.name}")
        if name.partition(".")[0] == "torch"
    ]
    assert found == []


def test_the_core_of_common_works_without_torch(repository: Path):
    """fails when checking a configuration brings torch in through another module"""
    script = (
        "import sys\n"
        "sys.modules['torch'] = None\n"  # an import of torch raises
        f"for name in {WITHOUT_TORCH!r}: __import__('chatbridge.' + name)\n"
        "from chatbridge.common.seeds import stream; stream(1, 'a')\n"
        "print(sorted(name for name in sys.modules if name.partition('.')[0] in ('torch', 'transformers')))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "['torch']"


@pytest.mark.parametrize(
    "folder",
    [
        "chatbridge/cli/data",
        "chatbridge/common",
        "chatbridge/config",
        "chatbridge/datasets",
        "chatbridge/datasets/order",
        "chatbridge/datasets/remote_shards",
        "chatbridge/datasets/tars",
        "chatbridge/datasets/workers",
        "chatbridge/processors",
        "chatbridge/review",
        "chatbridge/serve",
    ],
)
def test_large_folders_have_a_map(repository: Path, folder: str):
    """fails when the docstring of a folder with many files does not say what one of them is for, or names a lost one"""
    words = (repository / folder / "__init__.py").read_text(encoding="utf-8")
    files = {path.stem for path in (repository / folder).iterdir() if path.suffix in ("", ".py")}
    files -= {"__init__", "__pycache__"}
    assert {name for name in files if not re.search(rf"\b{name}\b", words)} == set()
    assert set(re.findall(r"\b[a-z]+_[a-z_]+\b", words)) <= files
