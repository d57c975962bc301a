"""Files and the cache under several processes at once."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable
from pathlib import Path

import pytest

from chatbridge.common.errors import DataError
from chatbridge.review.answer_settings import AnswerSettings
from chatbridge.review.json_lines_file import JsonLinesFile, without_repeats
from chatbridge.review.rate_limit import RateLimit
from chatbridge.review.reply_cache import Reply, ReplyCache, request_key

FORK = multiprocessing.get_context("fork")  # workers start in milliseconds
NUM_PROCESSES, NUM_LINES = 4, 20


def _write(path: Path, worker: int) -> None:
    file = JsonLinesFile(path, ("question_id",))
    for number in range(NUM_LINES):
        file.append({"question_id": f"{worker}-{number}", "text": "x" * 3000})
        if number % 7 == worker:
            file.rewrite(lambda rows: without_repeats(rows, {}))


def _fetch(folder: Path, worker: int) -> None:
    cache = ReplyCache(folder / "cache")
    pace = RateLimit(folder / "pace.json", 60_000_000)
    for number in range(NUM_LINES):
        key = request_key("http://a", {"number": number})

        def ask(number: int = number) -> Reply:
            pace.reserve()
            with (folder / f"asked-{worker}").open("a") as file:
                file.write(f"{number}\n")
            return Reply(f"{number}")

        assert cache.fetch(key, {"number": number}, ask)[0].content == str(number)


def _settle(folder: Path, worker: int) -> None:
    """Two workers have one setting, two another; those of the second one to come are refused."""
    try:
        AnswerSettings(folder / "a.jsonl", {"temperature": worker % 2}).check()
    except DataError as error:
        (folder / f"refused-{worker}").write_text(str(error))


def _run_together(work: Callable[[Path, int], None], folder: Path) -> None:
    processes = [FORK.Process(target=work, args=(folder, n)) for n in range(NUM_PROCESSES)]
    for one in processes:
        one.start()
    for one in processes:
        one.join(60)
    assert [one.exitcode for one in processes] == [0] * NUM_PROCESSES


def test_no_line_of_any_process_is_lost(tmp_path: Path):
    """fails when a line is lost or torn because another process appends, or replaces the file, at the same time"""
    path = tmp_path / "out.jsonl"
    _run_together(_write, path)
    rows = JsonLinesFile(path, ("question_id",)).rows()
    assert sorted(row["question_id"] for row in rows) == sorted(
        f"{worker}-{number}" for worker in range(NUM_PROCESSES) for number in range(NUM_LINES)
    )
    assert all(len(json.loads(line)["text"]) == 3000 for line in path.read_text().splitlines())
    assert [one.name for one in tmp_path.iterdir()] == ["out.jsonl"]  # no lock or temporary file is left


def test_processes_that_share_a_cache_ask_once(tmp_path: Path):
    """fails when two processes pay for the same request, or read a reply that is half written"""
    _run_together(_fetch, tmp_path)
    asked = [line for one in tmp_path.glob("asked-*") for line in one.read_text().splitlines()]
    assert sorted(map(int, asked)) == list(range(NUM_LINES))


def test_commands_of_different_settings_that_start_together(tmp_path: Path):
    """fails when two commands with different settings both begin to write one file of answers"""
    _run_together(_settle, tmp_path)
    winner = json.loads((tmp_path / "a.jsonl.settings.json").read_text())["temperature"]
    refused = {int(one.name[-1]): one.read_text() for one in tmp_path.glob("refused-*")}
    assert all("made with a different temperature" in text for text in refused.values())
    assert set(refused) == {n for n in range(NUM_PROCESSES) if n % 2 != winner}


def test_a_damaged_reply_is_asked_again(tmp_path: Path):
    """fails when a cached reply that a disk damaged ends the command, or is used"""
    cache = ReplyCache(tmp_path)
    cache.fetch("ab12", {}, lambda: Reply("8 9"))
    (file,) = tmp_path.rglob("*.json")
    for damage in ("", "{", '{"reply": {"content": 3}}', '{"reply": {"text": "8 9"}}', "[]"):
        file.write_text(damage)
        assert cache.get("ab12") is None
        assert cache.fetch("ab12", {}, lambda: Reply("7 7")) == (Reply("7 7"), False)
        assert cache.fetch("ab12", {}, lambda: pytest.fail("asked again")) == (Reply("7 7"), True)


def test_files_of_another_program_are_kept(tmp_path: Path):
    """fails when a file that this command did not write is appended to or replaced"""
    path = tmp_path / "mine.jsonl"
    for text in ("notes\n", '{"a": 1}\n', '{"question_id": 1}\n[1]\n'):
        path.write_text(text)
        with pytest.raises(DataError, match="choose another --out"):
            JsonLinesFile(path, ("question_id",)).rewrite(lambda rows: rows)
        assert path.read_text() == text
    JsonLinesFile(path, ("question_id",)).rewrite(lambda rows: rows, skip_others=True)
    assert path.read_text() == '{"question_id": 1}\n'
