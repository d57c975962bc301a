"""Promise 1, the loader's half: base files, --options, interpolation; each key with the file and line that set it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from chatbridge.common.errors import ConfigError, Problem
from chatbridge.config.merge import load, read, save_resolved
from chatbridge.config.origins import Unresolved


@dataclass(frozen=True, kw_only=True)
class Run:
    max_steps: int
    output_dir: Path = Path("runs/x")
    lr: float = 1e-4


@dataclass(frozen=True, kw_only=True)
class Experiment:
    run: Run
    model: dict[str, Any] = field(default_factory=dict)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch) -> Path:
    """An empty working folder with configs/."""
    (tmp_path / "configs" / "models").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path: str, text: str) -> str:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text)
    return path


def load_here(path: str, *options: str):
    return load(path, options, config_root=Path("configs"))


def problems(path: str, *options: str) -> list[Problem]:
    with pytest.raises(ConfigError) as caught:
        load_here(path, *options)
    return list(caught.value.problems)


def test_bases_merge_from_left_to_right_then_the_file(folder):
    """fails when a mapping replaces instead of merging, a list merges instead of replacing, or the order is another"""
    write("configs/models/a.yaml", "model: {x: 1, y: {p: 1}, list: [1, 2, 3]}")
    write("configs/b.yaml", "model: {x: 2, y: {q: 2}, list: [4]}")
    mapping, _ = load_here(write("run.yaml", "base: [models/a.yaml, b.yaml]\nmodel: {y: {q: 3}}"))
    assert mapping == {"model": {"x": 2, "y": {"p": 1, "q": 3}, "list": [4]}}


def test_bases_have_bases(folder):
    """fails when base is not followed through the files it names, or one that two share is taken for a circle"""
    write("configs/root.yaml", "run: {max_steps: 1, lr: 1}")
    write("configs/left.yaml", "base: [root.yaml]\nrun: {max_steps: 2}")
    write("configs/right.yaml", "base: [root.yaml]\nmodel: {a: 1}")
    mapping, _ = load_here(write("run.yaml", "base: [left.yaml, right.yaml]"))
    assert mapping == {"run": {"max_steps": 1, "lr": 1}, "model": {"a": 1}}


def test_configs_come_before_the_files_own_folder(folder):
    """fails when base is not looked up in configs/ first and beside the file second"""
    write("configs/x.yaml", "a: 1")
    write("mine/x.yaml", "a: 2")
    write("mine/y.yaml", "b: 2")
    mapping, _ = load_here(write("mine/run.yaml", "base: [x.yaml, y.yaml]"))
    assert mapping == {"a": 1, "b": 2}


def test_the_shipped_configs_are_found_from_anywhere(folder, repository):
    """fails when a user's own YAML in a folder of its own cannot name ChatBridge's configs"""
    shipped = sorted((repository / "configs").rglob("*.yaml"))
    assert shipped
    name = shipped[0].relative_to(repository / "configs").as_posix()
    mapping, origins = load(write("run.yaml", f"base: [{name}]"))
    assert mapping
    assert all(Path(origin.file) in shipped for origin in origins.entries.values())


def test_another_name_drops_the_inherited_node(folder):
    """fails when an encoder of another name keeps the options of the one it replaces, or of the same name loses them"""
    base = write(
        "configs/base.yaml", "model: {vision: {name: eva_vit, size: g, deep: {a: 1}}, audio: {name: beats, x: 1}}"
    )
    del base
    mapping, origins = load_here(
        write(
            "run.yaml", "base: [base.yaml]\nmodel:\n  vision: {name: hf_vision, width: 3}\n  audio: {name: beats, y: 2}"
        )
    )
    assert mapping["model"] == {"vision": {"name": "hf_vision", "width": 3}, "audio": {"name": "beats", "x": 1, "y": 2}}
    assert "model.vision.size" not in origins
    assert "model.vision.deep.a" not in origins


@pytest.mark.parametrize("options", [["m.v.name=b", "m.v.width=3"], ["m.v.width=3", "m.v.name=b"]])
def test_another_name_by_option_drops_the_node_in_any_order(folder, options: list[str]):
    """fails when the order of two --options decides whether one of them is lost"""
    mapping, _ = load_here(write("run.yaml", "m: {v: {name: a, size: g}}"), *options)
    assert mapping == {"m": {"v": {"name": "b", "width": 3}}}


def test_a_name_still_open_is_not_another_name(folder):
    """fails when filling in `name: ???` drops the options that stand beside it"""
    mapping, _ = load_here(write("run.yaml", "v: {name: ???, size: g}"), "v.name=a")
    assert mapping == {"v": {"name": "a", "size": "g"}}


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("a.b=400", 400),
        ("a.b=1e-4", 1e-4),
        ("a.b=[x, y.*]", ["x", "y.*"]),
        ("a.b={c: 1, d: {e: 2}}", {"c": 1, "d": {"e": 2}}),
        ("a.b=null", None),
        ("a.b=", None),
        ("a.b=x=y", "x=y"),
        ("a.b='1'", "1"),
        ("a.b=true", True),
        ("a.b=${a.c}", 7),
        ("a.b=???", "???"),
    ],
)
def test_options_are_read_as_yaml(folder, option: str, value: Any):
    """fails when --options a.b=... reads another value than the same text in the file"""
    mapping, origins = load_here(
        write("run.yaml", "a: {b: {z: 1}, c: 7}") if "{" not in option else write("r.yaml", "a: {c: 7}"), option
    )
    assert mapping["a"]["b"] == value
    assert origins["a.b"] == "--options"


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


def test_a_key_that_begins_like_another_keeps_its_origin(folder):
    """fails when overriding `model` forgets who set `model2`"""
    _, origins = load_here(write("run.yaml", "model: {name: a, x: 1}\nmodel2: {x: 1}"), "model={name: b}")
    assert (origins["model.name"], origins["model2.x"]) == ("--options", "run.yaml")


def test_origins_name_file_and_line(folder):
    """fails when a key is ascribed to another file or line than the one that set it"""
    write("configs/b.yaml", "run:\n  lr: 1\n  deep: {x: 1}\nlist:\n  - 1\n  - 2\n")
    _, origins = load_here(
        write("run.yaml", "base: [b.yaml]\n\nrun:\n  steps: 2\n  more: ???  # ask Ann\n"), "run.lr=3"
    )
    found = {path: (origin.file, origin.line) for path, origin in origins.entries.items()}
    assert found == {
        "run": ("configs/b.yaml", 1),
        "run.lr": ("--options", None),
        "run.deep": ("configs/b.yaml", 3),
        "run.deep.x": ("configs/b.yaml", 3),
        "list": ("configs/b.yaml", 4),
        "list[0]": ("configs/b.yaml", 5),
        "list[1]": ("configs/b.yaml", 6),
        "run.steps": ("run.yaml", 4),
        "run.more": ("run.yaml", 5),
    }
    assert origins.entries["run.more"].comment == "ask Ann"


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


# ---- what can be wrong with files


def test_a_missing_file_names_the_nearest(folder):
    """fails when a misspelled --cfg-path or base is a traceback, or does not say which file was meant"""
    write("configs/models/tiny_chatbridge.yaml", "a: 1")
    write("train/tiny_pretrain.yaml", "base: [models/tiny_chatbrige.yaml, nowhere.yaml]")
    (problem,) = problems("train/tiny_pretrian.yaml")
    assert (problem.file, problem.nearest) == ("train/tiny_pretrian.yaml", "train/tiny_pretrain.yaml")
    first, second = problems("train/tiny_pretrain.yaml")
    assert (first.path, first.file, first.line) == ("base[0]", "train/tiny_pretrain.yaml", 1)
    assert first.nearest == "models/tiny_chatbridge.yaml"
    assert first.hint == "searched configs, then train, then ."
    assert second.message == "there is no file nowhere.yaml"
    (problem,) = problems("trian/tiny_pretrain.yaml")
    assert (problem.nearest, problem.hint) == ("train", "trian does not exist")
    (problem,) = problems("train")
    assert problem.message == "train is a folder, expected a file"


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


def test_a_circle_of_bases_is_shown(folder):
    """fails when two files that are based on each other recurse for ever"""
    write("configs/a.yaml", "base: [b.yaml]")
    write("configs/b.yaml", "x: 1\nbase: [a.yaml]")
    (problem,) = problems("configs/a.yaml")
    assert (problem.path, problem.file, problem.line) == ("base[0]", "configs/b.yaml", 2)
    assert problem.message == "is a circular base: configs/a.yaml -> configs/b.yaml -> configs/a.yaml"
    assert len(problems(write("self.yaml", "base: [self.yaml]"))) == 1


@pytest.mark.parametrize(
    ("option", "path", "message"),
    [
        ("run.max_steps", "", "'run.max_steps' is not of the form key=value"),
        ("=3", "", "'=3' is not of the form key=value"),
        ("run..x=3", "", "'run..x=3' is not of the form key=value"),
        ("run.x=[1", "run.x", "the value '[1' is not valid YAML"),
        ("run.x={a: 1, a: 2}", "run.x", "is defined twice"),
        ("list.0=3", "list", "is a list; 'list.0=3' cannot set one of its items"),
        ("base=[a.yaml]", "base", "cannot be set here"),
    ],
)
def test_broken_options_are_problems(folder, option: str, path: str, message: str):
    """fails when a slip on the command line gives a traceback or is ignored"""
    (problem,) = problems(write("run.yaml", "list: [1]"), option)
    assert (problem.path, problem.file) == (path, "--options")
    assert message in problem.message


def test_all_files_and_options_report_together(folder):
    """fails when the first broken file hides the second, or hides a broken option"""
    write("configs/a.yaml", "x: [1")
    write("configs/b.yaml", "y: 1\ny: 2")
    found = problems(write("run.yaml", "base: [a.yaml, b.yaml, c.yaml, b.yaml]\n"), "oops")
    assert [problem.file for problem in found] == ["configs/a.yaml", "configs/b.yaml", "run.yaml", "--options"]


# ---- interpolation


def test_values_follow_other_values(folder, monkeypatch):
    """fails when ${...} does not see the final value of the key it names, or an environment variable"""
    monkeypatch.setenv("CHATBRIDGE_TEST", "here")
    write("configs/b.yaml", "out: ${run.dir}/media\nrun: {dir: a, same: '${.dir}'}\nall: ${run}")
    mapping, _ = load_here(
        write("run.yaml", "base: [b.yaml]\nenv: ${oc.env:CHATBRIDGE_TEST}\ntext: \\${kept}\nelse: ${oc.env:NO_SUCH,7}"),
        "run.dir=z",
    )
    assert mapping == {
        "out": "z/media",
        "run": {"dir": "z", "same": "z"},
        "all": {"dir": "z", "same": "z"},
        "env": "here",
        "text": "${kept}",
        "else": "7",
    }


@pytest.mark.parametrize(
    ("value", "message", "nearest"),
    [
        ("${run.dirr}", "takes its value from 'run.dirr', which does not exist", "run.dir"),
        ("${run.open}", "takes its value from run.open, which is still ???", None),
        ("x/${run.open}/y", "takes its value from run.open, which is still ???", None),
        ("${oc.env:CHATBRIDGE_NO_SUCH}", "the environment variable CHATBRIDGE_NO_SUCH is not set", None),
        ("${nope:1}", "cannot be interpolated: Unsupported interpolation type nope", None),
        ("${run.dir", "'${run.dir' is not a valid interpolation", None),
        ("${a}", "cannot be interpolated: Recursive interpolation detected", None),
    ],
)
def test_dead_interpolations_wait_for_the_other_problems(folder, value: str, message: str, nearest: str | None):
    """fails when a dead ${...} is a traceback, or stops the loading before the other keys are checked"""
    mapping, _ = load_here(write("run.yaml", f"run: {{dir: a, open: ???}}\na: '{value}'\nlist: [1, '{value}']"))
    for found in (mapping["a"], mapping["list"][1]):
        assert isinstance(found, Unresolved)
        assert message in found.message
        assert found.nearest == nearest
    assert mapping["run"] == {"dir": "a", "open": "???"}


def test_a_mapping_that_holds_itself(folder):
    """fails when `a: {b: ${a}}` never ends"""
    mapping, _ = load_here(write("run.yaml", "a: {b: '${a}', c: 1}\nd: {e: '${f}'}\nf: {g: '${d}'}"))
    assert isinstance(mapping["a"]["b"], Unresolved)
    assert isinstance(mapping["d"]["e"]["g"], Unresolved)


# ---- load and parse together


def test_every_kind_of_mistake_is_reported_at_once(folder):
    """fails when one mistake hides another: file, option, YAML, interpolation, key, type, ???, plugin"""
    write("configs/b.yaml", "run: {lr: fast}\nrun2: 1\n")
    write(
        "run.yaml",
        "base: [b.yaml, gone.yaml]\n"
        "model: {a: '${oc.env:CHATBRIDGE_NO_SUCH}', b: ???, a2: 1, a2: 2}\n"
        "run: {max_step: 1}",
    )

    def prepare(mapping: dict[str, Any]) -> None:
        raise ConfigError([Problem("plugins", "there is no package")])

    with pytest.raises(ConfigError) as caught:
        read(Experiment, "run.yaml", ["oops", "run.output_dir=3"], Path("configs"), prepare)
    assert {(one.path, one.file) for one in caught.value.problems} == {
        ("base[1]", "run.yaml"),
        ("model.a2", "run.yaml"),
        ("", "--options"),
        ("plugins", None),
        ("run2", "configs/b.yaml"),
        ("run.max_step", "run.yaml"),
        ("run.output_dir", "--options"),
        ("run.lr", "configs/b.yaml"),
        ("model.a", "run.yaml"),
        ("model.b", "run.yaml"),
    }


def test_what_prepare_finds_is_told_with_its_place(folder):
    """fails when a plugin that is not there is reported without the file and line that name it"""

    def prepare(mapping: dict[str, Any]) -> None:
        raise ConfigError([Problem("model", "there is no package")])

    with pytest.raises(ConfigError) as caught:
        read(Experiment, write("run.yaml", "run: {max_steps: 3}\nmodel: {a: 1}"), prepare=prepare)
    assert [(one.path, one.file, one.line) for one in caught.value.problems] == [("model", "run.yaml", 2)]


def test_a_folder_is_named_once_where_a_base_was_looked_for(folder):
    """fails when the working folder is listed twice, as itself and as the one beside the file"""
    with pytest.raises(ConfigError) as caught:
        read(Experiment, write("run.yaml", "base: [gone.yaml]"), config_root=Path("configs"))
    assert caught.value.problems[0].hint == "searched configs, then ."


def test_read_gives_the_parsed_run(folder):
    """fails when read returns something else than load and parse do, or prepare does not see the mapping"""
    seen = []
    run, mapping, origins = read(
        Experiment, write("run.yaml", "run: {max_steps: 3}"), ["model.a=1"], prepare=seen.append
    )
    assert run == Experiment(run=Run(max_steps=3), model={"a": 1})
    assert mapping == seen[0] == {"run": {"max_steps": 3}, "model": {"a": 1}}
    assert origins["model.a"] == "--options"


def test_only_the_base_is_blamed_when_it_is_missing(folder):
    """fails when a missing base file brings a list of keys the user never had to write"""
    with pytest.raises(ConfigError) as caught:
        read(
            Experiment,
            write("run.yaml", "base: [gone.yaml]\nmodel: {a: '${run.max_steps}'}"),
            config_root=Path("configs"),
        )
    assert [problem.path for problem in caught.value.problems] == ["base[0]"]


def test_what_is_saved_reads_the_same(folder):
    """fails when resolved.yaml starts another run than the one it was written by"""
    mapping = {
        "run": {"max_steps": 3, "lr": 1e-5, "output_dir": "runs/x"},
        "model": {
            "text": "1e-4",
            "no": "no",
            "date": "2024-01-01",
            "kept": "${x} \\${y} \\",
            "list": [1, None, True, 0.1],
        },
        "unit": "µs – ok",
    }
    save_resolved(mapping, "runs/x/resolved.yaml")
    assert load_here("runs/x/resolved.yaml")[0] == mapping
    experiment = Experiment(run=Run(max_steps=3, output_dir=Path("a/b")))
    save_resolved(experiment, "again.yaml")
    assert read(Experiment, "again.yaml")[0] == experiment


def test_a_base_is_also_found_from_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails when a file that lies elsewhere cannot name `train_configs/x.yaml` as a person in the checkout would."""
    elsewhere, here = tmp_path / "elsewhere", tmp_path / "here"
    for folder in (elsewhere, here / "train_configs"):
        folder.mkdir(parents=True)
    (here / "train_configs" / "x.yaml").write_text("run: {seed: 3}\n")
    (elsewhere / "mine.yaml").write_text("base: [train_configs/x.yaml]\n")
    monkeypatch.chdir(here)
    assert load(elsewhere / "mine.yaml")[0] == {"run": {"seed": 3}}
    (elsewhere / "mine.yaml").write_text("base: [train_configs/y.yaml]\n")
    with pytest.raises(ConfigError, match="did you mean train_configs/x.yaml"):
        load(elsewhere / "mine.yaml")


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
