"""Every command on the pages exists, and every example file on them is accepted."""

from __future__ import annotations

import ast
import importlib
import json
import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from contextlib import chdir, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from chatbridge import __main__ as chatbridge_main
from chatbridge.cli import score
from chatbridge.common.errors import ConfigError
from chatbridge.datasets.formats.json_fields import Fields
from chatbridge.datasets.formats.record_messages import read_messages
from chatbridge.experiment.roots import PARTS
from tests.helpers.placeholder_world import ABSENT, OPEN, write_placeholder_world, write_yaml_text
from tests.helpers.tiny_media import jpeg, mp4, write_json

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
WITH_ACTIONS = (*(f"chatbridge.cli.{name}.command" for name in ("weights", "data", "review")), "dataset_prep.textbind")
CHECKED = ("train.py", "chatbridge.cli.train", "chatbridge.cli.evaluate")  # with --check, so all arguments are tried


RUN = ("chatbridge.cli.score", "chatbridge.cli.compare")  # they need no model, so the command itself is run
WITH_MORE = ("judge", "meteor.tables=")  # settings of metrics that need grades, or seconds for tables of paraphrases
PACKAGES = {"meteor": "nltk"}
OTHERS = ("sbatch", "vllm", "hf", "wget", "unzip")  # programs of other machines, and programs that bring data


class Block(NamedTuple):
    page: str
    language: str
    text: str

    @property
    def name(self) -> str | None:
        """The file name on the first line of a block: `# my_run.yaml`."""
        found = re.match(r"# ([\w/]+\.(?:yaml|py))\n", self.text)
        return found[1] if found else None


BLOCKS = [Block(page.name, *found) for page in PAGES for found in FENCE.findall(page.read_text(encoding="utf-8"))]


def commands() -> list[str]:
    """Every line of every shell block, without comments; a backslash at the end of a line joins the next one."""
    found = []
    for block in BLOCKS:
        if block.language in ("bash", "sh", "shell"):
            lines = re.sub(r"\\\n\s*", " ", block.text).splitlines()
            found += [text for line in lines if (text := re.sub(r"(^|\s)#.*", "", line).strip())]
    return list(dict.fromkeys(found))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small tiny world and every named file of the pages."""
    folder = write_placeholder_world(tmp_path_factory.mktemp("readme"))
    for block in BLOCKS:
        if block.name and block.language == "yaml" and not (folder / block.name).exists():
            write_yaml_text(folder, block.name, block.text)
        elif block.name and block.language == "python":
            (folder / block.name).parent.mkdir(parents=True, exist_ok=True)
            (folder / block.name).write_text(block.text, encoding="utf-8")
    media = folder / "my_data/media"
    media.mkdir(parents=True)
    (media / "7.mp4").write_bytes(mp4())
    (media / "7.jpg").write_bytes(jpeg())
    lines = [block.text for block in BLOCKS if block.language == "json" and '"messages"' in block.text]
    lines = [line for line in lines if '"assistant"' in line]  # with an answer, which a training needs
    for name in ("train", "test"):
        (folder / f"my_data/{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    (folder / "talks.jsonl").write_text(
        "".join(lines).replace('"path": "', '"path": "my_data/media/'), encoding="utf-8"
    )
    _write_drawn_conversations(folder / "data/mine")
    write_json(folder / "runs/tiny/eval/metrics.json", {})
    _write_evaluations(folder)
    return folder


def _write_evaluations(folder: Path) -> None:
    """Two finished evaluations of my_eval.yaml, and the file of predictions of docs/evaluation.md twelve times."""
    (line,) = (block.text for block in BLOCKS if block.language == "json" and '"prediction"' in block.text)
    item = json.loads(line)
    rows = [{**item, "id": f"{item['id']}{number}"} for number in range(12)]
    write_lines(folder / "predictions.jsonl", rows)
    write_lines(folder / "references.jsonl", [{"id": row["id"], "references": row["references"]} for row in rows])
    for run, texts in (("my_eval", ("a red circle", "red")), ("beams", ("the circle", "blue"))):
        root = folder / "runs" / run
        root.mkdir()
        (root / "resolved.yaml").write_text((folder / "my_eval.yaml").read_text(encoding="utf-8"), encoding="utf-8")
        for task, text in zip(("captions", "both"), texts):
            details = {"kind": "color", "must_name": ["red"], "video_id": "v"}
            lines = [
                {
                    **row,
                    "index": k,
                    "question": "What is it?",
                    "prediction": text,
                    "details": {**details, "video_id": k},
                }
                for k, row in enumerate(rows)
            ]
            write_lines(root / f"predictions_{task}.jsonl", lines)
        write_lines(root / "predictions_both.shuffled_audio.jsonl", lines)
        with chdir(folder):
            assert score.main([f"runs/{run}"]) == 0


def write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def _write_drawn_conversations(folder: Path) -> None:
    """The records of the page in TextBind's layout, with their images."""
    (text,) = (block.text for block in BLOCKS if block.language == "json" and '"image_list"' in block.text)
    (folder / "images").mkdir(parents=True)
    records = json.loads(text)
    write_json(folder / "train.json", records)
    for turn in (turn for record in records for turn in record["conversation"]):
        for name in turn["image_list"]:
            (folder / "images" / name).write_bytes(jpeg())


@pytest.fixture
def here(written: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """`written` as the working folder; parts of its plugins are unregistered afterwards."""
    monkeypatch.chdir(written)
    monkeypatch.syspath_prepend(str(written))
    yield written
    ours = tuple(f"{plugin.parent.name}." for plugin in written.glob("*/bridges"))
    for registry in PARTS:
        registry.packages[:] = [package for package in registry.packages if not package.startswith(ours)]
        for name in [name for name, part in registry._parts.items() if part.__module__.startswith(ours)]:
            del registry._parts[name]
    for name in [name for name in sys.modules if f"{name}.".startswith(ours)]:
        del sys.modules[name]


def test_there_is_something_to_test():
    """fails when the pages moved or their blocks are no longer found, so that the tests below test nothing"""
    assert len(commands()) >= 15
    assert {"make quickstart", "make test"} <= set(commands())
    assert any(block.name == "my_run.yaml" for block in BLOCKS)


@pytest.mark.parametrize("command", commands())
def test_commands_exist(here: Path, command: str, monkeypatch, capsys):
    """fails when a script, module, target, file, flag or setting in a shell block no longer exists"""
    words = shlex.split(command)
    while "=" in words[0]:  # NAME=value in front of a command
        words.pop(0)
    if words[0] == "make":
        targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert words[1] in targets, f"make has no target {words[1]}"
    elif words[0] in ("python", "torchrun", "chatbridge"):
        try_python(words, monkeypatch, capsys)
    else:
        known = (".", "conda", "pip", "cd", "git", "export", "kill", "ls", "tensorboard", ".ci/run", "cat", *OTHERS)
        assert words[0] in known or words[0].startswith(".venv/bin/"), f"unknown program {words[0]}"


def try_python(words: list[str], monkeypatch, capsys) -> None:
    module, arguments = program(words)
    for word, value in zip(arguments, arguments[1:]):
        if word == "--cfg-path":
            assert Path(value).is_file(), f"there is no {value}"
    if module in CHECKED:
        check(importlib.import_module(module.removesuffix(".py")), [word for word in arguments if word != "--check"])
        return
    if module in RUN and not any(word.startswith(WITH_MORE) for word in arguments):
        run_on_files(module, arguments, capsys)
        return
    flags = {word for word in arguments if word.startswith("--")}
    action = arguments[:1] if module in WITH_ACTIONS and not arguments[0].startswith("--") else []
    action += arguments[1:2] if action == ["rate"] else []  # it has actions of its own
    if module == "chatbridge.cli.data.command":
        assert Path(arguments[1]).is_file(), f"there is no {arguments[1]}"
    text = help_of(module, action, monkeypatch, capsys)
    assert "usage" in text
    assert all(re.search(rf"{flag}\b", text) for flag in flags), f"{module} has no {flags}:\n{text}"


def run_on_files(module: str, arguments: list[str], capsys) -> None:
    """Run a command that needs files of an evaluation only, and read what it wrote."""
    named = {name for word in arguments for name in (word, *word.split(","))}
    for package in (PACKAGES[name] for name in named & PACKAGES.keys()):
        pytest.importorskip(package)
    assert importlib.import_module(module).main(arguments) == 0
    assert capsys.readouterr().out
    for option, path in zip(arguments, arguments[1:]):
        if option in ("--json", "--html"):
            assert Path(path).stat().st_size > 100, f"{path} was not written"
            Path(path).unlink()


def check(command: Any, arguments: list[str]) -> None:
    """Run a command with --check; only missing released weights and data may be reported."""
    if command.__name__.endswith("evaluate"):  # nothing was trained here
        arguments = [*arguments, *(["--options"] if "--options" not in arguments else []), "run.init_from=null"]
    try:
        code = command.main([*arguments, "--check"])
    except ConfigError as error:
        code = 0 if all(OPEN in one.message or ABSENT.search(one.message) for one in error.problems) else str(error)
        if "tiny" in " ".join(arguments) or "my_" in " ".join(arguments):
            raise
    assert code == 0


def program(words: list[str]) -> tuple[str, list[str]]:
    """The script or module that runs, and its arguments; a leading `torchrun --nproc-per-node 2` is dropped."""
    words = words[1:] if words[0] != "chatbridge" else ["-m", *words]
    while words[0].startswith("--"):
        words = words[1:] if "=" in words[0] or words[0] == "--standalone" else words[2:]
    if words[0] != "-m":
        assert (ROOT / words[0]).is_file(), f"there is no {words[0]}"
        return words[0], words[1:]
    _, module, *rest = words
    if module != "chatbridge" or not rest:
        return module, rest
    assert rest[0] in chatbridge_main.COMMANDS, f"chatbridge has no command {rest[0]}"
    return chatbridge_main.COMMANDS[rest[0]][0], rest[1:]


def help_of(module: str, action: list[str], monkeypatch, capsys) -> str:
    """The output of --help, in this process: a new process for each command takes seconds."""
    monkeypatch.setattr(sys, "argv", [module, *action, "--help"])
    given = [[*action, "--help"]] if action else []
    run = partial(runpy.run_path, str(ROOT / module), run_name="__main__")
    with suppress(SystemExit):
        (run if module.endswith(".py") else partial(module_of(module).main, *given))()
    return capsys.readouterr().out


def module_of(name: str) -> Any:
    """The module that `python -m NAME` runs."""
    found = importlib.import_module(name)
    return importlib.import_module(f"{name}.__main__") if hasattr(found, "__path__") else found


def test_yaml_blocks_are_read_by_a_command():
    """fails when the pages show a YAML file that no command on them uses"""
    text = " ".join(commands())
    assert all(block.name in text for block in BLOCKS if block.language == "yaml" and block.name)


def test_python_blocks_compile():
    """fails when an example in Python does not compile, or imports a name that the package lacks"""
    for block in BLOCKS:
        if block.language == "python":
            for node in ast.walk(ast.parse(block.text)):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("chatbridge"):
                    module = importlib.import_module(node.module or "")
                    assert all(hasattr(module, name.name) for name in node.names), block.text


def test_json_records_are_records():
    """fails when an example record is refused"""
    lines = [line for block in BLOCKS if block.language == "json" for line in block.text.splitlines()]
    records = [json.loads(line) for line in lines if '"messages"' in line]
    assert records
    assert all(read_messages(Fields(record), Path) for record in records)


def test_each_promise_names_its_test():
    """fails when one of the four promises is no longer backed by a named test"""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    promises = text[text.index("## Four promises") :].split("\n## ")[0]
    parts = re.split(r"^\d\. ", promises, flags=re.MULTILINE)[1:]
    assert len(parts) == 4
    assert all(re.search(r"tests/[\w/]+\.py::\w+", part) for part in parts)
