"""Promise 1, the loader's half: base files, --options, interpolation; each key with the file and line that set it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from chatbridge.common.errors import ConfigError, Problem
from chatbridge.config.merge import load, read, save_resolved
from chatbridge.config.scalars import SCALARS
from tests.helpers.config_files import load_here, problems, write


@dataclass(frozen=True, kw_only=True)
class Run:
    max_steps: int
    output_dir: Path = Path("runs/x")
    lr: float = 1e-4


@dataclass(frozen=True, kw_only=True)
class Experiment:
    run: Run
    model: dict[str, Any] = field(default_factory=dict)


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


def test_a_name_still_open_is_not_another_name(folder):
    """fails when filling in `name: ???` drops the options that stand beside it"""
    mapping, _ = load_here(write("run.yaml", "v: {name: ???, size: g}"), "v.name=a")
    assert mapping == {"v": {"name": "a", "size": "g"}}


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
    "line, comment",
    [
        ("x: data/a.json  # made by: make a", "made by: make a"),
        ("x: 'a # b'", None),
        ("x: {weights: data/a}  # made by: make a", "made by: make a"),
        ("x: {weights: data/a, name: b}  # about b", None),
        ("x: {weights: data/a, name: '} # b'}", None),
        ("x: {weights: ???, name: b}  # ask Ann", "ask Ann"),
        ("x: |\n  data/a\n# of the next", None),
    ],
)
def test_a_comment_belongs_to_the_value_before_it(folder, line, comment):
    """fails when the comment of one value is shown with another one, or text in quotes is taken for a comment"""
    _, origins = load_here(write("run.yaml", f"{line}\ny: 1\n"))
    entry = origins.entries.get("x.weights", origins.entries["x"])
    assert entry.comment == comment


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


def test_a_circle_of_bases_is_shown(folder):
    """fails when two files that are based on each other recurse for ever"""
    write("configs/a.yaml", "base: [b.yaml]")
    write("configs/b.yaml", "x: 1\nbase: [a.yaml]")
    (problem,) = problems("configs/a.yaml")
    assert (problem.path, problem.file, problem.line) == ("base[0]", "configs/b.yaml", 2)
    assert problem.message == "is a circular base: configs/a.yaml -> configs/b.yaml -> configs/a.yaml"
    assert len(problems(write("self.yaml", "base: [self.yaml]"))) == 1


def test_all_files_and_options_report_together(folder):
    """fails when the first broken file hides the second, or hides a broken option"""
    write("configs/a.yaml", "x: [1")
    write("configs/b.yaml", "y: 1\ny: 2")
    found = problems(write("run.yaml", "base: [a.yaml, b.yaml, c.yaml, b.yaml]\n"), "oops")
    assert [problem.file for problem in found] == ["configs/a.yaml", "configs/b.yaml", "run.yaml", "--options"]


# ---- interpolation


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


def test_a_shipped_file_is_found_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repository: Path
) -> None:
    """fails when `prompts: configs/prompts/...` works in the checkout alone, or hides a file of the working folder"""
    name = "configs/prompts/minigpt4_alignment.txt"
    monkeypatch.chdir(tmp_path)
    assert SCALARS[Path](name) == repository / name
    assert SCALARS[Path]("configs/prompts/none.txt") == Path("configs/prompts/none.txt")
    (tmp_path / "configs/prompts").mkdir(parents=True)
    (tmp_path / name).write_text("own")
    assert SCALARS[Path](name) == Path(name)
    config = repository / "eval_configs/minigpt4_tiny_eval.yaml"
    (tmp_path / name).unlink()
    tasks = load(config)[0]["evaluation"]["tasks"].values()
    named = [task["dataset"]["prompts"] for task in tasks if "prompts" in task.get("dataset", {})]
    assert named and all(SCALARS[Path](one).is_file() for one in named)
