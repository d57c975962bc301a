"""Who may open the page."""

from __future__ import annotations

from pathlib import Path

import pytest

from chatbridge.cli import demo
from chatbridge.common.errors import ConfigError
from chatbridge.serve.demo.launch import logins_of


def test_logins_are_an_argument_or_a_file(tmp_path: Path):
    """fails when a password with a colon is cut, or a comment becomes a login"""
    assert logins_of("ann:se:cret") == (("ann", "se:cret"),)
    file = tmp_path / "logins"
    file.write_text("# who\nann:a\n\nbob:b\n")
    assert logins_of(str(file)) == (("ann", "a"), ("bob", "b"))


@pytest.mark.parametrize("content", ["", "# nobody\n", "ann\n", "ann:\n", ":a\n", "ann:a\nann:b\n"])
def test_faulty_logins_are_refused(tmp_path: Path, content: str):
    """fails when a page opens for nobody or for everybody because of a mistake in a file"""
    file = tmp_path / "logins"
    file.write_text(content)
    with pytest.raises(ConfigError, match="--auth"):
        demo.logins_from(str(file))
    with pytest.raises(ConfigError, match="neither user:password nor a file"):
        demo.logins_from("ann")


@pytest.mark.parametrize("name", ["file/votes.jsonl", "folder.jsonl"])
def test_votes_that_cannot_be_written_are_known_before_the_page(tmp_path: Path, name: str):
    """fails when a page opens whose every vote is lost"""
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.jsonl").mkdir()
    args = demo.parse_arguments(["--cfg-path", "x.yaml", "--feedback", str(tmp_path / name)])
    with pytest.raises(ConfigError, match="cannot be written"):
        demo.feedback_of(args, demo.chosen(args)[0])


@pytest.mark.parametrize("port", ["0", "-1", "99999", "x"])
def test_a_port_that_cannot_be_is_refused(port: str, capsys: pytest.CaptureFixture[str]):
    """fails when it is noticed after the weights are read, by a traceback"""
    with pytest.raises(SystemExit):
        demo.parse_arguments(["--cfg-path", "x.yaml", "--port", port])
    assert "from 1 to 65535" in capsys.readouterr().err
