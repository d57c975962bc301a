"""What goes wrong around `chatbridge data`: odd arguments, and lists and pages that cannot be written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from chatbridge.cli.data import check, command
from chatbridge.common import safe_files
from chatbridge.common.errors import ConfigError, DataError
from chatbridge.datasets.quarantine import read_quarantine
from tests.helpers.mini_world import MiniWorld, write_yaml


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> MiniWorld:
    return MiniWorld(tmp_path_factory.mktemp("world"))


@pytest.fixture
def config(world: MiniWorld, tmp_path: Path) -> Path:
    return write_yaml(tmp_path / "run.yaml", world.experiment(tmp_path / "run"))


@pytest.mark.parametrize(
    ("arguments", "lowest"),
    [
        (["show", "-1"], 0),
        (["show", "999999999999999999999"], 0),
        (["show", "0", "--ranks", "0"], 1),
        (["check", "--sample", "-4"], 0),
        (["check", "--workers", "0"], 1),
        (["stats", "--sample", "0"], 1),
        (["stats", "--ranks", "-1"], 1),
    ],
)
def test_numbers_out_of_range_are_told(config: Path, arguments: list[str], lowest: int, capsys: pytest.CaptureFixture):
    """fails when a count below what makes sense is accepted silently, or one without end asks for petabytes"""
    with pytest.raises(SystemExit) as left:
        command.main([arguments[0], str(config), *arguments[1:]])
    assert left.value.code == 2 and f"expected a whole number from {lowest} to" in capsys.readouterr().err


def test_a_misspelled_source_has_a_guess(config: Path):
    """fails when --source does not say which name is near"""
    with pytest.raises(ConfigError, match="did you mean image_qa"):
        command.main(["check", str(config), "--source", "image_q"])


def test_a_list_that_cannot_be_written_is_told_before_the_reading(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    """fails when hours of reading end in a traceback, and what was found is lost"""
    monkeypatch.setattr(check, "read_samples", lambda *rest: pytest.fail("it began to read"))
    (tmp_path / "file").write_text("no list")
    for place, words in (("file/q.jsonl", "cannot be written"), (".", "cannot be read"), ("file", "line 1: expected")):
        with pytest.raises(DataError, match=words):
            command.main(["check", str(config), "--quarantine", str(tmp_path / place)])
    monkeypatch.undo()
    monkeypatch.setattr(safe_files.os, "replace", _no_room)
    with pytest.raises(DataError, match="q.jsonl: could not be written: No space left"):
        command.main(["check", str(config), "--sample", "1", "--quarantine", str(tmp_path / "q.jsonl")])
    assert "4 sources open" in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"<html>", b"\xff\xfe", b'{"source": "image_qa", "id": "i0", "rea'])
def test_a_list_that_a_run_would_refuse_is_told(
    world: MiniWorld, tmp_path: Path, content: bytes, capsys: pytest.CaptureFixture
):
    """fails when the check passes a data.quarantine that stops the run"""
    (tmp_path / "q.jsonl").write_bytes(content)
    experiment = world.experiment(tmp_path / "run")
    experiment["data"]["quarantine"] = str(tmp_path / "q.jsonl")
    assert command.main(["check", str(write_yaml(tmp_path / "run.yaml", experiment)), "--sample", "0"]) == 2
    assert "data.quarantine" in capsys.readouterr().err


def test_lists_that_people_and_the_check_write_are_read(tmp_path: Path):
    """fails when a byte order mark, or a sign that some take for the end of a line, makes the list unreadable"""
    entry = '{"source": "a", "id": "x\u2028y", "reason": "z"}\r\n'
    (tmp_path / "q.jsonl").write_bytes(b"\xef\xbb\xbf" + entry.encode())
    assert list(read_quarantine(tmp_path / "q.jsonl").samples["a"]) == ["x\u2028y"]
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="it is a folder, a pipe or a device"):
        read_quarantine(tmp_path / "pipe")


_replace = os.replace


def _no_room(source: Path, target: Path) -> None:
    """For the list alone: the index of a tar, which an earlier test may have written or not, has room."""
    if Path(target).name == "q.jsonl":
        raise OSError(28, os.strerror(28), "q.jsonl")
    _replace(source, target)


def test_a_page_that_cannot_be_written_is_a_message(config: Path, world: MiniWorld):
    """fails when --out names a file and a traceback is the answer"""
    with pytest.raises(DataError, match="pairs.tar: File exists; choose another location"):
        command.main(["show", str(config), "0", "--out", str(world.folder / "pairs.tar")])


def test_no_more_processes_than_samples(world: MiniWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """fails when --workers 1000 starts a thousand processes for a few samples"""
    asked = []
    monkeypatch.setattr(
        check, "ProcessPool", lambda work, num_workers, limit, *rest: asked.append(num_workers) or _Idle()
    )
    config = write_yaml(tmp_path / "run.yaml", world.experiment(tmp_path / "run"))
    assert command.main(["check", str(config), "--workers", "1000", "--sample", "1"]) == 0
    assert asked == [4]


class _Idle:
    def results(self, tasks: object) -> list[object]:
        return []


def test_a_weight_without_end_is_refused(world: MiniWorld, tmp_path: Path, capsys: pytest.CaptureFixture):
    """fails when the check passes what a run refuses, or a negative weight is answered with "put it in quotes\""""
    for weight in (float("inf"), -1):
        content = world.experiment(tmp_path / "run")
        content["data"]["sources"]["image_qa"]["weight"] = weight
        assert command.main(["check", str(write_yaml(tmp_path / "run.yaml", content)), "--sample", "0"]) == 2
        said = " ".join(capsys.readouterr().err.split())
        assert "expected a number of at least 0 and below inf or size" in said and "quotes" not in said


def test_what_opens_but_contradicts_is_not_said_to_be_closed(
    world: MiniWorld, tmp_path: Path, capsys: pytest.CaptureFixture
):
    """fails when a source that was opened and read is said to be one that cannot be opened"""
    content = world.experiment(tmp_path / "run")
    content["data"]["sources"]["image_qa"]["batch"] = 2  # belongs to mix: step
    assert command.main(["check", str(write_yaml(tmp_path / "run.yaml", content)), "--sample", "1"]) == 2
    assert "image_qa   cannot be used: batch:" in capsys.readouterr().out
