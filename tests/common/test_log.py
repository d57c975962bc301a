import logging
import warnings
from pathlib import Path

import pytest

from chatbridge.common import log


@pytest.fixture(autouse=True)
def clean():
    """Leave no handler of ours behind."""
    yield
    logging.captureWarnings(False)
    for name in (log.ROOT, "py.warnings"):
        logging.getLogger(name).handlers.clear()


def test_the_main_rank_speaks_and_writes(tmp_path: Path, capsys):
    """fails when a line is missing on the screen or in run.log, comes twice after a second setup, or has no time"""
    log.setup(tmp_path / "run")
    log.setup(tmp_path / "run")
    log.get_logger("chatbridge.runners.runner").info("step %d", 10)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("mind the gap", stacklevel=1)
    screen, written = capsys.readouterr().err, (tmp_path / "run" / "run.log").read_text()
    assert screen.count("step 10") == written.count("step 10") == 1
    assert screen.count("UserWarning: mind the gap") == written.count("UserWarning: mind the gap") == 1
    assert screen[2] == screen[5] == ":"
    assert "INFO chatbridge.runners.runner: step 10" in written


def test_other_ranks_only_warn(tmp_path: Path, capsys):
    """fails when eight ranks write the same lines, or a warning of one rank is lost"""
    log.setup(tmp_path / "run", is_main=False, rank=3)
    log.get_logger("x").info("quiet")
    log.get_logger("x").warning("loud")
    assert capsys.readouterr().err.partition(" ")[2] == "[rank 3] warning: loud\n"
    assert not (tmp_path / "run").exists()


def test_loggers_live_below_chatbridge():
    """fails when a logger's name puts it outside the handlers of setup"""
    assert log.get_logger().name == "chatbridge"
    assert log.get_logger("chatbridge.x").name == "chatbridge.x"
    assert log.get_logger("__main__").name == "chatbridge.__main__"
    assert log.get_logger("chatbridges").name == "chatbridge.chatbridges"
