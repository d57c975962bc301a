"""The generator `image_server` against a local server: requests, replies of both kinds, and refusals."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
import torch

from chatbridge.models.generators import RenderError, RenderStopped, watching
from chatbridge.models.generators.image_server import ImageServer
from tests.helpers.image_server import color_of, image_server

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def local(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def generator(url: str, **settings: Any) -> ImageServer:
    made = ImageServer(ImageServer.Config(**{"url": url, "retries": 0, **settings}))
    assert list(made.config.problems()) == []
    made.load(CPU, torch.float32)
    return made


@pytest.mark.parametrize("form", ["b64", "url", "data"])
def test_each_caption_gets_its_image(form):
    """fails when captions and images are mixed up, an image is not read, or a setting does not reach the server"""
    with image_server(behave=lambda number, body: form) as server:
        made = generator(server.url, model="painter", size="6x4", body={"steps": 40})
        images = made.render(["a cat", "a fox", "a tree"], [1, 2, 2**40 + 3])
    for image, caption, seed in zip(images, ["a cat", "a fox", "a tree"], [1, 2, 3], strict=True):
        assert image.dtype == torch.uint8 and image.shape == (3, 4, 6)
        assert tuple(image[:, 0, 0].tolist()) == color_of({"prompt": caption, "seed": seed})
    assert {one["path"] for one in server.requests} == {"/v1/images/generations"}
    assert all(
        (one["model"], one["size"], one["steps"], one["n"]) == ("painter", "6x4", 40, 1) for one in server.requests
    )


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        ("none", "without an image"), ("junk", "are not an image"), ("torn", "base64 that is damaged"),
        ("html", "something else|without an image"),
        ("hang", "did not answer within 0.5 s"), (401, "HTTP 401.*check the key"), (400, "set seeded: false"),
        (500, "HTTP 500"),
    ],
)  # fmt: skip
def test_a_server_that_gives_no_image_names_the_reason(behaviour, reason):
    """fails when a refusal, a page or a silence ends in a traceback or an endless wait"""
    with image_server(behave=lambda number, body: behaviour) as server, pytest.raises(RenderError, match=reason):
        generator(server.url, timeout_s=0.5).render(["a cat"], [1])


def test_waiting_for_a_server_can_be_stopped():
    """fails when a stop, or the end of the program, waits for a server that does not answer"""
    found: list[threading.Thread] = []

    def stop(share: float) -> None:
        found.extend(one for one in threading.enumerate() if one.name == "image_server")
        raise RenderStopped

    begun = time.monotonic()
    with image_server(behave=lambda number, body: "hang") as server, watching(stop), pytest.raises(RenderStopped):
        generator(server.url).render(["a cat"], [1])
    assert time.monotonic() - begun < 15
    assert len(found) == 1 and found[0].daemon


def test_a_busy_server_is_asked_again():
    """fails when one refusal of a busy server costs the image, or nobody listens and the error does not say so"""
    with image_server(behave=lambda number, body: 503 if number == 0 else "b64") as server:
        assert len(generator(server.url, retries=1).render(["a cat"], [1])) == 1
        assert len(server.requests) == 2
    with pytest.raises(RenderError, match="no connection"):
        generator(server.url).render(["a cat"], [1])


def test_the_key_comes_from_the_environment(monkeypatch):
    """fails when a key is not sent, or its absence is noticed only with the first image"""
    monkeypatch.setenv("PAINTER_KEY", "sk-secret")
    with image_server() as server:
        made = generator(server.url, key_env="PAINTER_KEY", seeded=False)
        made.render(["a cat"], [1])
        assert server.keys == ["Bearer sk-secret"] and "seed" not in server.requests[0]
    monkeypatch.delenv("PAINTER_KEY")
    with pytest.raises(ValueError, match="PAINTER_KEY"):
        generator(server.url, key_env="PAINTER_KEY")


def test_settings_that_cannot_work_are_problems():
    """fails when a wrong address or size is noticed only by the server, or a password may be in a configuration"""
    config = ImageServer.Config(url="localhost:8000", size="big", body={"prompt": "x", "size": "1x1"})
    assert [one.path for one in config.problems()] == ["url", "size", "body.prompt", "body.size"]
    (found,) = ImageServer.Config(url="http://me:secret@there/v1").problems()
    assert "password" in found.message
