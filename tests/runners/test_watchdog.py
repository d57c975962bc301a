"""A run without progress is ended, with the rank and the phase it hangs in; a rank follows one that failed."""

from __future__ import annotations

import json
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from torch._C._distributed_c10d import TCPStore

from chatbridge.common.dist import Dist
from chatbridge.common.errors import TrainingError, print_once
from chatbridge.runners.phase_board import Doing, Ranks, StoreBoard
from chatbridge.runners.watchdog import STALLED, Watchdog, stall_text
from chatbridge.runners.watchers import Phase


class Group:
    """Watchdogs of several ranks in one process, on a real TCPStore; each records the code it would exit with."""

    def __init__(self, folder: Path, size: int, timeout_s: float | None = 0.4, **more: object) -> None:
        self.server = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        self.codes: dict[int, int] = {}
        self.left = threading.Event()
        self.dogs = [
            Watchdog(Dist(rank, size), folder, timeout_s, board=StoreBoard(self.client()), leave=self.leaver(rank),
                     **more)  # pyright: ignore[reportArgumentType]
            for rank in range(size)
        ]  # fmt: skip

    def client(self) -> TCPStore:
        return TCPStore("127.0.0.1", self.server.port, is_master=False, wait_for_workers=False)

    def leaver(self, rank: int):
        def leave(code: int) -> None:
            self.codes.setdefault(rank, code)
            if len(self.codes) == len(self.dogs):
                self.left.set()

        return leave

    def phases(self, step: int, *names: Phase) -> None:
        for dog, name in zip(self.dogs, names, strict=True):
            dog.phase(name, step)

    def __enter__(self) -> Group:
        for dog in self.dogs:
            dog.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        for dog in self.dogs:
            dog.__exit__()


@pytest.fixture
def grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chatbridge.runners.watchdog.GRACE_S", 1.0)


@pytest.mark.parametrize(("phase", "detail"), [("data", " (waiting for the loader)"), ("forward", "")])
def test_the_hanging_rank_and_its_phase_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, phase: Phase, detail: str
) -> None:
    """Fails when a rank that only waits at a collective is blamed, or a rank leaves without its stacks."""
    with Group(tmp_path, 3) as group:
        group.phases(5, "collective", phase, "collective")
        assert group.left.wait(10)
    assert group.codes == {0: STALLED, 1: STALLED, 2: STALLED}
    (line,) = [record.message for record in caplog.records if "no progress" in record.message]
    assert f"rank 1 has been in {phase} of step 6{detail} for" in line
    assert "ranks 0, 2 wait for it in the collective of step 6" in line
    assert "exit code 75" in line and "the same command resumes" in line
    for rank in range(3):
        stacks = (tmp_path / f"stall_rank{rank}.txt").read_text()
        assert stacks.split("\n\n")[1].startswith("thread MainThread") and "assert group.left.wait(10)" in stacks


def test_progress_of_any_rank_is_no_stall(tmp_path: Path) -> None:
    """Fails when a fast rank that waits for a slow one ends the run, or a checkpoint has no more time than a step."""
    with Group(tmp_path, 2) as group:
        group.phases(1, "collective", "forward")
        for _ in range(8):  # 0.8 s: twice the limit
            group.dogs[1].phase("forward", 1)
            time.sleep(0.1)
        group.phases(2, "collective", "checkpoint")
        time.sleep(0.7)
        assert not group.codes and not list(tmp_path.glob("stall*"))


def test_a_warning_leaves_the_run_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Fails when on_stall: warn ends the run, repeats itself every second, or misses a later stall."""
    with Group(tmp_path, 1, 0.1, on_stall="warn") as group:
        for step in (3, 4):
            group.dogs[0].phase("backward", step)
            time.sleep(0.5)
    assert not group.codes
    lines = [record.message for record in caplog.records]
    assert len(lines) == 2 and "backward of step 4" in lines[0] and "backward of step 5" in lines[1]
    assert "The run goes on" in lines[0]


def test_a_rank_follows_another_one_that_failed(
    tmp_path: Path, grace: None, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fails when the other ranks wait in a collective for a rank that ended with an exception, or end without its
    message; when it has not printed the whole message before they follow it, or prints it twice; also without a limit.
    """
    group = Group(tmp_path, 2, None)
    for dog in group.dogs:
        dog.poll_s = 0.05
    with group:
        group.phases(5, "collective", "forward")
        error = TrainingError("out of memory\nmore")
        group.dogs[1].__exit__(type(error), error, None)
        time.sleep(0.8)
    print_once(error)
    assert group.codes == {0: 1} and capsys.readouterr().err.count("out of memory\nmore") == 1
    assert "rank 1 ended in forward of step 6: TrainingError: out of memory; this rank ends" in caplog.text


def test_a_killed_rank_is_named_in_place_of_the_error_of_the_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails when the ranks that remain after a kill -9 end in gloo's traceback, or blame a rank that lives."""
    monkeypatch.setattr("chatbridge.runners.watchdog.LOST_S", 0.1)
    group = Group(tmp_path, 3, None)
    for dog in group.dogs:
        dog.poll_s = 0.05
    error = RuntimeError("[/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:4242")
    with group:
        group.phases(5, "collective", "forward", "collective")
        time.sleep(0.2)
        group.dogs[1]._end.set()  # its process is gone: no further notes
        group.dogs[1].phase("backward", 5)  # of which the board has not heard
        found = []
        for dog in (group.dogs[2], group.dogs[0]):
            with pytest.raises(TrainingError) as caught:
                dog.__exit__(type(error), error, None)
            found.append(str(caught.value))
    for text in found:
        assert text.startswith("rank 1 ended without a message, last in backward of step 6; this rank ends with it")
        assert "resumes from the newest checkpoint" in text and "gloo" not in text
    assert not group.codes


def test_ranks_that_fail_together_end_by_themselves(tmp_path: Path) -> None:
    """Fails when an error that all ranks raise is cut short on some of them, or they wait for each other for long."""
    group = Group(tmp_path, 3, None)
    begin = time.monotonic()

    def fail(dog: Watchdog) -> None:
        with suppress(TrainingError), dog:
            raise TrainingError("the loss is not finite")

    threads = [threading.Thread(target=fail, args=(dog,)) for dog in group.dogs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not group.codes and time.monotonic() - begin < 3


def test_a_silent_rank_and_a_broken_network_are_told_apart() -> None:
    """Fails when a stopped process is reported as waiting, or nobody is blamed although every rank waits."""
    waits = Doing("collective", 7, 30.0, 4)
    text = stall_text(0, waits, {1: (Doing("forward", 7, 1.0, 9), 40.0), 2: (waits, 0.1)}, 3.0)
    assert "rank 1 has not answered for 40.0 s, last in forward of step 8" in text and "ranks 0, 2 wait" in text
    assert "all ranks are in a collective of step 8" in stall_text(0, waits, {1: (waits, 0.1)}, 3.0)


def test_a_store_that_is_gone_does_not_fail_the_watchdog() -> None:
    """Fails when the end of the process that serves the store raises in a watchdog thread."""
    server = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    board = StoreBoard(TCPStore("127.0.0.1", server.port, is_master=False, wait_for_workers=False))
    board.put("key", "text")
    assert board.get("key") == "text" and board.claim("new", "text") and not board.claim("new", "other")
    assert board.get("new") == "text"
    del server
    board.put("key", "text")
    assert board.get("key") is None


def test_notes_are_never_torn_or_lost_under_load() -> None:
    """Fails when a reader sees half a note, one older than it has seen, or two ranks win the same claim."""
    server = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    size, rounds = 4, 150
    wins: list[int] = []

    def work(rank: int) -> None:
        store = TCPStore("127.0.0.1", server.port, is_master=False, wait_for_workers=False)
        ranks, newest = Ranks(StoreBoard(store), rank, size), dict.fromkeys(range(size), 0)
        for step in range(rounds):
            ranks.publish("forward" if step % 2 else "backward", step, float(step))
            if ranks.board.claim(f"stall/{step}", json.dumps(rank)):
                wins.append(step)
            ranks.look()
            for other, (doing, _) in ranks.others().items():
                assert doing.beat == doing.step + 1 >= newest[other] and doing.seconds == doing.step
                assert doing.phase == ("forward" if doing.step % 2 else "backward")
                newest[other] = doing.beat

    errors: list[BaseException] = []

    def guarded(rank: int) -> None:
        try:
            work(rank)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors and sorted(wins) == list(range(rounds))
