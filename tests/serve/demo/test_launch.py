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
