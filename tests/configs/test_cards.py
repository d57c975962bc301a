"""The data cards: every data set has one, every card is in the index, and their commands are valid."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest

from chatbridge.config.merge import load

ROOT = Path(__file__).parents[2]
CARDS = sorted((ROOT / "dataset_prep/cards").glob("*.md"))
INDEX = ROOT / "docs/datasets.md"
SETS = sorted(path for path in (ROOT / "configs/datasets").glob("*.yaml") if not path.name.startswith("tiny_"))
ASKED = ("size", "licence", "status", "substitute", "disk")
COMMAND = re.compile(r"python -m (dataset_prep\.\w+)((?:[^\n`\\]|\\\n)*)")
LINK = re.compile(r"\]\(([^)#]+)\)")


def ids(paths: list[Path]) -> list[str]:
    return [path.stem for path in paths]


@pytest.mark.parametrize("path", SETS, ids=ids(SETS))
def test_every_data_set_names_its_card(path: Path):
    """fails when a YAML of a data set names no card, two, or one that does not exist, or not beside its list"""
    text = path.read_text(encoding="utf-8")
    (card,) = set(re.findall(r"dataset_prep/cards/\w+\.md", text))
    assert (ROOT / card).is_file(), card
    lists = re.findall(r"(?m)^ +annotations: .*$", text)
    assert all(line.endswith(f"# prepared as {card} shows") for line in lists), lists
    assert load(path)[0]["data"]["sources"].keys() == {path.stem}


@pytest.mark.parametrize("card", CARDS, ids=ids(CARDS))
def test_cards_are_complete_and_found(card: Path):
    """fails when a card lacks an entry, has a broken link, or is not in the index"""
    text = card.read_text(encoding="utf-8")
    assert [word for word in ASKED if word not in text.lower()] == []
    assert f"(../dataset_prep/cards/{card.name})" in INDEX.read_text(encoding="utf-8")
    links = [link for link in LINK.findall(text) if "://" not in link]
    assert [link for link in links if not (card.parent / link).exists()] == []


def test_links_of_the_index():
    """fails when the index names a card or page that does not exist, or shares that differ from the mixtures"""
    text = INDEX.read_text(encoding="utf-8")
    links = [link for link in LINK.findall(text) if "://" not in link]
    assert len(links) > 15 and [link for link in links if not (INDEX.parent / link).exists()] == []
    for mixture, count in (("chatbridge_alignment", 6), ("minigpt4_alignment", 2)):
        sources = load(ROOT / f"configs/mixtures/{mixture}.yaml")[0]["data"]["sources"]
        total = sum(source["weight"] for source in sources.values())
        assert len(sources) == count
        for name, source in sources.items():
            (row,) = [line for line in text.splitlines() if f"/{name}.md) |" in line]
            (share,) = re.findall(r"\| ([\d.]+) % \|", row)
            assert float(share) == pytest.approx(100 * source["weight"] / total, abs=0.06), name


def commands() -> list[tuple[str, str, str]]:
    """Page, module and arguments of every command in the cards and the index."""
    found = []
    for page in [*CARDS, INDEX]:
        for module, words in COMMAND.findall(page.read_text(encoding="utf-8")):
            found.append((page.name, module, words.replace("\\\n", " ")))
    return found


def test_commands_of_the_cards_are_valid(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """fails when a command of a page names a script or an option that does not exist"""
    asked = commands()
    assert len(asked) > 12
    parsers: dict[str, str] = {}
    for page, package, words in asked:
        module, words = with_command(package, words)
        if is_package(module):  # its list of commands
            assert not words.strip(), f"{page}: {module} has no command {words!r}"
            continue
        if module not in parsers:
            parsers[module] = help_of(module)
        for option in re.findall(r"(?<=\s)--[\w-]+", f" {words.split(' -- ')[0]} "):
            assert re.search(rf"(?<![\w-]){option}(?![\w-])", parsers[module]), f"{page}: {module} has no {option}"
        first = next(iter(shlex.split(words.split("#")[0])), "")
        choices = re.search(r"\{([\w,]+)\}", parsers[module].split("\n\n")[0].split(" [--")[-1])
        if choices and first and not first.startswith(("-", "/", "data")):
            assert first in choices[1].split(","), f"{page}: {module} does not know {first!r}"


def with_command(module: str, words: str) -> tuple[str, str]:
    """The module with its command, for a package of several, and the words after it."""
    commands = getattr(import_module(f"{module}.__main__"), "COMMANDS", ()) if is_package(module) else ()
    first, _, rest = words.strip().partition(" ")
    return (f"{module} {first}", f" {rest}") if first in commands else (module, words)


def is_package(module: str) -> bool:
    return (ROOT / module.replace(".", "/")).is_dir()


def help_of(module: str) -> str:
    """The output of --help, in this process. module: with the command of a package after it"""
    module, *command = module.split()
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), pytest.raises(SystemExit) as left:
        import_module(f"{module}.__main__" if command else module).main([*command, "--help"])
    assert left.value.code == 0
    return shown.getvalue()
