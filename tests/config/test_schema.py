"""Promise 1, the schema's half: every key is consumed, or reported with its path, allowed values and nearest match."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pytest

from chatbridge.common.errors import ConfigError, Problem
from chatbridge.config.merge import read
from chatbridge.config.origins import Origin, Origins, Unresolved
from chatbridge.config.registry import Registry
from chatbridge.config.schema import (
    Choice,
    Exists,
    Formerly,
    Help,
    Length,
    OldName,
    PartOf,
    Range,
    Unit,
    parse,
    plain,
)
from chatbridge.config.yaml_io import parse_yaml


@dataclass(frozen=True, kw_only=True)
class Diet:
    salt: float = 0.0


class Animal:
    @dataclass(frozen=True, kw_only=True)
    class Config:
        diet: Diet = field(default_factory=Diet)
        legs: Annotated[int, Range(0, 8)] = 4
        food: Annotated[Path, Help("what it eats, from the shop")]


class Zoo(Registry[Animal]):
    """A registry of one class, without files."""

    def names(self) -> tuple[str, ...]:
        return ("cat", "dog")

    def get(self, name: str) -> type[Animal]:
        if name not in self.names():
            return super().get(name)
        return Animal


ZOO = Zoo("animal", "no.such.package")


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    lr: Annotated[float, Range(above=0), Formerly("init_lr")] = 1e-4  # learning rate after the warm-up
    betas: tuple[Annotated[float, Range(0, 1)], Annotated[float, Range(0, 1)]] = (0.9, 0.999)


@dataclass(frozen=True, kw_only=True)
class Window:
    start_ms: float = 0.0
    stop_ms: float = 10.0

    def problems(self) -> Iterable[str | Problem]:
        if self.stop_ms <= self.start_ms:
            yield f"ends at {self.stop_ms} ms, before it starts"
            yield Problem("stop_ms", "is too early", hint="make it later")


@dataclass(frozen=True, kw_only=True)
class Everything:
    # where the run goes
    folder: Path
    # optimizer steps,
    # counted from 1
    steps: Annotated[int, Range(low=1), Formerly("max_epoch")]
    rate: Annotated[float, Unit("Hz"), Range(above=0)] = 16000.0
    share: Annotated[float, Range(low=0, below=1)] = 0.5
    is_fast: bool = False
    title: str = "none"
    kind: Literal["cosine", "constant", 3, True] = "cosine"
    limit: int | None = None
    resume: Literal["auto", "never"] | Path = "auto"
    weights: Annotated[Path | None, Exists("file")] = None  # public weights, from example.org
    patterns: Annotated[tuple[str, ...], Length(1)] = ("*",)
    shares: dict[Literal["image", "video"], float] = field(default_factory=dict)
    optimizer: Optimizer = field(default_factory=Optimizer)
    windows: dict[str, Window] = field(default_factory=dict)
    animal: Annotated[Choice[Animal], PartOf(ZOO)] | None = None
    herd: dict[str, Annotated[Choice[Animal], PartOf(ZOO)]] = field(default_factory=dict)
    free: dict[str, Any] = field(default_factory=dict)
    either: tuple[int, ...] | Window | None = None
    constant: ClassVar[int] = 7


GOOD = {"folder": "runs/a", "steps": 10}


def problems(mapping: Mapping[str, Any], origins: Origins | None = None, **given: Any) -> dict[str, Problem]:
    """Path -> problem of a mapping that must not parse; each path is reported once."""
    with pytest.raises(ConfigError) as caught:
        parse(Everything, mapping, origins, **given)
    found = {problem.path: problem for problem in caught.value.problems}
    assert len(found) == len(caught.value.problems)
    return found


def only(extra: Mapping[str, Any]) -> Problem:
    """The single problem of a good mapping with something more."""
    (problem,) = problems(GOOD | dict(extra)).values()
    return problem


@pytest.mark.parametrize(
    ("key", "value", "parsed"),
    [
        ("folder", "~/runs", Path("~/runs").expanduser()),
        ("steps", 2e5, 200_000),
        ("steps", "16", 16),
        ("rate", 8, 8.0),
        ("rate", "1e-4", 1e-4),
        ("is_fast", True, True),
        ("kind", 3, 3),
        ("kind", True, True),
        ("limit", None, None),
        ("resume", "never", "never"),
        ("resume", "runs/b", Path("runs/b")),
        ("weights", __file__, Path(__file__)),
        ("patterns", ["a", "b"], ("a", "b")),
        ("shares", {"image": 1}, {"image": 1.0}),
        ("optimizer", {"lr": 1, "betas": [0, 1]}, Optimizer(lr=1.0, betas=(0.0, 1.0))),
        ("windows", {"a": {"stop_ms": 3}}, {"a": Window(stop_ms=3.0)}),
        ("windows", {"a": {}, "b": None}, {"a": Window()}),
        ("animal", None, None),
        ("animal", {"name": "cat", "food": "mice"}, Choice("cat", Animal.Config(food=Path("mice")), Animal)),
        ("free", {"a": [1, {"b": None}]}, {"a": [1, {"b": None}]}),
        ("either", [1, 2], (1, 2)),
        ("either", {"stop_ms": 5}, Window(stop_ms=5.0)),
    ],
)
def test_good_values_are_read(key: str, value: Any, parsed: Any):
    """fails when a type of field is not read, or read as another type (True as 1, 2e5 as a float)"""
    result = getattr(parse(Everything, {**GOOD, key: value}), key)
    assert result == parsed
    assert type(result) is type(parsed)


def test_defaults_stand_in_one_place():
    """fails when a key that is not given gets another value than the dataclass's default"""
    assert parse(Everything, GOOD) == Everything(folder=Path("runs/a"), steps=10)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("steps", "many", "expected a whole number of at least 1, got 'many'"),
        ("steps", 2.5, "expected a whole number of at least 1, got 2.5"),
        ("steps", True, "expected a whole number of at least 1, got true"),
        ("steps", None, "expected a whole number of at least 1, got nothing (null)"),
        ("steps", 0, "is 0, expected a value of at least 1"),
        ("rate", "16kHz", "expected a number in Hz above 0, got '16kHz'"),
        ("rate", float("nan"), "expected a number in Hz above 0, got nan"),
        ("rate", 0, "is 0.0, expected a value above 0"),
        ("share", 1, "is 1.0, expected a value of at least 0 and below 1"),
        ("is_fast", "yes", "expected true or false, got 'yes'"),
        ("is_fast", 1, "expected true or false, got 1"),
        ("title", 3, "expected text, got 3"),
        ("folder", "", "expected a path, got ''"),
        ("kind", False, "cannot be false"),
        ("kind", 1, "cannot be 1"),
        ("patterns", "bridges.*", "expected a list, each item text, got 'bridges.*'"),
        ("patterns", [], "has 0 items, expected a value with at least 1 item"),
        ("optimizer", 3, "expected a mapping (key: value), got 3"),
        ("optimizer", None, "expected a mapping (key: value), got nothing (null)"),
        ("windows", ["a"], "expected a mapping (key: value), got a list of 1"),
        ("limit", {"a": 1}, "expected a whole number, got a mapping (a)"),
        ("resume", 3, "expected auto or never or a path, got 3"),
        ("either", "x", "expected a list, each item a whole number or a mapping (key: value), got 'x'"),
        ("weights", "no/such/file.pth", "there is no file no/such/file.pth"),
        ("weights", str(Path(__file__).parent), f"{Path(__file__).parent} is a folder, expected a file"),
        ("free", {"a": 1}, None),
    ],
)
def test_wrong_values_say_what_arrived_and_what_is_expected(key: str, value: Any, message: str | None):
    """fails when a wrong type or a value out of range is accepted, or its message does not name both sides"""
    if message is None:  # the control: the way this test asks does accept good values
        parse(Everything, {**GOOD, key: value})
    else:
        problem = only({key: value})
        assert (problem.path, problem.message) == (key, message)


@pytest.mark.parametrize(
    ("key", "value", "hint"),
    [
        ("title", True, "YAML reads yes, no, on and off as true and false"),
        ("title", 3, "put it in quotes: '3'"),
        ("patterns", "a.*", 'write a list: ["a.*"]'),
        ("is_fast", "on", "remove the quotes"),
        ("limit", {"a": 1}, "check the indentation"),
        ("kind", False, "YAML reads yes, no, on and off as true and false"),
    ],
)
def test_slips_of_yaml_are_explained(key: str, value: Any, hint: str):
    """fails when a person must know YAML's traps to understand a message"""
    assert hint in (only({key: value}).hint or "")


def test_a_missing_file_says_what_it_holds():
    """fails when a person is told that a file is missing, but not which file that is"""
    assert (
        only({"weights": "no/such.pth"}).hint == "the folder no does not exist either\npublic weights, from example.org"
    )


def test_deep_paths_are_exact():
    """fails when a problem inside lists and mappings does not name its own place"""
    found = problems(
        GOOD
        | {
            "optimizer": {"betas": [0.9, 2]},
            "patterns": ["a", 3],
            "windows": {"a": {"stop_ms": "late"}},
            "herd": {"first": {"name": "cat", "food": "mice", "legs": 9}},
            "either": [1, "two"],
        }
    )
    assert set(found) == {"optimizer.betas[1]", "patterns[1]", "windows.a.stop_ms", "herd.first.legs", "either[1]"}
    assert found["optimizer.betas[1]"].message == "is 2.0, expected a value from 0 to 1"


def test_unknown_keys_name_the_nearest_and_all_allowed():
    """fails when a misspelled key is ignored, or does not say what was meant and what there is"""
    problem = only({"optimiser": {}})
    assert problem.nearest == "optimizer"
    assert problem.allowed[:3] == ("folder", "steps", "rate")
    assert "constant" not in problem.allowed
    inner = only({"optimizer": {"beta": 3}})
    assert (inner.path, inner.nearest, inner.allowed) == ("optimizer.beta", "betas", ("lr", "betas"))


@pytest.mark.parametrize(
    ("extra", "hint"),
    [
        ({"lr": 1}, "this setting is optimizer.lr"),  # right name, wrong place
        ({"init_lr": 1}, "this setting is optimizer.lr"),  # LAVIS's name
        ({"stop_ms": 1}, "this setting is windows.*.stop_ms or either.stop_ms"),
        ({"optimizer": {"is_fast": True}}, "this setting is is_fast"),
        ({"animal": {"name": "cat", "food": "x", "salt": 1}}, "this setting is animal.diet.salt"),
    ],
)
def test_a_setting_in_the_wrong_place_is_shown_its_place(extra: dict, hint: str):
    """fails when a user of LAVIS, or one who forgot to indent, is not told where a setting lives"""
    assert only(extra).hint == hint


def test_one_slip_is_one_problem():
    """fails when `step: 3` is reported as an unknown key and, again, as a missing `steps`"""
    (problem,) = problems({"folder": "a", "step": 3}).values()
    assert (problem.path, problem.nearest) == ("step", "steps")
    (problem,) = problems({"folder": "a", "max_epoch": 3}).values()
    assert (problem.path, problem.nearest) == ("max_epoch", "steps")


def test_missing_keys_show_the_comment_beside_the_field():
    """fails when a missing key does not say what belongs there, or the comment above or behind it is not found"""
    found = problems({})
    assert found["folder"].message == "is missing; put a path here"
    assert found["folder"].hint == "where the run goes"
    assert found["steps"].hint == "optimizer steps, counted from 1"


def test_question_marks_say_what_belongs_there():
    """fails when a ??? left in place is taken for a value, or the comments of field and file are not shown"""
    origins = Origins({"weights": Origin("a.yaml", 7, "eva_vit_g.pth, 2 GB")})
    found = problems({**GOOD, "steps": "???", "weights": "???", "free": {"a": ["???"]}}, origins)
    assert set(found) == {"steps", "weights", "free.a[0]"}
    assert found["weights"].message.startswith("is still ???; put a path of an existing file or null here")
    assert found["weights"].hint == (
        "public weights, from example.org\neva_vit_g.pth, 2 GB\nset it in the file or with --options weights=..."
    )
    assert (found["weights"].file, found["weights"].line) == ("a.yaml", 7)


def test_an_absent_file_shows_the_comment_beside_it(tmp_path):
    """fails when a path that does not exist is reported without what its YAML says about how to make the file"""
    origins = Origins({"weights": Origin("a.yaml", 7, "made by: make weights"), "steps": Origin("a.yaml", 8, "many")})
    found = problems({**GOOD, "steps": "x", "weights": str(tmp_path / "absent.pth")}, origins)
    assert found["weights"].message.startswith("there is no file")
    assert (found["weights"].hint or "").splitlines()[-1] == "made by: make weights"
    assert "many" not in str(found["steps"])


@pytest.mark.parametrize("between", [" ", "\n# "])
def test_an_absent_file_shows_the_card_of_its_data(between):
    """fails when a data set that is not there is reported without the page that says what to download, or with a # in
    place of a page that is named on the next line"""
    text = f"# Two cats. Card:{between}dataset_prep/cards/cats.md\nsteps: x\nweights: /gone/cats.pth    # Card: no.md\n"
    origins = Origins(parse_yaml(text, "cats.yaml").entries)
    found = problems({**GOOD, "steps": "x", "weights": "/gone/cats.pth"}, origins)
    hint = (found["weights"].hint or "").splitlines()[-1]
    assert hint == "what to download, and where it goes: dataset_prep/cards/cats.md"
    assert "cats.md" not in str(found["steps"])


def test_parts_are_chosen_by_name():
    """fails when an unknown part, a missing name or a part's wrong option is not reported with the names there are"""
    found = problems(
        GOOD
        | {
            "animal": {"name": "catt", "legs": "nine"},
            "herd": {
                "a": {"legs": 3},
                "b": "dog",
                "c": {"name": "???"},
                "d": {"name": "dog", "wings": 2},
                "e": {"name": 3},
                "f": {"type": "cat", "legs": 3},
            },
        }
    )
    assert set(found) == {
        "animal.name",
        "herd.a.name",
        "herd.b",
        "herd.c.name",
        "herd.d.wings",
        "herd.d.food",
        "herd.e.name",
        "herd.f.name",
    }
    assert found["animal.name"].nearest == "cat"
    assert found["animal.name"].allowed == ("cat", "dog")
    assert found["herd.a.name"].message == "is missing; it selects the animal"
    assert found["herd.b"].hint == "write {name: dog}"
    assert found["herd.d.wings"].allowed == ("diet", "legs", "food")
    assert found["herd.d.food"].hint == "what it eats, from the shop"
    assert found["herd.e.name"].message == "expected the name of an animal, got 3"
    assert found["herd.f.name"].hint == "write name: cat instead of type: cat"


def test_a_config_checks_its_own_fields_together():
    """fails when `problems` is not asked, asked before its fields are right, or its paths are not put in place"""
    found = problems(GOOD | {"windows": {"a": {"start_ms": 20}, "b": {"start_ms": "x", "stop_ms": -1}}})
    assert set(found) == {"windows.a", "windows.a.stop_ms", "windows.b.start_ms"}
    assert found["windows.a"].message == "ends at 10.0 ms, before it starts"
    assert found["windows.a.stop_ms"].hint == "make it later"


def test_a_stray_key_does_not_hide_what_contradicts():
    """fails when a key that means nothing keeps a Config from checking its fields, or a misspelled one does not"""
    found = problems(GOOD | {"windows": {"a": {"start_ms": 20, "banana": 1}, "b": {"start_ms": 20, "stop_mss": 30}}})
    assert set(found) == {"windows.a.banana", "windows.a", "windows.a.stop_ms", "windows.b.stop_mss"}


def test_problems_name_who_set_the_key():
    """fails when a file or line is lost, or a missing key does not point to the mapping it is missing from"""
    origins = Origins({"a": Origin("base.yaml", 2), "a.steps": Origin("run.yaml", 5), "a.folder": Origin("--options")})
    found = problems({"steps": "x", "folder": 3, "titel": "x"}, origins, path="a")
    assert {path: (one.file, one.line) for path, one in found.items()} == {
        "a.steps": ("run.yaml", 5),
        "a.folder": ("--options", None),
        "a.titel": ("base.yaml", 2),
    }


def test_values_that_could_not_be_worked_out_are_reported_with_the_rest():
    """fails when a dead interpolation hides other problems, or slips through a field that takes anything"""
    found = problems(GOOD | {"title": Unresolved("refers to nothing"), "free": {"a": Unresolved("too")}, "x": 1})
    assert set(found) == {"title", "free.a", "x"}


def test_an_incomplete_mapping_blames_nobody_for_missing_keys():
    """fails when a base file that could not be read brings a list of keys the user never had to write"""
    open_windows = {"stop_ms": Unresolved("absent", is_absent=True)}
    mapping = {"titel": "x", "animal": {}, "limit": Unresolved("absent", is_absent=True), "either": open_windows}
    assert set(problems(mapping, is_complete=False)) == {"titel"}
    with pytest.raises(ConfigError) as caught:
        parse(Everything, {}, is_complete=False)
    assert caught.value.problems == ()


def test_keys_that_are_no_text():
    """fails when YAML's `on:` or `1:` as a key is accepted, or its message makes no sense"""
    with pytest.raises(ConfigError) as caught:
        parse(Everything, {**GOOD, True: 3, 2: 2})
    assert "quote the key" in (caught.value.problems[0].hint or "")
    assert len(caught.value.problems) == 2


def test_a_config_may_refuse_in_post_init():
    """fails when a ValueError of __post_init__ becomes a traceback"""

    @dataclass(frozen=True)
    class Picky:
        x: int

        def __post_init__(self):
            raise ValueError("is never right")

    with pytest.raises(ConfigError, match="is never right"):
        parse(Picky, {"x": 1}, path="picky")


def test_a_field_nobody_can_read_is_a_slip_of_ours():
    """fails when a field of an unsupported type is silently taken over"""

    @dataclass(frozen=True)
    class Odd:
        x: complex

    with pytest.raises(TypeError, match="x: the schema cannot read a field of type"):
        parse(Odd, {"x": 1})


def test_plain_is_the_inverse():
    """fails when what was parsed cannot be written down and parsed to the same again"""
    mapping = GOOD | {
        "animal": {"name": "cat", "food": "mice"},
        "herd": {"a": {"name": "dog", "food": "x", "legs": 3}},
        "optimizer": {"betas": [0.5, 0.6]},
        "either": {"stop_ms": 3},
        "free": {"a": [1, {"b": None}]},
    }
    parsed = parse(Everything, mapping)
    written = plain(parsed)
    assert parse(Everything, written) == parsed
    assert written["animal"] == {"name": "cat", "diet": {"salt": 0.0}, "legs": 4, "food": "mice"}
    assert written["folder"] == "runs/a"


ODD = [None, True, 0, -1, 1.5, float("inf"), "", "x", "???", " ", b"x", [], [None], [[]], ["???"], {}, {"name": None}]
ODD += [{1: 2}, {None: 1}, {"name": []}, {"x": {"y": {}}}, [{}], {"a": "???"}, "1e400", "nan", 2**80, object()]


@pytest.mark.parametrize("key", [*Everything.__dataclass_fields__, "unknown", True, 3])
def test_no_value_gives_a_traceback(key: Any):
    """fails when an odd value in any field raises something else than a ConfigError"""
    for value in ODD:
        for mapping in ({**GOOD, key: value}, {key: value}, {**GOOD, "windows": {"a": {key: value}}}):
            try:
                parse(Everything, mapping)
            except ConfigError as error:
                text = str(error)
                if not error.problems or not text:
                    pytest.fail(f"{mapping} is refused without a reason")


@dataclass(frozen=True, kw_only=True)
class Renamed:
    in_8_bit: Annotated[bool, OldName("low_resource")] = False
    steps: int = 1


def test_an_old_name_is_accepted():
    """fails when a setting under its old name is refused or lost, or is written back under that name"""
    assert plain(parse(Renamed, {"low_resource": True})) == {"in_8_bit": True, "steps": 1}
    assert parse(Renamed, {"in_8_bit": True}).in_8_bit
    with pytest.raises(ConfigError, match="expected true or false, got 'much'"):
        parse(Renamed, {"low_resource": "much"})


def test_both_names_of_a_setting(tmp_path: Path):
    """fails when one of two values is dropped silently, or an option does not win over the file"""
    (tmp_path / "a.yaml").write_text("in_8_bit: true\nsteps: 2\n")
    config, _, _ = read(Renamed, tmp_path / "a.yaml", ["low_resource=false"])
    assert config == Renamed(in_8_bit=False, steps=2)
    (tmp_path / "b.yaml").write_text("in_8_bit: true\nlow_resource: false\n")
    with pytest.raises(ConfigError, match="is the old name of in_8_bit, which is set too; remove one of them"):
        read(Renamed, tmp_path / "b.yaml")


@dataclass(frozen=True, kw_only=True)
class Span:
    """A part that may contradict itself."""

    low: int = 0
    high: int = 1

    def problems(self) -> Iterable[Problem]:
        if self.low > self.high:
            yield Problem("low", "is above high")


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A whole whose checks assume sound parts."""

    first: Span | None = None
    second: Span = field(default_factory=Span)
    trusting: bool = False

    def problems(self) -> Iterable[Problem]:
        if self.first is not None and self.first.high != self.second.high:
            yield Problem("second.high", "is not that of first")
        if self.trusting and self.second.low > self.second.high:
            raise KeyError("a sound part would have it")


@pytest.mark.parametrize("trusting", [False, True])
def test_a_part_that_contradicts_itself_hides_no_contradiction_of_the_whole(trusting: bool):
    """fails when a second mistake is told only after the first is mended, or a check of flawed parts is a traceback"""
    nodes = {"first": {"low": 5, "high": 2}, "second": {"low": 4}, "trusting": trusting}
    with pytest.raises(ConfigError) as error:
        parse(Pair, nodes)
    assert [problem.path for problem in error.value.problems] == ["first.low", "second.low", "second.high"]
