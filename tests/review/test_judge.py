"""`chatbridge review judge` against a local server that misbehaves in every way that servers do."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from chatbridge import __main__ as commands
from chatbridge.cli.review.client_options import OPENAI
from chatbridge.common.environment import hidden_output
from chatbridge.common.errors import ConfigError, DataError
from chatbridge.review.judge_client import JudgeUnusable, retry_after_s
from chatbridge.review.rate_limit import RateLimit
from tests.helpers.judge_server import judge_server
from tests.helpers.review_files import ReviewWorld


def reviews(world: ReviewWorld) -> list[dict[str, Any]]:
    return [json.loads(line) for line in world.path("reviews").read_text().splitlines()]


def test_a_review_from_end_to_end(world: ReviewWorld, capsys: pytest.CaptureFixture):
    """fails when a request, a field of a review, the order, the cost, or the key's secrecy is wrong, or a second run
    asks again"""
    with judge_server() as server:
        given = world.command(server.url, "--price", "10", "30")
        assert commands.main(given) == 0
        assert "6 replies requested, 0 from the cache; 600 prompt and 60 completion tokens, $0.0078" in (
            capsys.readouterr().out
        )
        rows, asked = reviews(world), len(server.requests)
        assert commands.main(given) == 0 and len(server.requests) == asked == 6
        assert commands.main([*given, "--out", str(world.path("again"))]) == 0 and len(server.requests) == 6
        assert "0 replies requested, 6 from the cache; 0 prompt" in capsys.readouterr().out
    assert [row["id"] for row in rows] == [1, 2, 3, 4, 5, 6]
    wanted = {"id": 3, "question_id": 2, "answer1_id": 2, "answer2_id": "id2", "category": "conv",
              "content": "8 9\nThe second is better.", "tuple": [8.0, 9.0]}  # fmt: skip
    assert list(rows[2])[:7] == list(wanted) and {name: rows[2][name] for name in wanted} == wanted
    assert rows[2]["usage"] == {"prompt_tokens": 100, "completion_tokens": 10} and rows[2]["judge"] == "judge-1"
    body = next(one for one in server.requests if "question 2" in one["messages"][1]["content"])
    assert body["model"] == "judge-1" and body["temperature"] == 0.2 and body["max_tokens"] == 1024
    assert body["messages"][0]["role"] == "system" and body["messages"][1]["content"].startswith("[Context]\ncaption 1")
    assert all(one["authorization"] == "Bearer sk-very-secret-key" for one in server.headers)
    written = "".join(path.read_text() for path in world.folder.rglob("*") if path.is_file())
    assert "very-secret" not in written


def test_failures_that_pass_are_tried_again(world: ReviewWorld, capsys: pytest.CaptureFixture):
    """fails when a time-out, 429, 500, cut connection, HTML page or empty reply ends the review, or loses a case"""
    failures: list[Any] = ["!hang", (429, {"Retry-After": "0.3"}), (500, {}), "!cut", "8 9", "!html", "!json",
                           "8 9", "!empty", (503, {}), (408, {})]  # fmt: skip
    with judge_server(behave=lambda n, body: failures[n] if n < len(failures) else "8 9") as server:
        given = world.command(server.url, "--timeout", "0.3", "--retries", "4", "--threads", "1")
        assert commands.main(given) == 0
        waited = server.times[2] - server.times[1]
    assert [row["tuple"] for row in reviews(world)] == [[8.0, 9.0]] * 6 and len(server.requests) == 4 + len(failures)
    assert waited >= 0.3
    errors = capsys.readouterr().err
    for text in ("did not answer within 0.3 s", "HTTP 429: ", "next attempt in 0.3 s", "HTTP 500", "no connection to",
                 "something else than a chat completion"):  # fmt: skip
        assert text in errors


def test_nonsense_is_counted_and_asked_again_on_demand(world: ReviewWorld, capsys: pytest.CaptureFixture):
    """fails when a reply without scores is dropped, hidden or averaged, or --retry-unreadable does not ask again"""
    nonsense = iter(["I am a teapot.", "!nothing", "9, 8"])
    with judge_server(behave=lambda n, body: next(nonsense, "8 9"), usage=False) as server:
        given = world.command(server.url, "--threads", "1")
        assert commands.main(given) == 0
        out = capsys.readouterr().out
        assert "unreadable scores: 3 strictly, 2 tolerantly" in out and "6 replies came without counts" in out
        assert [row["tuple"] for row in reviews(world)[:3]] == [[-1.0, -1.0]] * 3
        assert [row["scores"] for row in reviews(world)[:3]] == [None, None, [9.0, 8.0]]
        assert commands.main([*given, "--retry-unreadable"]) == 0 and len(server.requests) == 8
    assert [row["scores"] for row in reviews(world)[:3]] == [[8.0, 9.0], [8.0, 9.0], [9.0, 8.0]]


def test_a_refused_request_fails_alone(world: ReviewWorld, capsys: pytest.CaptureFixture):
    """fails when one request that the server refuses is repeated, ends the command, or is lost silently"""
    with judge_server(behave=lambda n, body: (400, {}) if "question 3" in str(body["messages"]) else "8 9") as server:
        assert commands.main(world.command(server.url)) == 1
        assert len(server.requests) == 6
        assert "question 3 has no review: the judge answered HTTP 400" in capsys.readouterr().err
        assert [row["question_id"] for row in reviews(world)] == [0, 1, 2, 4, 5]
        server.behave = lambda n, body: "7 7"
        assert commands.main(world.command(server.url)) == 0 and len(server.requests) == 7
    assert reviews(world)[3]["tuple"] == [7.0, 7.0]


@pytest.mark.parametrize(
    ("status", "headers", "message"),
    [
        (401, {}, "HTTP 401.*check the key"),
        (404, {}, "HTTP 404.*check --model"),
        (429, {"code": "insufficient_quota"}, "no quota left"),
        (429, {"Retry-After": "3600"}, "asks to wait 3600 s, longer than 300 s"),
    ],
)
def test_what_no_waiting_mends_ends_the_command(
    status: int, headers: dict[str, str], message: str, world: ReviewWorld, capsys: pytest.CaptureFixture
):
    """fails when a wrong key, model, address or an empty account is retried, or ends in a traceback"""
    with judge_server(behave=lambda n, body: (status, dict(headers))) as server:
        with pytest.raises(JudgeUnusable, match=message):
            commands.main(world.command(server.url, "--threads", "1"))
        assert len(server.requests) == 1


def test_a_server_that_repeats_the_key_does_not_publish_it(world: ReviewWorld, capsys: pytest.CaptureFixture):
    """fails when the key is printed because the message of a server contains it"""
    with judge_server(behave=lambda n, body: (400, {"code": "sk-very-secret-key"})) as server, hidden_output():
        commands.main(world.command(server.url, "--num-chunks", "6"))
    shown = capsys.readouterr().err
    assert "${oc.env:OPENAI_API_KEY}" in shown and "very-secret" not in shown


def test_a_server_that_is_gone_ends_the_command(world: ReviewWorld):
    """fails when every question of a long file waits for a server that does not exist"""
    with pytest.raises(DataError, match="5 requests in a row failed.*no connection to http://127.0.0.1:9"):
        commands.main(world.command("http://127.0.0.1:9/v1", "--retries", "1", "--first-wait", "0.01"))


def test_the_budget_is_kept(world: ReviewWorld):
    """fails when requests go on after the budget is spent, or their reviews are lost"""
    with judge_server() as server:
        given = world.command(server.url, "--price", "10000", "0", "--budget", "2", "--threads", "1")
        with pytest.raises(DataError, match=r"budget of \$2 is spent"):
            commands.main(given)
        assert len(server.requests) == 2 and len(reviews(world)) == 2


def test_reviews_of_other_settings_are_never_mixed(world: ReviewWorld):
    """fails when reviews of a different judge, answer or rule are kept as if they were of this command"""
    with judge_server() as server:
        given = world.command(server.url)
        commands.main(given)
        with pytest.raises(
            DataError, match="holds 6 reviews of other questions, answers or rules, or of another judge"
        ):
            commands.main([*given, "--model", "judge-2"])
        world.write("two", [{**world.answer(n), "text": "changed" if n == 4 else f"answer two {n}"} for n in range(6)])
        with pytest.raises(DataError, match=r"holds 1 reviews .*\(question 4\)"):
            commands.main(given)
        assert commands.main([*given, "--overwrite"]) == 0 and len(server.requests) == 7
        world.path("reviews").write_text("mine\n")
        with pytest.raises(DataError, match="line 1 is not a JSON object; choose another --out"):
            commands.main(given)
        assert world.path("reviews").read_text() == "mine\n"
        assert commands.main([*given, "--overwrite"]) == 0 and len(reviews(world)) == 6


def test_a_killed_chunk_resumes(world: ReviewWorld):
    """fails when chunks in one file disturb each other, a torn line is kept or loses its neighbour, or a case is asked
    twice"""
    with judge_server() as server:
        given = world.command(server.url, "--num-chunks", "2", "--chunk-idx")
        assert commands.main([*given, "1"]) == 0 and [row["id"] for row in reviews(world)] == [4, 5, 6]
        assert commands.main([*given, "0"]) == 0
        whole, text = reviews(world), world.path("reviews").read_text()
        assert [row["id"] for row in whole] == [1, 2, 3, 4, 5, 6]
        world.path("reviews").write_text(text[: -len(text) // 6 - 40])  # the last lines are lost, one is torn
        assert commands.main([*given, "1"]) == 0
        assert reviews(world) == whole and len(server.requests) == 6
        assert commands.main([*given, "1", "--overwrite", "--fresh"]) == 0
        assert reviews(world) == whole and len(server.requests) == 9


def test_the_plan_asks_nothing_and_needs_no_key(
    world: ReviewWorld, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    """fails when --check requests, needs a key, or hides the request and its cost"""
    monkeypatch.delenv("OPENAI_API_KEY")
    assert commands.main(world.command("https://judge.example/v1", "--check", "--price", "10", "30")) == 0
    out = capsys.readouterr().out
    assert "6 to do, 0 of them from the cache" in out and "at most $0.1" in out and "[End of Assistant 2]" in out
    assert not world.path("reviews").exists()
    with pytest.raises(DataError, match="variable OPENAI_API_KEY is not set"):
        commands.main(world.command(OPENAI))


def test_mistakes_of_options_are_reported_together(world: ReviewWorld):
    """fails when an address with a key in it, a budget without a price or a broken parameter passes"""
    given = world.command(
        "https://me:key@judge.example/v1/chat/completions",
        "--budget",
        "3",
        "--parameter",
        "n=3",
        "x",
        "seed=2020-01-01",
        "temperature=.nan",
    )
    with pytest.raises(ConfigError) as caught:
        commands.main(given)
    text = str(caught.value)
    assert (
        text.startswith("7 problems")
        and text.count("cannot be sent as JSON") == 2
        and "ends in /chat/completions" in text
    )
    assert "needs --price" in text and "user, a password" in text and "got 'n=3'" in text and "got 'x'" in text
    world.path("context").unlink()
    (world.folder / "rules.json").unlink()
    with pytest.raises(ConfigError, match=r"(?s)2 problems.*--context.*context.jsonl.*--rules.*rules.json"):
        commands.main(world.command("http://a.example"))


def test_files_that_are_read_are_kept(world: ReviewWorld):
    """fails when --out overwrites an input"""
    with pytest.raises(DataError, match="is a file that the command reads"):
        commands.main(world.command("http://a.example", "--out", str(world.path("two"))))


def test_parameters_replace_those_of_the_request(world: ReviewWorld):
    """fails when newer models, which refuse max_tokens and temperature, cannot be asked"""
    with judge_server() as server:
        commands.main(world.command(server.url, "--parameter", "max_tokens=null", "max_completion_tokens=5",
                                    "temperature=null", "--system", "Be fair."))  # fmt: skip
    body = server.requests[0]
    assert body["max_completion_tokens"] == 5 and not {"max_tokens", "temperature"} & set(body)
    assert body["messages"][0]["content"] == "Be fair."


def test_retry_after_may_be_a_date():
    """fails when a date, a negative number or nonsense in Retry-After is read wrongly"""
    now = datetime(2025, 1, 1, tzinfo=UTC)
    assert retry_after_s(format_datetime(now + timedelta(seconds=90)), now) == 90
    assert [retry_after_s(value, now) for value in ("2.5", "-3", "soon", "nan", None)] == [2.5, 0.0, None, None, None]


def test_requests_are_spaced(tmp_path: Path):
    """fails when requests start closer than the limit allows, or a file of another clock or a damaged one blocks"""
    now = [1000.0]
    pace = RateLimit(tmp_path / "pace.json", 120, clock=lambda: now[0])
    assert [pace.reserve() for _ in range(3)] == [1000.0, 1000.5, 1001.0]
    now[0] = 2000.0
    assert pace.reserve() == 2000.0
    (tmp_path / "pace.json").write_text('{"next": 1e12}')
    assert pace.reserve() == 2000.0
    (tmp_path / "pace.json").write_text("{torn")
    assert pace.reserve() == 2000.0
    stop = Event()
    stop.set()
    start = time.monotonic()
    pace.wait(stop)  # the next slot, which nobody waits for
    assert time.monotonic() - start < 0.4
