"""YAML as configurations use it: numbers, open values, aliases, broken files, and hints that quote the file."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from chatbridge.common.errors import ConfigError
from chatbridge.config.merge import load, read
from tests.helpers.config_files import load_here, problems, write


@pytest.mark.parametrize(
    "text", ["{a: {b: ???}}", "{a: {b: ???, c: 1}}", "a: {b: ??? }  # x", "a:\n  b: ???", "a: {b: '???'}"]
)
def test_open_values_can_stand_in_braces(folder, text: str):
    """fails when {weights: ???} is a syntax error, as it is to plain PyYAML"""
    mapping, _ = load_here(write("run.yaml", text))
    assert mapping["a"]["b"] == "???"


def test_question_marks_of_yaml_still_work(folder):
    """fails when reading ??? in braces breaks YAML's own question mark, or text that begins with three"""
    mapping, _ = load_here(write("run.yaml", "a: {? x : 1, y: [???, b]}\n? z\n: 2\nt: ???really"))
    assert mapping == {"a": {"x": 1, "y": ["???", "b"]}, "z": 2, "t": "???really"}


def test_plain_numbers_are_numbers(folder):
    """fails when 1e-4 is read as text, as plain YAML 1.1 does, or a date becomes an object"""
    mapping, _ = load_here(write("run.yaml", "a: 1e-4\nb: 200_000\nc: 5E+3\nd: 2024-01-01\ne: '1e-4'\nf: -.5\ng: 1.\n"))
    assert mapping == {"a": 1e-4, "b": 200_000, "c": 5000.0, "d": "2024-01-01", "e": "1e-4", "f": -0.5, "g": 1.0}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", "is not valid YAML"),
        ("a:\n\tb: 1", "is not valid YAML"),
        ("a: b: c", "mapping values are not allowed here"),
        ("a: @x", "is not valid YAML"),
        ("a: !!python/object:os.system 1", "is not valid YAML"),
        ("a: 1\n---\nb: 2", "is not valid YAML"),
        ("[a]: 1\n? {b: 1}\n: 2", "is not valid YAML"),
        ("a: \x00", "is not valid YAML"),
        ("- a\n- b", "holds a list at its top level, expected a mapping"),
        ("just words", "holds 'just words' at its top level"),
        ("base: models/x.yaml", "expected a list of YAML files, got 'models/x.yaml'"),
        ("base: [3]", "there is no file 3"),
        ("base: [configs]", "configs is a folder, expected a YAML file"),
        ("null: 3", "is not a valid key"),
        ("a: &a [1, *a]", "contains itself"),
        ("a: 1\nb: 2\na: 3", "is defined twice (first on line 1"),
        ("a: {b: 1, c: 2, b: 3}", "is defined twice (first on line 1"),
    ],
)
def test_broken_files_are_problems(folder, text: str, message: str):
    """fails when a file that is not what we expect gives a traceback, or does not name itself"""
    (problem, *rest) = problems(write("run.yaml", text))
    assert not rest
    assert message in problem.message
    assert problem.file == "run.yaml"


def test_broken_syntax_names_its_line(folder):
    """fails when a person has to search a long file for the one wrong character"""
    (problem,) = problems(write("run.yaml", "a: 1\nb:\n\tc: 1\n"))
    assert problem.line == 3
    assert problem.hint == "YAML indents with spaces; replace the tab"


def test_unreadable_files_are_problems(folder):
    """fails when bytes that are no text, or a file without permission, give a traceback"""
    Path("run.yaml").write_bytes(b"a: \xff\xfe")
    (problem,) = problems("run.yaml")
    assert "not UTF-8 text" in problem.message
    if os.geteuid():
        Path("locked.yaml").touch(mode=0)
        assert "cannot be read" in problems("locked.yaml")[0].message


@pytest.mark.parametrize(
    "text", ["a: &x {p: 1}\nb: *x", "t: {a: &x {p: 1}, b: *x}", "a: &x {p: 1, q: 2}\nb: {<<: *x, q: 3}"]
)
def test_aliases_are_overridden_apart(folder, text: str):
    """fails when setting a.p also changes b.p because YAML wrote both with one anchor"""
    path = "t.a.p" if text.startswith("t") else "a.p"
    mapping, origins = load_here(write("run.yaml", text), f"{path}=9")
    node = mapping.get("t", mapping)
    assert (node["a"]["p"], node["b"]["p"]) == (9, 1)
    assert origins.find(path.replace("a.p", "b.p")).file == "run.yaml"


MULTIPLIED = {  # eight levels, each of which names the one below nine times
    "aliases": ("&a0 [x]", lambda k: f"&a{k} [" + ", ".join([f"*a{k - 1}"] * 9) + "]"),
    "merged": ("&a0 {x: 1}", lambda k: f"&a{k} {{<<: [" + ", ".join([f"*a{k - 1}"] * 9) + "]}"),
    "references": ("[x]", lambda k: "[" + ", ".join([f"'${{a{k - 1}}}'"] * 9) + "]"),
    "text": ("x", lambda k: "".join([f"${{a{k - 1}}}"] * 9)),
}


@pytest.mark.parametrize("kind", MULTIPLIED)
def test_what_multiplies_is_refused(folder: Path, kind: str):
    """fails when a file of a few hundred bytes that stands for millions of values hangs the reader"""
    first, level = MULTIPLIED[kind]
    text = "\n".join([f"a0: {first}", *(f"a{k}: {level(k)}" for k in range(1, 9))])
    with pytest.raises(ConfigError, match=r"expands to more than 100,000 values"):
        load(write("run.yaml", text))


def test_aliases_and_references_of_a_usual_size_are_read(folder: Path):
    """fails when the limit on expanded sizes meets an ordinary file, or nesting beyond reason is a traceback"""
    text = "a: &a [1, 2]\nb: [*a, *a]\nc: &c {x: 1}\nd: {<<: *c, y: '${a}'}\ne: '${.f} ${d.x}'\nf: t"
    assert load(write("run.yaml", text))[0]["e"] == "t 1"
    with pytest.raises(ConfigError, match="nested too deeply"):
        load(write("deep.yaml", f"a: {'[' * 5000}{']' * 5000}"))


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("1:30", '"1:30"'),
        ("+1:30:00", '"+1:30:00"'),
        ("1:30.5", '"1:30.5"'),
        ("010", '"010", or write the intended number, such as 10'),
        ("-0777", '"-0777", or write the intended number, such as -777'),
    ],
)
def test_numbers_that_yaml_1_1_reads_otherwise_are_refused(folder: Path, text: str, hint: str):
    """fails when 1:30 becomes 90 or 010 becomes 8 silently, in a file, in a list, as a key or in an option"""
    for content in (f"run:\n  x: {text}", f"run:\n  - 1\n  - {text}", f"run:\n  {text}: x"):
        with pytest.raises(ConfigError) as caught:
            load(write("run.yaml", content))
        (problem,) = caught.value.problems
        assert "YAML 1.1" in problem.message and text in problem.message and hint in (problem.hint or "")
    with pytest.raises(ConfigError) as caught:
        load(write("run.yaml", "run: {x: 1}"), [f"run.x={text}"])
    (problem,) = caught.value.problems
    assert problem.path == "run.x" and problem.file == "--options" and f"""run.x='"{text}"'""" in (problem.hint or "")
    assert load(write("run.yaml", f"x: '{text}'"), [f'y="{text}"'])[0] == {"x": text, "y": text}


@dataclass(frozen=True, kw_only=True)
class _Written:
    title: str
    steps: int = 1


@pytest.mark.parametrize(
    ("written", "said"),
    [("no", '"no"'), ("1.10", "'1.10'"), ("1e3", "'1e3'"), ("1_000", "'1_000'"), ("0x1F", "'0x1F'")],
)
def test_hints_quote_what_was_written(folder: Path, written: str, said: str):
    """fails when a hint proposes what YAML made of a value in place of the value as it is spelled"""
    for path, options in (
        (write("a.yaml", f"title: {written}"), []),
        (write("b.yaml", "title: x"), [f"title={written}"]),
    ):
        with pytest.raises(ConfigError) as caught:
            read(_Written, path, options)
        (problem,) = caught.value.problems
        assert said in (problem.hint or "") and f"got {written}, which YAML reads as" in problem.message


def test_a_key_that_yaml_reads_as_a_truth_is_quoted(folder: Path):
    """fails when the hint about a key `on` does not show how to write it"""
    with pytest.raises(ConfigError, match=r'quote the key: "on"'):
        read(_Written, write("a.yaml", "title: x\non: 1"))
