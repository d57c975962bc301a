"""Images from a server that speaks OpenAI's images API: one on another machine, or a paid service."""

from __future__ import annotations

import base64
import binascii
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from threading import Thread
from typing import Annotated, Any
from urllib.parse import urlsplit

import torch
from torch import Tensor

from chatbridge.common.errors import MediaError, Problem, in_one_line
from chatbridge.common.extras import need
from chatbridge.config.constraints import Range, Unit
from chatbridge.models.generators.base import GENERATORS, Generator, GeneratorConfig, RenderError
from chatbridge.processors.image_file import read_image

PURPOSE = "images drawn by a server"
MOST_BYTES = 64_000_000  # of one image
MOST_PIXELS = 50_000_000
POLL_S = 0.2  # between two looks at whether the images are still wanted
NEXT_STEPS = {401: "check the key", 403: "the key has no access", 404: "check url and model"}
RESERVED = ("prompt", "n", "model", "size", "seed")  # of a request's body: other settings decide them


@GENERATORS.register("image_server")
class ImageServer(Generator):
    """Asks for each image at `POST {url}/images/generations`."""

    @dataclass(frozen=True, kw_only=True)
    class Config(GeneratorConfig):
        url: str  # address of the API, for example http://localhost:8000/v1
        model: str | None = None  # name of the model on the server; null: the server has one
        size: str | None = None  # WIDTHxHEIGHT, for example 1024x1024; null: the server's default
        # send the seed of each image, so that a caption and a seed give one image; OpenAI's own server refuses it
        seeded: bool = True
        # environment variable with the key; null: the server needs none. A key is never part of a configuration
        key_env: str | None = None
        body: dict[str, Any] = field(default_factory=dict)  # more of the request, for example {steps: 40}
        timeout_s: Annotated[float, Unit("seconds"), Range(above=0)] = 180.0  # longest silence of the server
        retries: Annotated[int, Range(low=0)] = 2  # further attempts when the server is busy or cannot be reached
        concurrency: Annotated[int, Range(low=1)] = 4  # requests at a time, when several images are asked for

        def problems(self) -> Iterator[Problem]:
            address = urlsplit(self.url)
            if address.scheme not in ("http", "https") or not address.hostname:
                hint = "for example http://localhost:8000/v1"
                yield Problem("url", f"is {self.url!r}, expected an http(s) address", hint=hint)
            elif address.username or address.password:
                hint = "put it into an environment variable, and the variable's name into key_env"
                yield Problem("url", "holds a password", hint=hint)
            if self.size is not None and not _is_size(self.size):
                yield Problem("size", f"is {self.size!r}, expected WIDTHxHEIGHT", hint="for example 1024x1024")
            for name in RESERVED:
                if name in self.body:
                    hint = "remove it" if name in ("prompt", "n", "seed") else f"set {name} beside body"
                    yield Problem(f"body.{name}", "is set by the request itself", hint=hint)

        def describe(self) -> str:
            return f"the server {self.url}" + (f", model {self.model}" if self.model else "")

        def faults(self) -> Iterator[str]:
            if self.key_env is not None and not os.environ.get(self.key_env, "").strip():
                yield f"the environment variable {self.key_env} (key_env) is not set; put the key of the server into it"

    config: Config

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self._httpx: Any = None
        self._openai: Any = None
        self._client: Any = None

    def load(self, device: torch.device, dtype: torch.dtype) -> str:
        """Prepare the client; the server is asked with the first image. raises ValueError without package or key"""
        config = self.config
        if faults := list(config.faults()):
            raise ValueError("; ".join(faults))
        try:
            self._httpx = need("httpx", PURPOSE)  # here and not in a thread: openai looks whether it is imported
            self._openai = need("openai", PURPOSE)
        except ModuleNotFoundError as error:
            raise ValueError(str(error)) from None
        key = os.environ.get(config.key_env, "").strip() if config.key_env else "none"
        self._client = self._openai.OpenAI(
            api_key=key, base_url=config.url, timeout=config.timeout_s, max_retries=config.retries
        )
        return f"generator: image_server, {config.describe()}"

    def render(self, captions: Sequence[str], seeds: Sequence[int]) -> list[Tensor]:
        """uint8[3, H, W] each, see `Generator.render`. raises RenderError with the server's reason"""
        if self._client is None:
            self.load(torch.device("cpu"), torch.float32)
        asked: list[Future[Tensor]] = [Future() for _ in captions]
        left = deque(zip(asked, captions, seeds, strict=True))
        for _ in range(min(self.config.concurrency, len(captions))):
            # not a pool: Python waits for its threads when it ends, also for a server that does not answer
            Thread(target=self._work, args=(left,), name="image_server", daemon=True).start()
        try:
            waiting = set(asked)
            while waiting:
                self.report(1 - len(waiting) / len(asked))  # a stop ends the waiting, not the server's work
                _, waiting = wait(waiting, timeout=POLL_S)
            self.report(1.0)
            return [one.result() for one in asked]
        finally:
            left.clear()

    def _work(self, left: deque[tuple[Future[Tensor], str, int]]) -> None:
        """Ask for images until none is left."""
        while True:
            try:
                result, caption, seed = left.popleft()
            except IndexError:
                return
            try:
                result.set_result(self._image(caption, seed))
            except BaseException as error:
                result.set_exception(error)

    def _image(self, caption: str, seed: int) -> Tensor:
        openai, config = self._openai, self.config
        named = {name: value for name in ("model", "size") if (value := getattr(config, name)) is not None}
        body = {**config.body, **({"seed": seed % 2**31} if config.seeded else {})}
        try:
            found = self._client.images.generate(prompt=caption, n=1, extra_body=body, **named)
        except openai.APIStatusError as error:
            step = f"; {advice}" if (advice := self._next_step(error)) else ""
            raise RenderError(
                f"{config.url} answered HTTP {error.status_code}: {in_one_line(error.message)}{step}"
            ) from None
        except openai.APITimeoutError:
            raise RenderError(f"{config.url} did not answer within {config.timeout_s:g} s (timeout_s)") from None
        except openai.APIConnectionError as error:
            raise RenderError(f"no connection to {config.url}: {in_one_line(error.__cause__ or error)}") from None
        except (openai.OpenAIError, ValueError) as error:  # a reply that is not JSON, for example
            raise RenderError(f"{config.url} answered something else than an image: {in_one_line(error)}") from None
        return decoded(self._content(found), config.url)

    def _next_step(self, error: Any) -> str | None:
        if error.status_code == 400 and self.config.seeded and "seed" in str(error.message).lower():
            return "set seeded: false"
        return NEXT_STEPS.get(error.status_code)

    def _content(self, found: Any) -> bytes:
        """The file in a reply: base64, or an address to fetch it from."""
        data = getattr(found, "data", None) or [None]
        text, address = getattr(data[0], "b64_json", None), getattr(data[0], "url", None)
        if isinstance(text, str) and text:
            return self._unpacked(text)
        if isinstance(address, str) and address:
            return self._fetched(address)
        raise RenderError(f"{self.config.url} answered without an image (neither b64_json nor url)")

    def _unpacked(self, text: str) -> bytes:
        """The file in base64 text."""
        if len(text) > MOST_BYTES * 4 / 3:
            raise RenderError(f"{self.config.url} sent an image of more than {MOST_BYTES // 10**6} MB")
        try:
            return base64.b64decode(text)
        except (binascii.Error, ValueError):
            raise RenderError(f"{self.config.url} sent base64 that is damaged") from None

    def _fetched(self, address: str) -> bytes:
        if address.startswith("data:"):
            return self._unpacked(address.partition(",")[2])
        if urlsplit(address).scheme not in ("http", "https"):
            raise RenderError(
                f"{self.config.url} answered with the address {in_one_line(address)}, which is not http(s)"
            )
        httpx, content = self._httpx, bytearray()
        try:
            with httpx.stream("GET", address, timeout=self.config.timeout_s, follow_redirects=True) as reply:
                reply.raise_for_status()
                for piece in reply.iter_bytes():
                    content += piece
                    if len(content) > MOST_BYTES:
                        raise RenderError(f"{in_one_line(address)} has more than {MOST_BYTES // 10**6} MB")
        except httpx.HTTPError as error:
            raise RenderError(f"the image at {in_one_line(address)} cannot be fetched: {in_one_line(error)}") from None
        return bytes(content)


def decoded(content: bytes, server: str) -> Tensor:
    """The image of a file, uint8[3, H, W]. raises RenderError when it cannot be read"""
    try:
        pixels = read_image(content, MOST_PIXELS)  # [H, W, 3]
    except MediaError as error:
        reason = in_one_line(error).removesuffix(" (data.media.max_pixels)")  # this limit is not a setting
        raise RenderError(f"{server} sent {len(content)} bytes that are not an image: {reason}") from None
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def _is_size(size: str) -> bool:
    width, _, height = size.partition("x")
    return width.isdigit() and height.isdigit() and int(width) > 0 and int(height) > 0
