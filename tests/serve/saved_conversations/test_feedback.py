"""Votes on answers, and what a training makes of them."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import numpy as np
import pytest
import torch

from chatbridge.conversation.messages import Media, Text
from chatbridge.datasets.builders.records import Records
from chatbridge.serve.engine import ChatEngine
from chatbridge.serve.saved_conversations.conversation_file import SaveError
from chatbridge.serve.saved_conversations.feedback import Feedback
from chatbridge.serve.session import ChatTurn, Session
from chatbridge.serve.uploads.upload_parts import Attachment, DecodedMedia
from tests.helpers.serve_parts import ChatWorld


@pytest.fixture(scope="module")
def session(engine: ChatEngine, world: ChatWorld) -> Session:
    first = ChatTurn("what color ?", (engine.attach(world.files["image"]),), "red", True, parts=(Text("red"),))
    return first, ChatTurn("and the size ?", (), "big", True, parts=(Text("big"),)), ChatTurn("?", problem="too long")


def lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_votes_are_trained_on(session, tmp_path: Path):
    """fails when a vote down is imitated, a better answer is not, or an answer that nobody voted on is supervised"""
    votes = Feedback(tmp_path / "votes.jsonl")
    votes.add("a", session, 1, is_good=True, about=["tiny"])
    votes.add("b", session, 0, is_good=False)
    votes.add("c", session, 1, is_good=False, better="small")
    source = Records(Records.Config(file=votes.file), "votes")
    up, better = (source.record(at, np.random.default_rng(0)).conversation for at in range(len(source)))
    assert [(one.text, one.is_supervised) for one in up if one.role == "assistant"] == [("red", False), ("big", True)]
    assert [(one.text, one.is_supervised) for one in better if one.role == "assistant"] == [
        ("red", False),
        ("small", True),
    ]
    assert Path(up[0].media[0].ref).is_relative_to(tmp_path / "votes.media") and Path(up[0].media[0].ref).exists()
    assert len(list((tmp_path / "votes.media").iterdir())) == 1  # equal files are stored once
    kept = [line["details"]["feedback"] for line in lines(votes.file)]
    assert [one["vote"] for one in kept] == ["up", "down", "down"] and kept[2]["answer"] == "big"


def test_a_vote_on_an_empty_answer_does_not_spoil_the_file(session, tmp_path: Path):
    """fails when one thumb makes a file of votes that no training reads"""
    votes = Feedback(tmp_path / "votes.jsonl")
    votes.add("a", session, 0, is_good=True)
    silent = (session[0], ChatTurn("and ?", (), "", True))
    for is_good in (True, False):
        with pytest.raises(SaveError, match="the answer is empty"):
            votes.add("b", silent, 1, is_good)
    votes.add("b", silent, 1, is_good=False, better="big")
    assert len(Records(Records.Config(file=votes.file), "votes")) == 2


def test_a_second_vote_replaces_the_first(session, tmp_path: Path):
    """fails when a changed mind counts twice, or another person's vote on an equal answer is replaced"""
    votes = Feedback(tmp_path / "votes.jsonl")
    votes.add("a", session, 0, is_good=True)
    votes.add("b", session, 0, is_good=True)
    votes.add("a", session, 0, is_good=False)
    assert [one["details"]["feedback"]["vote"] for one in lines(votes.file)] == ["up", "down"]
    assert votes.remove("a", session, 0) == "your vote was removed" and len(lines(votes.file)) == 1
    assert votes.remove("a", session, 0) == "there was no vote"


def test_a_torn_line_costs_one_vote(session, tmp_path: Path):
    """fails when a crash while a vote was written makes the file useless"""
    votes = Feedback(tmp_path / "votes.jsonl")
    votes.add("a", session, 0, is_good=True)
    whole = votes.file.read_text()
    votes.file.write_text(whole + whole[:40])
    votes.add("b", session, 0, is_good=True)
    assert len(lines(votes.file)) == 2 and len(Records(Records.Config(file=votes.file), "votes")) == 2


def test_mistakes_are_messages(session, tmp_path: Path):
    """fails when a vote on nothing is written, or a file of something else is appended to"""
    votes = Feedback(tmp_path / "votes.jsonl")
    for number in (2, 3, -1):
        with pytest.raises(SaveError, match="no answer to vote on"):
            votes.add("a", session, number, is_good=True)
    with pytest.raises(SaveError, match="vote against"):
        votes.add("a", session, 0, is_good=True, better="x")
    with pytest.raises(ValueError, match="name it votes.jsonl"):
        Feedback(tmp_path / "votes.csv")
    votes.file.write_text("name,vote\n")
    with pytest.raises(SaveError, match="line 1 is not a conversation"):
        votes.add("a", session, 0, is_good=True)


def _vote(file: Path, name: str, count: int) -> None:
    photo = Attachment(file.with_name("photo.jpg"), (Media("image", DecodedMedia(torch.zeros(1))),))
    session = (ChatTurn("what ?", (photo,), "red", True, parts=(Text("red"),)),)
    for at in range(count):
        Feedback(file).add(f"{name}-{at % 7}", session, 0, is_good=at % 2 == 0)


def test_many_processes_vote_at_once(tmp_path: Path):
    """fails when votes of processes that write at the same time are lost, torn or doubled, or a copy is incomplete"""
    (tmp_path / "photo.jpg").write_bytes(b"x" * 3_000_000)
    file, context = tmp_path / "votes.jsonl", multiprocessing.get_context("fork")
    voters = [context.Process(target=_vote, args=(file, f"p{at}", 14)) for at in range(4)]
    for one in voters:
        one.start()
    for one in voters:
        one.join(60)
    assert [one.exitcode for one in voters] == [0] * 4
    ids = [line["id"] for line in lines(file)]
    assert len(ids) == len(set(ids)) == 4 * 7
    (copy,) = (tmp_path / "votes.media").iterdir()
    assert copy.read_bytes() == (tmp_path / "photo.jpg").read_bytes()
