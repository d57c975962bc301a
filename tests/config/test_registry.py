import sys
from pathlib import Path

import pytest

from chatbridge.common.errors import ConfigError
from chatbridge.config.registry import Registry, add_plugins, plugin_names

PART = """
from dataclasses import dataclass
from {package}.base import ANIMALS

@ANIMALS.register("{name}")
class Animal:
    @dataclass(frozen=True, kw_only=True)
    class Config:
        legs: int = 4
"""
UNDECORATED = """
from dataclasses import dataclass
from zoo.animals.base import ANIMALS

class Base:
    @dataclass(frozen=True, kw_only=True)
    class Config:
        legs: int = 4

@ANIMALS.register("undecorated")
class Animal(Base):
    class Config(Base.Config):
        tails: int = 1
"""
POSITIONAL = PART.replace(", kw_only=True", "").format(package="zoo.animals", name="positional")
NAMED = PART.replace("legs: int = 4", "name: str = ''").format(package="zoo.animals", name="named")


@pytest.fixture
def zoo(tmp_path: Path, monkeypatch) -> Path:
    """A package zoo/animals with parts, some of them broken; forgotten again after the test."""
    animals = tmp_path / "zoo" / "animals"
    animals.mkdir(parents=True)
    (animals.parent / "__init__.py").write_text("")
    (animals / "__init__.py").write_text("")
    (animals / "base.py").write_text(
        "from chatbridge.config.registry import Registry\nANIMALS = Registry('animal', 'zoo.animals')\n"
    )
    (animals / "_helper.py").write_text("raise RuntimeError('nobody imports me')")
    (animals / "cat.py").write_text(PART.format(package="zoo.animals", name="cat"))
    (animals / "dog.py").write_text("import chatbridge_no_such_package\n")
    (animals / "singer.py").write_text("import gradio_that_is.missing\n")
    (animals / "wrong_name.py").write_text(PART.format(package="zoo.animals", name="other"))
    (animals / "silent.py").write_text("")
    (animals / "slip.py").write_text("from zoo.animals import not_there_at_all\nimport zoo.nothing\n")
    (animals / "undecorated.py").write_text(UNDECORATED)
    (animals / "positional.py").write_text(POSITIONAL)
    (animals / "named.py").write_text(NAMED)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] in ("zoo", "lab")]:
        del sys.modules[name]


def animals() -> Registry:
    from zoo.animals.base import ANIMALS  # pyright: ignore[reportMissingImports]

    return ANIMALS


def test_names_are_files_and_import_nothing(zoo):
    """fails when listing imports a part (or its missing package), or shows base and private files"""
    registry = Registry("animal", "zoo.animals")
    assert registry.names() == (
        "cat",
        "dog",
        "named",
        "positional",
        "silent",
        "singer",
        "slip",
        "undecorated",
        "wrong_name",
    )
    assert not any(name.startswith("zoo") for name in sys.modules)


def test_get_imports_one_file(zoo):
    """fails when getting a part imports its neighbours, or does not return the class"""
    part = animals().get("cat")
    assert part.__name__ == "Animal"
    assert part.Config().legs == 4
    assert animals().get("cat") is part
    assert {name for name in sys.modules if name.startswith("zoo.")} == {
        "zoo.animals",
        "zoo.animals.base",
        "zoo.animals.cat",
    }


def test_an_unknown_name_lists_all_and_the_nearest(zoo):
    """fails when a misspelled part does not say which one was meant"""
    with pytest.raises(ConfigError) as caught:
        animals().get("catt")
    (problem,) = caught.value.problems
    assert problem.nearest == "cat"
    assert problem.allowed == animals().names()
    assert "no animal named 'catt'" in problem.message


@pytest.mark.parametrize("name", ["base", "_helper", "__init__", "../zoo", "cat.py", ""])
def test_only_parts_can_be_got(zoo, name: str):
    """fails when a name from YAML can import something that is not a part"""
    with pytest.raises(ConfigError, match="no animal named"):
        animals().get(name)


def test_a_missing_package_is_named(zoo, monkeypatch):
    """fails when a part whose package is not installed shows an ImportError, or does not name the extra to install"""
    with pytest.raises(ConfigError, match="chatbridge_no_such_package.*not installed") as caught:
        animals().get("dog")
    assert "pip install chatbridge_no_such_package" in (caught.value.problems[0].hint or "")
    monkeypatch.setitem(sys.modules["chatbridge.common.extras"].EXTRAS, "gradio_that_is", "serve")
    with pytest.raises(ConfigError) as caught:
        animals().get("singer")
    assert "'.[serve]'" in (caught.value.problems[0].hint or "")


def test_a_slip_inside_a_part_is_not_hidden(zoo):
    """fails when a wrong import of our own is presented as a package to install"""
    with pytest.raises(ImportError):
        animals().get("slip")


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("wrong_name", ValueError, "register this animal as 'wrong_name'"),
        ("silent", ConfigError, "registers no animal"),
        ("undecorated", TypeError, r"Animal.Config must be decorated with @dataclass\(frozen=True, kw_only=True\)"),
        ("positional", TypeError, r"must be decorated with @dataclass\(frozen=True, kw_only=True\)"),
        ("named", TypeError, "has a field 'name'"),
    ],
)
def test_parts_that_break_the_rules_are_refused(zoo, name: str, kind: type[Exception], message: str):
    """fails when a part registers under another name, not at all, or with a Config whose fields would be lost"""
    with pytest.raises(kind, match=message):
        animals().get(name)


def test_a_taken_name_is_refused(zoo):
    """fails when a second class silently replaces the first"""
    registry = animals()
    first = registry.get("cat")
    second = type("Animal2", (), {"Config": first.Config, "__module__": "elsewhere.cat"})
    with pytest.raises(ValueError, match=r"animal 'cat' is taken by zoo\.animals\.cat\.Animal"):
        registry.register("cat")(second)
    assert registry.register("cat")(first) is first


def write_plugin(folder: Path, name: str) -> None:
    inner = folder / "lab" / "animals"
    inner.mkdir(parents=True)
    (folder / "lab" / "__init__.py").write_text("")
    (inner / "__init__.py").write_text("")
    (inner / f"{name}.py").write_text(PART.format(package="zoo.animals", name=name))


def test_a_plugin_adds_parts(zoo):
    """fails when `plugins: [lab]` does not bring lab/animals/horse.py under the name horse"""
    write_plugin(zoo, "horse")
    animals().add_plugin("lab")
    animals().add_plugin("lab")
    assert "horse" in animals().names()
    assert animals().get("horse").__module__ == "lab.animals.horse"
    assert animals().get("cat").__module__ == "zoo.animals.cat"


def test_the_file_of_a_plugin_that_raises_is_told_with_its_line(zoo):
    """fails when a slip in the code of a plugin ends a command with a traceback, or its line is not named"""
    write_plugin(zoo, "horse")
    (zoo / "lab" / "animals" / "horse.py").write_text("import os\n[].pop()\n")
    animals().add_plugin("lab")
    with pytest.raises(ConfigError, match=r"the animal 'horse' cannot be imported: IndexError.*horse.py, line 2\)"):
        animals().get("horse")


def test_a_kind_without_parts_says_how_one_is_added(zoo):
    """fails when an unknown name of a kind that has no parts gets neither a list nor a next step"""
    (zoo / "zoo" / "plants").mkdir()
    with pytest.raises(ConfigError) as caught:
        Registry("plant", "zoo.plants").get("fern")
    hint = caught.value.problems[0].hint
    assert hint == "no plant ships; add one in a plugin: my_lab/plants/fern.py and plugins: [my_lab]"


def test_a_module_that_is_no_file_is_no_plugin(zoo):
    """fails when `plugins: [__main__]` ends in a traceback"""
    with pytest.raises(ConfigError, match="no importable package '__main__'"):
        animals().add_plugin("__main__")


def test_a_plugin_cannot_shadow_a_part(zoo):
    """fails when a plugin's cat.py hides ours, or is hidden by it, without a word"""
    write_plugin(zoo, "cat")
    with pytest.raises(ConfigError, match="names that are taken: cat"):
        animals().add_plugin("lab")


def test_a_plugin_inside_a_run_folder_is_refused(zoo):
    """fails when a command that is given in somebody's run folder imports the package that lies in it"""
    write_plugin(zoo, "horse")
    (zoo / "resolved.yaml").write_text("plugins: [lab]")
    with pytest.raises(ConfigError, match="inside the run folder"):
        animals().add_plugin("lab")


@pytest.mark.parametrize("found", [None, "lab", {"lab": 1}, 3, [3, None, "lab"]])
def test_plugins_that_are_no_names_are_left_to_the_check(found: object):
    """fails when `plugins: lab` is read as l, a, b, or `plugins: [3]` ends in a traceback"""
    assert plugin_names({"plugins": found}) == (["lab"] if isinstance(found, list) else [])


def test_all_missing_plugins_are_reported_once(zoo):
    """fails when a missing plugin is reported per kind, or the first one hides the second"""
    write_plugin(zoo, "horse")
    other = Registry("plant", "zoo.plants")
    with pytest.raises(ConfigError) as caught:
        add_plugins([animals(), other], ["nowhere", "lab", "no way"])
    assert [problem.message for problem in caught.value.problems] == [
        "there is no importable package 'nowhere'",
        "there is no importable package 'no way'",
    ]
    assert "horse" in animals().names()
