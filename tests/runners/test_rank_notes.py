"""What ended a start of a run stays in the notes of its ranks."""

from __future__ import annotations

import os
import signal
from multiprocessing import get_context
from pathlib import Path

from chatbridge.common.dist import Dist
from chatbridge.common.errors import TrainingError
from chatbridge.runners import OTHER_RANKS
from chatbridge.runners.rank_notes import FOLDER, Note, RankNote, read_notes, silent_text, take_earlier_end
from chatbridge.runners.watchdog import Watchdog


def killed(folder: Path) -> None:
    """A process that is killed as soon as a phase has begun."""
    with Watchdog(Dist(), folder, None) as dog:
        for step in range(4):
            dog.phase("collective", step)
            dog.phase("forward", step)
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_kill_cannot_hold_back_the_last_phase(tmp_path: Path) -> None:
    """Fails when the next start is told an older phase, nothing, or the same again at the start after it."""
    process = get_context("fork").Process(target=killed, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    text = take_earlier_end(tmp_path, is_restart=False)
    assert text.startswith("rank 0 ended without a message, last in forward of step 4. A process without a message was")
    assert take_earlier_end(tmp_path, is_restart=True) == ""


def test_a_clean_end_leaves_nothing(tmp_path: Path) -> None:
    """Fails when a finished run, or one that was stopped, is reported as killed by the next command."""
    with Watchdog(Dist(), tmp_path, None) as dog:
        dog.phase("data", 1)
        assert read_notes(tmp_path) == {0: Note("data", 1)}
    dog.phase("evaluate", 1)
    assert not (tmp_path / FOLDER).exists() and take_earlier_end(tmp_path, is_restart=True) == ""


def test_an_error_is_said_again_after_a_restart_only(tmp_path: Path) -> None:
    """Fails when a restart does not say why, or a later command repeats an error that the user has read."""
    for is_restart in (False, True):
        dog, error = Watchdog(Dist(1, 1), tmp_path, None), TrainingError("out of memory\nmore")
        dog.__enter__()
        dog.phase("backward", 7)
        dog.__exit__(type(error), error, None)
        dog.phase("idle", 8)  # the first words count
        for rank, words in ((0, f"rank 0 ended in backward of step 8: TrainingError: {OTHER_RANKS}"), (2, "")):
            RankNote(tmp_path, rank).end("collective", 7, words)
        text = "rank 1 ended in backward of step 8: TrainingError: out of memory" if is_restart else ""
        assert take_earlier_end(tmp_path, is_restart) == text


def test_ranks_that_only_waited_come_last(tmp_path: Path) -> None:
    """Fails when the rank that was lost is hidden behind those that torchrun ended for it, or a torn note fails."""
    for rank in range(20):
        RankNote(tmp_path, rank).write("forward" if rank == 17 else "collective", 2)
    (tmp_path / FOLDER / "3").write_text('{"phase": "for')
    (tmp_path / FOLDER / "4").write_text("")
    notes = read_notes(tmp_path)
    assert len(notes) == 18
    text = silent_text(notes)
    assert text.startswith("rank 17 ended without a message, last in forward of step 3; rank 0 ended without")
    assert text.endswith("; so did 10 other ranks")


def test_a_folder_that_cannot_be_written_does_not_fail_the_run(tmp_path: Path) -> None:
    """Fails when a run ends because its notes cannot be written."""
    (tmp_path / FOLDER).write_text("a file")
    with Watchdog(Dist(), tmp_path, None) as dog:
        dog.phase("data", 1)
    assert read_notes(tmp_path) == {} and take_earlier_end(tmp_path, is_restart=True) == ""
