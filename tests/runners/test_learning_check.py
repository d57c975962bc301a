"""A run whose gradient stays exactly zero ends with the reason; a run that can learn does not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from chatbridge.common.errors import TrainingError
from chatbridge.common.types import Batch
from tests.helpers.tiny_parts import TinyModel, batch_of, rows
from tests.helpers.tiny_run import tiny_runner


class _Fixed:
    """Steps of one batch each: repeats the modalities in `content`; None is text-only."""

    def __init__(self, *content: str | None) -> None:
        self.content = content

    def __call__(self, start: int, stop: int) -> Iterator[list[Batch]]:
        for step in range(start, stop):
            yield [batch_of(rows(step, 120, self.content[step % len(self.content)]))]


def _bridges_only() -> TinyModel:
    model = TinyModel()
    model.output.requires_grad_(False)
    return model


def test_a_run_that_cannot_learn_ends_with_the_reason(tmp_path):
    """fails when a text-only run whose loss depends on no trainable part runs for days"""
    runner = tiny_runner(tmp_path, model=_bridges_only(), loader=_Fixed(None), accumulate=1, max_steps=50)
    with pytest.raises(TrainingError, match=r"(?s)step 10: .*exactly zero.*none of the 1,200.*has media") as error:
        runner.train()
    assert "any trainable part (bridges.audio, bridges.image). Add a source" in str(error.value)
    short = tiny_runner(tmp_path / "short", model=_bridges_only(), loader=_Fixed(None), accumulate=1, max_steps=3)
    with pytest.raises(TrainingError, match="step 3: .*in all 3 steps"):
        short.train()


def test_media_without_a_trainable_part_are_named(tmp_path):
    """fails when the reason is missing media although there are media, only not of the trainable bridge"""
    model = _bridges_only()
    model.bridges["image"].requires_grad_(False)
    runner = tiny_runner(tmp_path, model=model, loader=_Fixed("image"), accumulate=1, max_steps=50)
    with pytest.raises(
        TrainingError, match=r"have image, but the loss does not depend on any trainable part \(bridges.audio"
    ):
        runner.train()


def test_a_run_may_begin_with_text_only_steps(tmp_path):
    """fails when ten steps without media, or a source that has not been sampled yet, end a run that can learn"""
    texts: list[str | None] = [None] * 12
    late = tiny_runner(tmp_path / "late", model=_bridges_only(), loader=_Fixed(*texts, "image"), accumulate=1,
                       max_steps=13)  # fmt: skip
    late.state = late.state.__class__(step=0, seed=1, global_batch=8, sizes={"text": 9, "image": 1})
    assert late.train() == 0
    few = tiny_runner(tmp_path / "few", model=_bridges_only(), loader=_Fixed(None, None, "audio"), accumulate=1)
    assert few.train() == 0
    stopped = tiny_runner(tmp_path / "stopped", model=_bridges_only(), loader=_Fixed(None, None, "audio"),
                          accumulate=1, stop_at=2)  # fmt: skip
    assert stopped.train() == 0  # at the end of this process, not of the run
