"""A generator whose steps a test allows one by one, and answers that a test dictates."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from chatbridge.models.generators import Generator
from chatbridge.serve.engine import ChatEngine


class SlowGenerator(Generator):
    """Renders in steps, each of which the test allows; `fault` is raised in place of an image."""

    def __init__(self) -> None:
        super().__init__(None)
        self.steps = threading.Semaphore(0)
        self.begun, self.num_steps, self.num_done = threading.Event(), 4, 0
        self.fault: Exception | None = None
        self.is_over = False

    def render(self, captions: Sequence[str], seeds: Sequence[int]) -> list[Tensor]:
        self.begun.set()
        try:
            for step in range(self.num_steps):
                assert self.steps.acquire(timeout=20)
                self.report((step + 1) / self.num_steps)
                self.num_done += 1
        finally:
            self.is_over = True
        if self.fault is not None:
            raise self.fault
        return [torch.full((3, 8, 8), 200, dtype=torch.uint8) for _ in captions]

    def allow(self, count: int) -> None:
        for _ in range(count):
            self.steps.release()


def dictate(engine: ChatEngine, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Let the next answer begin with this text, from an empty cache; what follows is the model's own."""
    engine.prompt_cache.forget()
    language, left = engine.model.language, list(engine.layout.tokenizer.encode(text))

    def logits(hidden: Tensor) -> Tensor:
        found = type(language).logits(language, hidden)
        if left:
            found = torch.full_like(found, -100.0)
            found[:, left.pop(0)] = 100.0
        return found

    monkeypatch.setattr(language, "logits", logits)
