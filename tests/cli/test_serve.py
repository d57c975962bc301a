"""`chatbridge serve`: everything that is wrong is reported before the model is read."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from chatbridge.cli import serve
from chatbridge.common.errors import ConfigError
from tests.helpers.serve_parts import ChatWorld

pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")
KEY = "k" * 20


def problems(*arguments: str) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        serve.main(list(arguments))
    return {one.path: str(one) for one in caught.value.problems}


def test_all_mistakes_are_reported_at_once(chat_world: ChatWorld, tmp_path: Path):
    """Fails when a user has to correct flags one by one, or a flag is reported under another name."""
    keys = tmp_path / "keys.txt"
    keys.write_text("# for the lab\nshort\n")
    found = problems(
        "--cfg-path", str(chat_world.config), "--options", "evaluation.chat.max_mb=3", "--port", "99999",
        "--max-body-mb", "lots", "--media-root", str(tmp_path / "absent"), "--fetch-total-s", "0",
        "--api-key-file", str(keys),
    )  # fmt: skip
    expected = {"--port", "--max-body-mb", "--media-root", "--fetch-total-s", f"{keys}, line 2"}
    assert expected | {"evaluation.chat.max_mb"} == set(found)
    assert "at least 16" in found[f"{keys}, line 2"] and "secrets.token_urlsafe" in found[f"{keys}, line 2"]


def test_other_machines_need_a_key(chat_world: ChatWorld, monkeypatch: pytest.MonkeyPatch):
    """Fails when a server without a key listens to the network without being told to."""
    monkeypatch.delenv("CHATBRIDGE_API_KEY", raising=False)
    found = problems("--cfg-path", str(chat_world.config), "--host", "0.0.0.0")
    assert "--allow-anonymous" in found["--host"]


def test_check_prints_the_plan(chat_world: ChatWorld, capsys: pytest.CaptureFixture[str]):
    """Fails when --check starts a server, or reads the weights."""
    assert serve.main(["--cfg-path", str(chat_world.config), "--check", "--port", "0"]) == 0
    assert "language" in capsys.readouterr().out


@pytest.mark.slow
def test_a_server_is_asked_and_ended(chat_world: ChatWorld, tmp_path: Path):
    """Fails when the command does not serve, shows no address, or SIGTERM cuts an answer or ends with an error."""
    openai = pytest.importorskip("openai")
    keys = tmp_path / "keys.txt"
    keys.write_text(f"{KEY}\n")
    keys.chmod(0o600)
    with started("--cfg-path", str(chat_world.config), "--port", "0", "--api-key-file", str(keys)) as (process, lines):
        line = next(line for line in lines if "serving chat at " in line)
        address = line.split("serving chat at ")[1].strip()
        client = openai.OpenAI(base_url=address, api_key=KEY, max_retries=0)
        messages = [{"role": "user", "content": "what color is it ?"}]
        (model,) = client.models.list()
        text = client.chat.completions.create(model=model.id, messages=messages, max_tokens=200).choices[0].message
        stream = client.chat.completions.create(model=model.id, messages=messages, max_tokens=200, stream=True)
        first = next(iter(stream))
        process.send_signal(signal.SIGTERM)
        streamed = "".join(one.choices[0].delta.content or "" for one in [first, *stream] if one.choices)
        assert streamed == text.content
        assert process.wait(30) == 0
        assert "Traceback" not in "".join(lines)
        with pytest.raises(openai.APIConnectionError):
            client.models.list()


@pytest.mark.slow
def test_a_port_that_is_taken_is_reported(chat_world: ChatWorld):
    """Fails when a port in use ends in a traceback, or is noticed only after the model was read."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with started("--cfg-path", str(chat_world.config), "--port", str(port)) as (process, lines):
            text = "".join(lines)
            assert process.wait(60) == 2
    assert f"127.0.0.1:{port}: Address already in use" in text and "--port" in text and "Traceback" not in text


def test_processes_of_the_server_do_not_hold_its_port():
    """Fails when a server that was killed cannot be started again while a process that read files still ends."""
    from chatbridge.serve.openai_api.http_server import open_socket
    from chatbridge.serve.openai_api.settings import ServerSettings

    with open_socket(ServerSettings(port=0)) as listener:
        pid = os.fork()
        if not pid:
            os._exit(0 if listener.fileno() == -1 else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0 and listener.fileno() != -1


@contextmanager
def started(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], Iterable[str]]]:
    """A server in a process of its own, with the lines that it prints."""
    command = [sys.executable, "-m", "chatbridge", "serve", *arguments]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        yield process, process.stderr
    finally:
        process.kill()
        process.wait()


def test_a_certificate_without_its_key_is_refused(chat_world: ChatWorld, tmp_path: Path):
    """Fails when a server that should use TLS starts without it, or ends in a traceback."""
    file = tmp_path / "server.pem"
    file.write_text("no certificate")
    given = ("--cfg-path", str(chat_world.config), "--tls-certificate", str(file))
    assert "tls_key" in problems(*given)["--tls-certificate"]
    assert "cannot be used" in problems(*given, "--tls-key", str(file))["--tls-certificate"]
