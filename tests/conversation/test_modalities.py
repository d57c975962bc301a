"""Modalities are registered values: what is taken, what is unknown, and what a plugin adds."""

from __future__ import annotations

import ast
import pickle
import re
import subprocess
import sys
import tarfile
from io import BytesIO
from pathlib import Path

import pytest

from chatbridge.common.errors import ConfigError
from chatbridge.conversation.messages import Media
from chatbridge.conversation.modalities import BUILT_IN, MODALITIES, THERMAL, Endings, Modalities, Modality
from chatbridge.conversation.spans import SpanWriter
from chatbridge.conversation.text_cleaning import find_markers, without_markers
from chatbridge.datasets.sample_reader import SampleReader
from chatbridge.datasets.tars.index import find_index, open_index

TOUCH = Modality("touch", "touch map", Endings.for_all("npy", "touch.png"), piece="view")
PLUGIN = """
from chatbridge.conversation.modalities import MODALITIES, Endings, Modality

MODALITIES.register(Modality("{name}", "{name} map", Endings.for_all("{ending}")))
"""


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> Modalities:
    """The registry of the process; what a test adds is forgotten afterwards."""
    monkeypatch.setattr(MODALITIES, "_registered", dict(MODALITIES._registered))
    return MODALITIES


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: Modalities):
    """plugin(text of modalities.py, name of the package) -> a package that can be imported until the test ends."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(text: str | None, name: str = "modality_lab") -> str:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("")
        if text is not None:
            (tmp_path / name / "modalities.py").write_text(text)
        return name

    yield write
    for name in [name for name in sys.modules if name.startswith("modality_lab")]:
        del sys.modules[name]


def test_six_come_with_the_package():
    """fails when a built-in modality is gone, or the text that people read for it changed"""
    assert [(one.name, one.plural, one.piece, one.marker) for one in MODALITIES][:6] == [
        ("image", "images", "crop", "<image>"),
        ("video", "videos", "frame", "<video>"),
        ("audio", "audio", "clip", "<audio>"),
        ("depth", "depth maps", "piece", "<depth>"),
        ("thermal", "thermal images", "piece", "<thermal>"),
        ("imu", "motion recordings", "clip", "<imu>"),
    ]


def test_a_plugin_may_bring_its_own_depth(known: Modalities):
    """fails when a plugin of the time before depth maps came with the package is refused, may replace images, or is
    replaced again by a third"""
    own = Modality("depth", "depth map", Endings.for_all("npy", "depth.png"), piece="crop")
    known.register(own)
    assert known.get("depth") == own and known.names() == tuple(one.name for one in BUILT_IN)
    assert known.of_file("a.npy") == own and known.of_file("a.thermal.npy") == THERMAL
    for other in (Modality("depth", "map", Endings.for_all("deep")), Modality("image", "picture")):
        with pytest.raises(ValueError, match="the name is taken"):
            known.register(other)


def test_a_file_name_determines_its_modality(known: Modalities):
    """fails when a longer ending does not go before a shorter one, or case counts"""
    known.register(TOUCH)
    found = {name: known.of_file(name) for name in ("a.png", "a.TOUCH.png", "b.npy", "c.txt", "npy")}
    assert {name: one and one.name for name, one in found.items()} == {
        "a.png": "image", "a.TOUCH.png": "touch", "b.npy": "touch", "c.txt": None, "npy": None
    }  # fmt: skip


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (Modality("touch", "lidar image"), "the name is taken"),
        (Modality("lidar", "lidar image", marker="<touch>"), "the marker <touch> is taken by 'touch'"),
        (Modality("lidar", "lidar image", Endings(upload=("npy",))), ".npy is taken by 'touch' (upload)"),
        (Modality("lidar", "lidar image", Endings(members=("png",))), "such as .lidar.png"),
        (Modality("lidar", "lidar image", Endings(upload=("tiff",))), ".tiff is taken by 'image' (upload)"),
    ],
    ids=["name", "marker", "upload", "members", "mime"],
)
def test_a_taken_value_is_reported(known: Modalities, other: Modality, said: str):
    """fails when two modalities can claim one name, marker or ending, so that one of them silently wins"""
    known.register(TOUCH)
    with pytest.raises(ValueError) as error:
        known.register(other)
    assert said in str(error.value)
    assert known.names()[6:] == ("touch",)


def test_equal_values_and_shared_lookups_are_no_conflict(known: Modalities):
    """fails when a plugin that is imported twice, or two modalities with the same lookup ending, are refused"""
    known.register(TOUCH)
    known.register(Modality("touch", "touch map", Endings.for_all("npy", "touch.png"), piece="view"))
    known.register(Modality("lidar", "lidar image", Endings(lookup=("npy", "png"))))
    assert known.names()[6:] == ("touch", "lidar")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"name": "Touch Map"}, "lower-case letters"),
        ({"name": "text"}, "reserved"),
        ({"marker": "[touch]"}, "angle brackets"),
        ({"endings": Endings(upload=(".npy",))}, "without the leading dot"),
        ({"endings": Endings(members=("NPY",))}, "has capitals"),
        ({"endings": Endings(members=("json",))}, "text of a sample"),
        ({"endings": Endings("npy")}, "`upload` endings are one string, 'npy'"),  # pyright: ignore[reportArgumentType]
        ({"noun": " "}, "the noun is empty"),
    ],
    ids=["name", "reserved", "marker", "dot", "capitals", "text", "letters", "noun"],
)
def test_a_value_that_cannot_work_is_refused(values: dict, said: str):
    """fails when a modality is accepted that no file, marker or YAML key could mean"""
    with pytest.raises(ValueError) as error:
        Modality(**{"name": "touch", "noun": "touch map", **values})
    assert said in str(error.value)


def test_an_unknown_name_has_the_nearest_and_the_list(known: Modalities):
    """fails when a slip in a name is not answered with the modality that was meant"""
    known.register(TOUCH)
    with pytest.raises(ConfigError) as error:
        known.get("touc")
    (problem,) = error.value.problems
    assert (problem.nearest, problem.allowed) == (
        "touch",
        ("image", "video", "audio", "depth", "thermal", "imu", "touch"),
    )


def test_a_plugin_registers(plugin):
    """fails when `plugins:` does not bring the modalities of a package, or a package without any is an error"""
    MODALITIES.add_plugin(plugin(PLUGIN.format(name="lidar", ending="lidar")))
    MODALITIES.add_plugin(plugin(None, "modality_lab_without"))
    assert MODALITIES.get("lidar").marker == "<lidar>"


def test_a_plugin_with_a_taken_ending_is_reported(plugin):
    """fails when the conflict of a plugin is a traceback, or does not name the plugin and the next step"""
    with pytest.raises(ConfigError) as error:
        MODALITIES.add_plugin(plugin(PLUGIN.format(name="lidar", ending="png")))
    (problem,) = error.value.problems
    assert problem.path == "plugins" and "modality 'lidar': the ending .png" in problem.message
    assert re.search(r"modality_lab.modalities.py, line \d+", problem.message)
    assert "remove 'modality_lab' from plugins" in (problem.hint or "")


@pytest.mark.parametrize(
    ("code", "said"),
    [("1 / 0", "ZeroDivisionError: division by zero"), ("def (", "SyntaxError: invalid syntax")],
    ids=["raises", "syntax"],
)
def test_code_of_a_plugin_that_raises_is_reported_with_its_line(plugin, code: str, said: str):
    """fails when a slip in the code of a plugin ends a command with a traceback, or its line is not named"""
    with pytest.raises(ConfigError) as error:
        MODALITIES.add_plugin(plugin(f"import os\n{code}\n"))
    (problem,) = error.value.problems
    assert problem.path == "plugins" and said in problem.message
    assert re.search(r"modality_lab.modalities.py, line 2\)", problem.message)


def test_a_plugin_that_is_absent_is_reported():
    """fails when a misspelled plugin passes without its modalities"""
    with pytest.raises(ConfigError, match="no importable package"):
        MODALITIES.add_plugin("modality_lab_nowhere")


def test_the_registry_is_cheap_to_import(repository: Path):
    """fails when modalities bring torch, numpy or transformers into every worker that reads a marker"""
    script = (
        "import sys; import chatbridge.conversation.modalities, chatbridge.conversation.text_cleaning\n"
        "print([name for name in ('torch', 'numpy', 'transformers', 'PIL') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=repository, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def spelled_out(package: Path) -> set[str]:
    """Files with a list, tuple, set or mapping that names all three built-in modalities."""
    found = set()
    for file in package.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            items = node.keys if isinstance(node, ast.Dict) else getattr(node, "elts", ())
            values = {item.value for item in items if isinstance(item, ast.Constant)}
            if {"image", "video", "audio"} <= values:
                found.add(file.relative_to(package).as_posix())
    return found


def test_nothing_else_lists_the_modalities(repository: Path):
    """fails when a table of image, video and audio comes back, which the modality of a plugin would not be in"""
    about_three = {
        "cli/export_hf_card.py",  # examples and packages that a README names; others are left out of it
        "experiment/media_plan.py",  # what reads media where a file describes no model
        "experiment/plan/micro_batches.py",  # blank items to try a processor on; the plan says where there is none
        "models/encoders/imagebind.py",  # the trunks of the released network
        "serve/transformers_model/media_settings.py",  # what transformers calls its inputs; others get names of ours
        "serve/transformers_model/processing_chatbridge.py",  # arguments of every processor of transformers
    }
    found = set(spelled_out(repository / "chatbridge"))
    assert found == about_three


def test_a_marker_of_a_plugin_is_a_marker(known: Modalities):
    """fails when `<touch>` stays in the text of a turn, or is read as a marker where no modality has it"""
    assert find_markers("<touch>\nHow far?") == []
    known.register(TOUCH)
    known.register(Modality("lidar", "lidar image", marker="<beam>"))
    assert find_markers("<touch>\nHow <image> far? <beam>") == [(0, 8, "touch"), (12, 19, "image"), (25, 31, "lidar")]
    assert without_markers("<beam>\nHow far?") == "How far?"


def test_files_of_a_plugin_in_a_tar(known: Modalities, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """fails when touch.png is the image of a sample called `0.touch`, or runs with and without the plugin share (and
    keep making anew) one index"""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    tar = tmp_path / "a.tar"
    with tarfile.open(tar, "w") as archive:
        for name in ("0.png", "0.touch.png", "0.txt", "1.npy", "1.txt"):
            member = tarfile.TarInfo(name)
            member.size = len(name)
            archive.addfile(member, BytesIO(name.encode()))
    plain = open_index(tar)
    known.register(TOUCH)
    more = open_index(tar)
    assert (plain.slots[6:], more.slots[6:]) == (("txt", "json"), ("touch", "txt", "json"))
    assert plain.file.name == "a.tar.index" and plain.file != more.file
    sizes = {bytes(row["key"]): row["size"].tolist() for row in more.rows()}
    assert sizes == {b"0": [5, 0, 0, 0, 0, 0, 11, 5, 0], b"1": [0, 0, 0, 0, 0, 0, 5, 5, 0]}
    assert find_index(tar) == more and [bytes(key) for key in plain.rows()["key"]] == [b"0", b"1"]


def test_a_worker_that_was_not_forked_has_the_modalities(known: Modalities, monkeypatch: pytest.MonkeyPatch):
    """fails when a reader in a spawned worker takes `<touch>` for text"""
    known.register(TOUCH)
    sent = pickle.dumps(SampleReader(None, None, {}, seed=0))  # type: ignore[arg-type]
    monkeypatch.setattr(known, "_registered", dict(list(known._registered.items())[:6]))
    pickle.loads(sent)
    assert find_markers("<touch>") == [(0, 7, "touch")]


def test_a_template_reports_the_routes():
    """fails when a conversation with an unknown modality is laid out, or not told which one was meant"""
    writer = SpanWriter(lambda text: [1], {"image": 3, "touch": 3})
    with pytest.raises(
        ValueError, match="no route for 'touc' in a conversation; its routes: image, touch; did you mean"
    ):
        writer.media(Media("touc", "a.npy"))
