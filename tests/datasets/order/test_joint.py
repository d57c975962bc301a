"""Joint streams: all of them in every step, one per micro-batch, each in its own order."""

from __future__ import annotations

from typing import Any

import pytest

from chatbridge.common.errors import ConfigError
from chatbridge.config.schema import parse
from chatbridge.datasets.batching import Batching, MicroBatchDraws
from chatbridge.datasets.build_mixture import build_mixture, steps_of_epochs
from chatbridge.datasets.config import DataConfig
from chatbridge.datasets.order.joint import JointMixture
from chatbridge.datasets.order.mixture import Mixture

VISUAL, LANGUAGE = {"llava": range(50), "coco": range(30)}, {"dolly": range(20), "alpaca": range(7)}


def stream(name: str, sources: dict[str, range], batch: int = 8, seed: int = 3) -> Mixture[range]:
    return Mixture(sources, {one: len(sources[one]) for one in sources}, seed, batch, stream=name)


def joint(**batches: int) -> JointMixture[range]:
    streams = {"visual": stream("visual", VISUAL, batches.get("visual", 8)),
               "language": stream("language", LANGUAGE, batches.get("language", 8))}  # fmt: skip
    return JointMixture(streams, "visual")


def micros(mixture: Mixture[range], step: int, rank: int = 0, world: int = 1, accumulate: int = 4) -> list[Any]:
    return MicroBatchDraws(mixture, None, 3, Batching(), rank, world, accumulate)(step)


def test_streams_take_turns_and_never_share_a_micro_batch():
    """fails when a step lacks a stream, or a micro-batch holds two"""
    found = micros(joint(language=4), 5)
    assert [name for name, _ in found] == ["visual", "language"] * 4
    assert [len(draws) for _, draws in found] == [2, 1] * 4
    for name, draws in found:
        assert {draw.source for draw in draws} <= {"visual": VISUAL, "language": LANGUAGE}[name].keys()


@pytest.mark.parametrize(("world", "accumulate"), [(1, 4), (2, 2), (4, 1)])
def test_a_step_is_the_same_for_any_split_over_ranks(world, accumulate):
    """fails when ranks or micro-batches change which conversations a step has of a stream"""
    whole = {name: part.draws(11) for name, part in joint().streams.items()}
    found: dict[str, list[Any]] = {"visual": [], "language": []}
    ranks = [micros(joint(), 11, rank, world, accumulate) for rank in range(world)]
    for number in range(2 * accumulate):
        for own in ranks:
            name, draws = own[number]
            found[name] += draws
    assert found == whole


def test_a_stream_does_not_depend_on_the_others_and_a_resume_is_a_number():
    """fails when another stream, its batch, or the steps before change the order of a stream"""
    visual = stream("visual", VISUAL)
    late = joint(language=4)
    assert [draw for draw in late.draws(777) if draw.source in VISUAL] == visual.draws(777)
    assert late.draws(778)[:8] == joint().draws(778)[:8]
    same = [stream(name, VISUAL) for name in ("visual", "language")]
    assert [draw.source for draw in same[0].draws(0)] != [draw.source for draw in same[1].draws(0)], (
        "one order for both"
    )


def test_counts_and_shares_are_those_of_all_streams():
    """fails when the passes of an endless stream, or its share of the conversations, are wrong"""
    found = joint(language=4)
    steps, drawn = 40, dict.fromkeys(found.names, 0)
    for step in range(steps):
        for draw in found.draws(step):
            assert drawn[draw.source] == draw.drawn, "a draw is skipped or repeated"
            drawn[draw.source] += 1
    assert found.counts(steps) == drawn and list(found.counts(steps)) == list(found.names)
    assert found.expected(steps) == pytest.approx(
        {"llava": 200, "coco": 120, "dolly": 160 * 20 / 27, "alpaca": 160 * 7 / 27}
    )
    assert sum(found.shares.values()) == pytest.approx(1) and found.shares["llava"] == pytest.approx(8 / 12 * 50 / 80)
    assert drawn["alpaca"] > 2 * len(LANGUAGE["alpaca"]), "the language stream is endless"


def test_limits_of_an_endless_stream_are_told_with_its_name():
    """fails when a stream whose sources all set max_passes repeats them, or the message does not say which it is"""
    sources = {name: {"name": "instructions", "format": "alpaca", "annotations": __file__, "stream": stream, **more}
               for name, stream, more in (("a", "visual", {}), ("b", "language", {"max_passes": 2}))}  # fmt: skip
    config = parse(DataConfig, {"mix": "joint", "streams": {"visual": {}, "language": {}}, "sources": sources})
    opened: Any = {"a": range(10), "b": range(10)}
    assert build_mixture(config, opened, 3, 4, max_steps=5).counts(5) == {"a": 20, "b": 20}
    with pytest.raises(ConfigError, match=r"data.streams.language[^a-z]+max_passes leaves too little data"):
        build_mixture(config, opened, 3, 4, max_steps=6)


def test_one_stream_defines_the_epoch():
    """fails when the samples of another stream make a run longer"""
    assert steps_of_epochs(1, joint(language=4)) == 10  # 80 / 8
    assert steps_of_epochs(2, JointMixture(dict(joint(language=4).streams), "language")) == 14  # 54 / 4, rounded up
