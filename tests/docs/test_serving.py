"""docs/serving.md and docs/chat.md: parameters, paths, arguments, keys and counters are those of the program."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from chatbridge.cli import chat, demo, serve
from chatbridge.config.schema import parse
from chatbridge.processors.limits import ChatLimits
from chatbridge.serve.demo.controls import controls_of
from chatbridge.serve.media_sources import SourceLimits
from chatbridge.serve.openai_api import app, metrics
from chatbridge.serve.openai_api.api_keys import SHORTEST
from chatbridge.serve.openai_api.parameters import ACCEPTED, MOST_STOPS, ONLY, WITHOUT_EFFECT
from chatbridge.serve.openai_api.settings import ServerSettings
from chatbridge.serve.request import MOST_TOP_LOGPROBS
from chatbridge.tasks.config import EvaluationConfig

DOCS = Path(__file__).parents[2] / "docs"
SERVING = (DOCS / "serving.md").read_text(encoding="utf-8")
CHAT = (DOCS / "chat.md").read_text(encoding="utf-8")


def rows(text: str, head: str) -> list[list[str]]:
    """The cells of the table whose head begins with `head`."""
    table = text.split(f"| {head} |")[1].split("\n\n")[0]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines()[2:]]


def codes(text: str) -> set[str]:
    return set(re.findall(r"`([^`]+)`", text))


def test_every_parameter_of_a_request_is_explained():
    """fails when the server accepts a parameter that is not in the table, or the table has one that is refused"""
    assert set().union(*(codes(row[0]) for row in rows(SERVING, "parameter"))) == set(ACCEPTED)
    line = next(one for one in SERVING.splitlines() if one.endswith("have no effect."))
    assert codes(line) == set(WITHOUT_EFFECT)
    assert {"tools", "frequency_penalty", "response_format"} <= set(ONLY)
    assert f"up to {MOST_STOPS} " in SERVING and f"up to {MOST_TOP_LOGPROBS} " in SERVING


def test_every_path_is_in_the_table():
    """fails when the server has a path that is not in the table, or the table one that is gone"""
    text = " ".join(cell for row in rows(SERVING, "path") for cell in codes(row[0]))
    assert set(re.findall(r"/[a-z/0-9]+[a-z]", text)) == set(app.PATHS)


def test_every_setting_of_the_server_is_named_with_its_default():
    """fails when an argument of the server is on no page, or its default in a table is another one"""
    named = set(re.findall(r"--([a-z-]+)", SERVING))
    flags = {one.name.replace("_", "-") for one in fields(ServerSettings) if one.name != "sources"}
    flags = {f"no-{one}" if one == "log-requests" else one for one in flags}
    assert flags - {"host", "port"} <= named
    assert {f"fetch-{one.name.replace('_', '-')}" for one in fields(SourceLimits)} <= named
    for row in [*rows(SERVING, "argument"), *rows(SERVING, "limit")]:
        names = [one.removeprefix("--").replace("-", "_") for one in codes(row[0])]
        for name in names:
            owner = SourceLimits() if name.startswith("fetch_") else ServerSettings()
            value = getattr(owner, name.removeprefix("fetch_"))
            for number in value if isinstance(value, tuple) else (value,):
                assert re.search(rf"\b{number:g}\b", row[1]), (name, number, row[1])
    assert f"at least {SHORTEST} characters" in SERVING


def test_every_limit_of_a_chat_is_in_a_table():
    """fails when a key of evaluation.chat is not explained, or the example has another default"""
    named = set().union(*(codes(row[0]) for row in rows(SERVING, "key of `evaluation.chat`")))
    assert named == {one.name for one in fields(ChatLimits)}
    (block,) = re.findall(r"^```yaml\n(.*?)^```", SERVING, re.M | re.S)
    found = parse(EvaluationConfig, yaml.safe_load(block)["evaluation"], path="evaluation")
    assert found.chat == ChatLimits(), "the example shows the defaults"


def test_every_counter_is_in_the_table():
    """fails when /metrics has a counter of its own that is not in the table"""
    made = set(re.findall(r'"(chatbridge_[a-z_]+)"', Path(metrics.__file__).read_text(encoding="utf-8")))
    shown = {re.sub(r"(_total)?(\{.*)?$", "", one) for row in rows(SERVING, "name") for one in codes(row[0])}
    assert made == shown - {"chatbridge_engine_*"}


@pytest.mark.parametrize(("command", "head"), [(demo, "## The demo"), (chat, "## The terminal")])
def test_every_argument_of_demo_and_chat_is_explained(command, head: str, capsys: pytest.CaptureFixture[str]):
    """fails when the command has an argument that its section does not name, or the section one that is gone"""
    with pytest.raises(SystemExit):
        command.main(["--help"])
    has = set(re.findall(r"--[a-z][a-z-]+", capsys.readouterr().out.split("\noptions:")[1])) - {"--help"}
    section = CHAT.split(head)[1].split("\n## ")[0]
    table = section.split("| argument |")[1].split("\n\n")[0]
    named = {flag for line in table.splitlines() for flag in re.findall(r"--[a-z][a-z-]+", line)}
    shared = {"--cfg-path", "--checkpoint", "--options", "--gpu-id", "--check"}
    assert has - shared == named - shared


def test_every_control_of_the_demo_is_named():
    """fails when a decoding control is not in the row of the page's table"""
    (row,) = (row for row in rows(CHAT, "on the page") if row[0] == "Decoding")
    text = row[1].lower()
    assert [one.label for one in controls_of(EvaluationConfig().generation) if one.label.lower() not in text
            and one.name not in ("min_tokens", "max_tokens", "repetition_penalty", "length_penalty")] == []  # fmt: skip


def test_the_serve_command_has_help(capsys: pytest.CaptureFixture[str]):
    """fails when the arguments of vLLM or of media leave the command"""
    with pytest.raises(SystemExit):
        serve.main(["--help"])
    text = capsys.readouterr().out
    assert all(flag in text for flag in ("--vllm-url", "--fetch-hosts", "--media-root", "--api-key-file"))
