"""Progress notes of loader workers in shared memory: never read torn, and counted only from the second reading."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import random
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest

from chatbridge.datasets.workers.progress_notes import CELL_BYTES, SLOT_BYTES, ProgressNote, ProgressNotes, Stopwatch


@pytest.fixture
def notes() -> Iterator[ProgressNotes]:
    found = ProgressNotes(2)
    yield found
    found.remove()


def _write_for_ever(notes: ProgressNotes) -> None:
    number = 0
    while True:
        number += 1
        notes.reading(1, number % 7, number * 3)
        if number % 4 == 0:
            notes.reading(1, number % 7, number * 3, is_paused=True)
        notes.idle(1)


def _is_torn(note: ProgressNote) -> bool:
    return note.index % 3 != 0 or note.source != note.index // 3 % 7 or (note.is_paused and note.index // 3 % 4 != 0)


@pytest.mark.parametrize("reads", [200_000, pytest.param(10_000_000, marks=pytest.mark.slow)])
def test_no_note_is_torn_under_stress(notes: ProgressNotes, reads: int):
    """fails when a reader sees parts of two notes while another process writes as fast as it can"""
    writer = multiprocessing.get_context("fork").Process(target=_write_for_ever, args=(notes,), daemon=True)
    writer.start()
    seen = torn = 0
    try:
        for _ in range(reads):
            note = notes.read(1)
            if note is not None:
                seen += 1
                torn += _is_torn(note)
        while notes.read(1) is None:  # a busy machine may run the writer late
            time.sleep(0)
    finally:
        writer.kill()
        writer.join()
    assert torn == 0, f"{torn} torn notes among {seen} in {reads} reads"
    assert notes.read(0) is None


def test_every_mixture_of_two_writes_is_the_old_or_the_new_note(notes: ProgressNotes):
    """fails when a write of which any part is visible, in any order as on ARM, reads as a third note"""
    notes.reading(1, 3, 41)
    notes.idle(1)
    shared: Any = notes._mapped()
    before, old = bytes(shared), notes.read(1)
    notes.reading(1, 5, 2**40)
    after, new = bytes(shared), notes.read(1)
    assert old is None and new is not None and (new.source, new.index) == (5, 2**40)
    rng = random.Random(7)
    prefixes = [set(range(end)) for end in range(len(before) + 1)]
    words = [{at for at in range(len(before)) if chosen >> at // 8 & 1} for chosen in rng.choices(range(2**32), k=2000)]
    for visible in [*prefixes, *words]:
        shared[:] = bytes(after[at] if at in visible else before[at] for at in range(len(before)))
        assert notes.read(1) in (old, new)


@pytest.mark.parametrize("part", [0, 8, CELL_BYTES // 2, CELL_BYTES - 1])
def test_a_writer_killed_during_a_write_leaves_the_previous_note(notes: ProgressNotes, part: int):
    """fails when the sample that a dead worker was reading is lost, or another one is named"""
    notes.reading(1, 3, 41)
    held = notes.read(1)
    shared: Any = notes._mapped()
    before = bytes(shared)
    notes.idle(1)
    after = bytes(shared)
    cell = next(
        at for at in range(0, len(before), SLOT_BYTES // 2) if after[at:][:CELL_BYTES] != before[at:][:CELL_BYTES]
    )
    shared[:] = before[:cell] + after[cell : cell + part] + before[cell + part :]
    assert notes.read(1) == held and held is not None and (held.source, held.index) == (3, 41)


def test_an_unreadable_slot_names_no_sample(notes: ProgressNotes):
    """fails when bytes that are not a note are taken for a sample"""
    shared: Any = notes._mapped()
    shared[:] = b"\x01" * len(shared)
    assert notes.read(0) is None and notes.read(1) is None
    shared[:] = bytes(len(shared))
    assert notes.read(0) is None


def test_the_notes_of_a_process_continue_those_of_another(notes: ProgressNotes):
    """fails when a writer that did not inherit the object (spawn) writes notes that count as older ones"""
    for index in range(5):
        notes.reading(0, 1, index)
    copy = pickle.loads(pickle.dumps(notes))
    copy.reading(0, 1, 9)
    found = notes.read(0)
    assert found is not None and found.index == 9 and found.number == 6


def test_a_note_counts_from_its_second_reading():
    """fails when a note counts at its first reading, whatever the uptime of the machine is"""
    watch, note = Stopwatch(2.0), ProgressNote(0, 0, 1)
    assert watch.update(note, now=1044.0) == 0
    assert watch.update(note, now=1044.5) == 0.5
    assert watch.update(note._replace(number=2), now=1045.0) == 0  # the same sample, read again
    assert watch.update(None, now=1045.5) == 0
    assert watch.update(note, now=1046.0) == 0
    paused = note._replace(number=3, is_paused=True)
    assert [watch.update(paused, now=1047.0 + k) for k in range(3)] == [0, 0, 0]


def test_time_without_readings_does_not_count():
    """fails when a run that was suspended for an hour kills its healthy workers"""
    watch, note = Stopwatch(2.0), ProgressNote(0, 0, 1)
    watch.update(note, now=10.0)
    assert watch.update(note, now=3610.0) == 2.0


def test_a_writer_that_is_killed_at_random_is_always_readable(notes: ProgressNotes):
    """fails when kill -9 during a write leaves an unreadable slot"""
    context = multiprocessing.get_context("fork")
    for turn in range(20):
        writer = context.Process(target=_write_for_ever, args=(notes,), daemon=True)
        writer.start()
        time.sleep(0.002 + 0.001 * turn)
        os.kill(writer.pid or 0, signal.SIGKILL)
        writer.join()
        found = notes._newest(1)
        note = notes.read(1)
        assert found is not None and (note is None or not _is_torn(note))
