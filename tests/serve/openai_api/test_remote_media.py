"""Addresses in requests, through the server and the system's own resolver."""

from __future__ import annotations

import pytest

from chatbridge.serve.engine import ChatEngine
from chatbridge.serve.media_sources import SourceLimits
from tests.helpers.api_server import InProcess, question
from tests.helpers.media_files import image_bytes
from tests.helpers.media_server import media_server


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "127.1", "2130706433", "0"])
def test_services_of_this_machine_are_not_asked(chat_engine: ChatEngine, host: str):
    """fails when --allow-remote lets a request reach what listens on the server's own machine"""
    api = InProcess(chat_engine, allow_remote=True, sources=SourceLimits(ports=()))
    with media_server() as inside:
        inside.add("/a.png", image_bytes("PNG"), "image/png")
        reply = api.chat(question("a", image=f"http://{host}:{inside.port}/a.png?key=geheim"), max_tokens=1)
        assert reply.status_code == 403, reply.text
        error = reply.json()["error"]
        assert (error["param"], error["code"]) == ("messages.0.content.0", "media_not_allowed")
        assert "geheim" not in reply.text
        assert inside.asked == []


def test_an_image_of_a_public_host_is_answered(chat_engine: ChatEngine, monkeypatch: pytest.MonkeyPatch):
    """fails when a downloaded image is not what the model gets"""
    with media_server() as outside:
        outside.add("/a.png", image_bytes("PNG"), "image/png")
        monkeypatch.setattr("chatbridge.serve.media_sources.checked_connection.Network", lambda: outside.network)
        api = InProcess(chat_engine, allow_remote=True)
        reply = api.chat(question("a", image="http://photos.example/a.png"), max_tokens=4)
        assert reply.status_code == 200, reply.text
        assert outside.asked == ["photos.example /a.png"]
        assert reply.json()["usage"]["prompt_tokens_details"]["media_tokens"] > 0
