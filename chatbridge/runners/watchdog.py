"""Ends a run that makes no progress, and names the rank and the phase it hangs in.

A thread per rank compares the time since its last phase with a limit, and its peers' (phase_board.py). When all ranks
are over the limit, one of them reports which ranks hang and which only wait for them; each writes the Python stacks of
its threads to stall_rank<r>.txt, and all end with exit code 75, so that torchrun --max-restarts starts them again. The
same thread ends this rank, with a message, after another rank ended with an exception. What ended each rank stays in
its note (rank_notes.py), for the next start.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from multiprocessing import active_children
from pathlib import Path
from typing import Literal

from chatbridge.common.dist import Dist
from chatbridge.common.errors import DataError, MediaError, TrainingError, print_once
from chatbridge.common.log import get_logger
from chatbridge.common.lost_ranks import NEXT_STEP, is_lost_connection
from chatbridge.common.safe_files import replace_text
from chatbridge.runners.phase_board import Board, Doing, Ranks, StoreBoard
from chatbridge.runners.rank_notes import SILENT, Note, RankNote, place, read_notes, silent_text
from chatbridge.runners.watchers import Phase, Watcher

log = get_logger(__name__)

STALLED = 75  # exit code: EX_TEMPFAIL of sysexits.h
FACTORS: dict[Phase, float] = {"checkpoint": 3.0, "evaluate": 30.0}  # limit of these phases, in stall_timeout_s
GRACE_S = 5.0  # for all ranks to write their stacks, and for a rank to end by itself after another one failed
LOST_S, LOST_POLLS = 1.0, 2.0  # the time after a lost connection in which a rank that lives writes a new note
OnStall = Literal["stop", "warn"]


class Watchdog(Watcher):
    """The watchdog of one rank.

    timeout_s  longest time without a new phase, three times that for a checkpoint and 30 times for an evaluation; None:
               no limit, only failures of other ranks are followed
    board      None: the board of the process group if there are several ranks
    leave      ends this process with an exit code
    """

    def __init__(
        self,
        dist: Dist,
        folder: Path,
        timeout_s: float | None,
        on_stall: OnStall = "stop",
        board: Board | None = None,
        leave: Callable[[int], None] | None = None,
    ) -> None:
        self.dist, self.folder, self.timeout_s, self.on_stall = dist, folder, timeout_s, on_stall
        self.board, self.leave = board, leave or _leave
        self.poll_s = 1.0 if timeout_s is None else min(max(timeout_s / 20, 0.02), 1.0)
        self.ranks: Ranks | None = None
        self.note: RankNote | None = None
        self._now: tuple[Phase, int, float] = ("idle", 0, time.monotonic())  # replaced as a whole, never changed
        self._warned: object = None  # the phase that was reported, with on_stall: warn
        self._end = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Watchdog:
        if self.board is None and self.dist.world_size > 1:
            self.board = StoreBoard.of_process_group()
        if self.board is not None:
            self.ranks = Ranks(self.board, self.dist.rank, self.dist.world_size)
        self._now = ("idle", self._now[1], time.monotonic())
        self.note = RankNote(self.folder, self.dist.rank)
        if self.ranks is not None or self.timeout_s is not None:
            self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *problem: object) -> None:
        self._end.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout=GRACE_S)
        error = problem[1] if len(problem) > 1 else None
        if isinstance(error, BaseException):
            self._fail(error)
        elif self.note is not None:
            self.note.remove()

    def _fail(self, error: BaseException) -> None:
        """Leave the reason of this rank's end for the others and for the next start."""
        phase, step, _ = self._now
        if self.board is not None and is_lost_connection(error):
            text = self._lost(phase, step)
            self._last_words("")
            raise TrainingError(text) from None
        first = (str(error).strip() or "no message").splitlines()[0]
        text = f"rank {self.dist.rank} ended in {place(phase, step)}: {type(error).__name__}: {first}"
        self._last_words(text)
        if self.board is not None:
            if isinstance(error, (DataError, MediaError, TrainingError)) and "CHATBRIDGE_TRACEBACK" not in os.environ:
                print_once(error)  # once the others follow it, torchrun may end this process at any moment
            self.board.claim("failure", text)
            self._wait_for_all()  # torchrun ends the others as soon as this process has ended

    def phase(self, name: Phase, step: int) -> None:
        self._now = (name, step, time.monotonic())
        if self.note is not None:
            self.note.write(name, step)

    def limit_s(self, phases: Iterable[Phase]) -> float:
        """The longest time without a new phase while ranks are in these phases."""
        return (self.timeout_s or float("inf")) * max(FACTORS.get(phase, 1.0) for phase in phases)

    def _watch(self) -> None:
        while not self._end.wait(self.poll_s):
            phase, step, begin = now = self._now
            seconds = time.monotonic() - begin
            if self.ranks is not None:
                self.ranks.publish(phase, step, seconds)
                self.ranks.look()
                self._follow(self.ranks.board)
            if now is not self._warned and self._is_stalled(phase, seconds):
                self._warned = now
                self._report(phase, step, seconds)

    def _is_stalled(self, phase: Phase, seconds: float) -> bool:
        """Whether this rank and all others are over the limit; a rank that does not answer is."""
        others = self.ranks.others() if self.ranks is not None else {}
        limit = self.limit_s([phase, *(doing.phase for doing, _ in others.values())])
        return seconds > limit and all(doing.seconds + age > 0.9 * limit for doing, age in others.values())

    def _report(self, phase: Phase, step: int, seconds: float) -> None:
        others = self.ranks.others() if self.ranks is not None else {}
        text = stall_text(self.dist.rank, Doing(phase, step, seconds, 0), others, self._silence_s())
        is_first = self.board is None or self.board.claim(f"stall/{step}", text)
        if is_first:
            ending = "The run ends" if self.on_stall == "stop" else "The run goes on (run.on_stall: warn)"
            hint = "" if self.on_stall == "warn" else f" with exit code {STALLED}; {NEXT_STEP}"
            stacks = self.folder / "stall_rank*.txt"
            _aside(lambda: log.error("%s. Python stacks: %s. %s%s", text, stacks, ending, hint))
        path = self.folder / f"stall_rank{self.dist.rank}.txt"
        _aside(lambda: replace_text(path, f"{text}\n\n{python_stacks()}"))
        if self.on_stall == "stop":
            _aside(lambda: self._last_words(text if is_first else ""))
            self._wait_for_all()
            self.leave(STALLED)

    def _follow(self, board: Board) -> None:
        """End this process after another rank failed, unless its main thread ends by itself."""
        failure = board.get("failure")
        if failure is None or self._end.wait(GRACE_S / 2):
            return
        _aside(lambda: log.error("%s; this rank ends with it, in %s", failure, place(*self._now[:2])))
        _aside(lambda: self._last_words(""))
        board.put(f"left/{self.dist.rank}", "1")
        self.leave(1)

    def _lost(self, phase: Phase, step: int) -> str:
        """What this rank reports when another one has ended: its message, or its number once it has been silent."""
        assert self.board is not None
        self.board.put(f"left/{self.dist.rank}", "1")
        own, end = place(phase, step), time.monotonic() + LOST_POLLS * self.poll_s + LOST_S
        while time.monotonic() < end:
            if failure := self.board.get("failure"):
                return f"{failure}; this rank ends with it, in {own}"
            time.sleep(self.poll_s / 10)
            if self.ranks is not None:
                self.ranks.look()
        found = self.ranks.others() if self.ranks is not None else {}
        notes = read_notes(self.folder)  # at least as new as the board, but on a network drive
        silent = {
            one: note if (note := notes.get(one)) and note.step >= doing.step else Note(doing.phase, doing.step)
            for one, (doing, age) in sorted(found.items())
            if age > LOST_POLLS * self.poll_s and not self.board.get(f"left/{one}")
        }
        lost = silent_text(silent) or "the connection to another rank was lost"
        return f"{lost}; this rank ends with it, in {own}. {SILENT}; {NEXT_STEP}"

    def _last_words(self, words: str) -> None:
        if self.note is not None:
            self.note.end(*self._now[:2], words)

    def _wait_for_all(self) -> None:
        """Wait until every rank has reported what it has to, at most for the time of grace."""
        if self.board is None:
            return
        self.board.put(f"left/{self.dist.rank}", "1")
        end = time.monotonic() + GRACE_S
        while time.monotonic() < end and not all(self.board.get(f"left/{r}") for r in range(self.dist.world_size)):
            time.sleep(0.05)

    def _silence_s(self) -> float:
        """A rank whose note is older than this does not answer."""
        return 5 * self.poll_s + 2.0


def stall_text(rank: int, own: Doing, others: dict[int, tuple[Doing, float]], silence_s: float) -> str:
    """Which ranks hang in which phase, and which wait for them.

    others   rank -> its note, and how long ago it came, in seconds
    """
    known = {rank: (own, 0.0), **others}
    silent = sorted(one for one, (_, age) in known.items() if age > silence_s)
    waiting = sorted(one for one, (doing, _) in known.items() if doing.phase == "collective" and one not in silent)
    hanging = sorted(one for one in known if one not in waiting and one not in silent)
    seconds = max(doing.seconds + age for doing, age in known.values())
    parts = [f"rank {one} has been in {place(known[one][0].phase, known[one][0].step)} for "
             f"{known[one][0].seconds + known[one][1]:.1f} s" for one in hanging]  # fmt: skip
    for one in silent:
        doing, age = known[one]
        where = place(doing.phase, doing.step)
        parts.append(f"rank {one} has not answered for {age:.1f} s, last in {where}: its process is stopped or blocked")
    if parts and waiting:
        parts.append(f"{_named(waiting)} for it in the collective of step {own.step + 1}")
    elif waiting:
        parts.append(
            f"all ranks are in a collective of step {min(known[one][0].step for one in waiting) + 1}: the network "
            "between them, or different collectives"
        )
    return f"no progress for {seconds:.1f} s: " + "; ".join(parts)


def python_stacks() -> str:
    """The Python stack of every thread of this process but the one that asks, the main thread first."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    found = {names.get(ident, f"{ident}"): frame for ident, frame in sys._current_frames().items()
             if ident != threading.get_ident()}  # fmt: skip
    order = sorted(found, key=lambda name: name != threading.main_thread().name)
    return "\n".join(f"thread {name}\n" + "".join(traceback.format_stack(found[name])) for name in order)


def _named(ranks: list[int]) -> str:
    return f"rank {ranks[0]} waits" if len(ranks) == 1 else f"ranks {', '.join(map(str, ranks))} wait"


def _aside(work: Callable[[], object], timeout_s: float = GRACE_S) -> None:
    """Do something that may block (a full disk, a lock that the hanging thread holds), but not for ever."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(timeout_s)


def _leave(code: int) -> None:
    """End this process at once, with its loader workers: its main thread may hang where no exception reaches it."""
    for child in active_children():
        child.kill()
    os._exit(code)
