"""The data section of a run: shares from weights, and settings of sources that contradict each other."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from chatbridge.common.errors import ConfigError, DataError
from chatbridge.config.schema import parse
from chatbridge.datasets.build_mixture import build_mixture
from chatbridge.datasets.config import DataConfig
from chatbridge.datasets.order.mixture import Mixture
from chatbridge.datasets.order.shares import filled, tempered
from chatbridge.experiment.validate import batch_problems, mixed_piece_problems, piece_problems
from chatbridge.models.config import ModelConfig
from chatbridge.runners.config import RunConfig
from tests.helpers.tiny_media import write_json
from tests.helpers.tiny_models import model_mapping


class Sized(list[int]):
    """A source with only a length."""

    def __init__(self, size: int):
        self.size = size

    def __len__(self) -> int:
        return self.size


def data(folder: Path, sources: dict[str, dict[str, Any]], **settings: Any) -> DataConfig:
    """Sources of images, or of the modality of `tag`, with the given settings."""
    annotations = str(write_json(folder / "a.json", [{"video_id": "1", "caption": "x"}]))
    nodes = {}
    for name, given in sources.items():
        tag = given.pop("tag", "ti-cap")
        media = {"ti": ["image"], "tv": ["video"], "ta": ["audio"], "tva": ["video", "audio"]}[tag.partition("-")[0]]
        folders = {f"{kind}_folder": str(folder) for kind in media}
        nodes[name] = {"name": "captions", "annotations": annotations, "tag": tag, **folders, **given}
    return parse(DataConfig, {"sources": nodes, **settings}, path="data")


def mixture(config: DataConfig, sizes: dict[str, int], **given: Any) -> Mixture[Any]:
    opened: Any = {name: Sized(size) for name, size in sizes.items()}
    return build_mixture(config, opened, 3, given.pop("global_batch", 8), **given)


def text_of(error: Any) -> str:
    return " ".join(str(error.value).split())


def test_size_as_weight_with_a_cap_and_a_temperature(tmp_path: Path):
    """fails when a source counts more samples than its cap, or the temperature is not T5's"""
    sized: dict[str, Any] = {
        "big": {"weight": "size", "cap": 400},
        "small": {"weight": "size"},
        "fixed": {"weight": 500},
    }
    sizes = {"big": 10_000, "small": 100, "fixed": 7}
    assert mixture(data(tmp_path, sized), sizes).shares == pytest.approx({"big": 0.4, "small": 0.1, "fixed": 0.5})
    roots = {"big": 20.0, "small": 10.0, "fixed": 500**0.5}
    tempered_shares = mixture(data(tmp_path, sized, temperature=2), sizes).shares
    assert tempered_shares == pytest.approx({name: root / sum(roots.values()) for name, root in roots.items()})
    assert tempered({"a": 3.0, "b": 0.0}, 100) == {"a": 1.0, "b": 0.0}, "a source that is switched off stays off"


def test_the_rest_goes_to_sources_below_their_limit():
    """fails when a share stays above its limit, a limited source pulls the others down, or shares do not add up to 1"""
    assert filled({"a": 1, "b": 1, "c": 2}, {}) == pytest.approx({"a": 0.25, "b": 0.25, "c": 0.5})
    assert filled({"a": 1, "b": 1, "c": 2}, {"c": 0.2}) == pytest.approx({"a": 0.4, "b": 0.4, "c": 0.2})
    second = filled({"a": 1, "b": 1, "c": 2}, {"c": 0.2, "a": 0.3})  # a is pushed above its limit by c
    assert second == pytest.approx({"a": 0.3, "b": 0.5, "c": 0.2})
    assert filled({"a": 1, "b": 0}, {"b": 0.5}) == {"a": 1.0, "b": 0.0}
    assert filled({"a": 1, "b": 1}, {"a": 0.25, "b": 0.75}) == pytest.approx({"a": 0.25, "b": 0.75})
    with pytest.raises(DataError, match="limits of all sources add up to 70.0% of the run"):
        filled({"a": 1, "b": 1}, {"a": 0.3, "b": 0.4})


@pytest.mark.parametrize("mix", ["sample", "step", "micro"])
def test_max_passes_limits_the_expected_draws(tmp_path: Path, mix: str):
    """fails when a run expects more passes over a source than it allows, in any mix and with a batch of its own"""
    own = {"batch": 4} if mix == "step" else {}
    config = data(tmp_path, {"small": {"weight": 9, "max_passes": 3, **own}, "large": {"weight": 1}}, mix=mix)
    run = {"global_batch": 8, "micro_batch": 2, "max_steps": 1000}
    capped = mixture(config, {"small": 100, "large": 10**6}, **run)
    assert capped.expected(1000)["small"] == pytest.approx(300)
    assert sum(capped.shares.values()) == pytest.approx(1)
    roomy = mixture(config, {"small": 10**5, "large": 10**6}, **run)
    assert roomy.shares == pytest.approx({"small": 0.9, "large": 0.1})


def test_too_little_data_for_the_run_is_an_error_with_advice(tmp_path: Path):
    """fails when max_passes is silently exceeded because no source may take the rest"""
    config = data(tmp_path, {"a": {"max_passes": 1}, "b": {"max_passes": 2}})
    with pytest.raises(ConfigError) as error:
        mixture(config, {"a": 100, "b": 100}, max_steps=100)
    for words in ("data.sources", "add up to 37.5% of the run", "a 12.5%, b 25.0%", "run.max_steps to at most 37"):
        assert words in text_of(error)
    with pytest.raises(ValueError, match="pass max_steps"):
        mixture(config, {"a": 100, "b": 100})


def test_contradicting_settings_are_reported_together(tmp_path: Path):
    """fails when a cap, batch, frames or clips without effect are accepted, or one problem hides another"""
    sources: dict[str, Any] = {
        "a": {"cap": 5},
        "b": {"batch": 16},
        "c": {"frames": 8},
        "d": {"tag": "tv-cap", "clips": 2},
    }
    with pytest.raises(ConfigError) as error:
        data(tmp_path, sources, quarantine=None)
    for words in (
        "data.sources.a.cap", "belongs to weight: size, but the weight is 1", "data.sources.b.batch",
        "but data.mix is sample", "data.sources.c.frames", "belongs to video, but this source has image",
        "data.sources.d.clips", "4 problems",
    ):  # fmt: skip
        assert words in text_of(error)
    sources = {"a": {"pieces": {"count": 4}}, "b": {"tag": "tv-cap", "frames": 4, "pieces": {"video": 8, "audio": 1}}}
    with pytest.raises(ConfigError) as error:
        data(tmp_path, sources)
    for words in (
        "data.sources.a.pieces.count", "there is no modality named 'count'", "for example pieces: {video: 4}",
        "data.sources.b.frames", "is given beside pieces.video, which is the same setting; keep pieces.video",
        "data.sources.b.pieces.audio", "belongs to audio, but this source has video", "3 problems",
    ):  # fmt: skip
        assert words in text_of(error)
    with pytest.raises(ConfigError) as error:
        data(tmp_path, {"a": {"weight": "sizes"}, "b": {"max_passes": 0}}, temperature=0, mix="mikro", quarantine="no")
    for words in (
        "a.weight",
        "did you mean size?",
        "b.max_passes",
        "data.temperature",
        "did you mean micro?",
        "data.quarantine",
    ):
        assert words in text_of(error)


def test_a_batch_must_divide_into_equal_micro_batches(tmp_path: Path):
    """fails when a step cannot be split over the ranks and the message lacks the source or a possible number"""
    config = data(tmp_path, {"a": {"batch": 64}, "b": {"batch": 20}, "c": {"batch": 3}, "d": {}}, mix="step")
    run = parse(
        RunConfig, {"output_dir": str(tmp_path), "max_steps": 5, "accumulate": 2, "schedule": {"warmup_steps": 0}}
    )
    found = {problem.path: problem for problem in batch_problems(config, run, num_ranks=4)}
    assert list(found) == ["data.sources.b.batch", "data.sources.c.batch"]
    assert "run.accumulate 2 x 4 ranks" in found["data.sources.b.batch"].message
    assert "16 or 24 would work" in str(found["data.sources.b.batch"].hint)
    assert str(found["data.sources.c.batch"].hint).startswith("8 would work")


def test_frames_of_a_source_keep_the_number_of_tokens(tmp_path: Path):
    """fails when a sequence has a different number of media tokens than the layout has slots"""
    config = data(tmp_path, {"v": {"tag": "tv-cap", "frames": 5}, "s": {"tag": "ta-cap", "clips": 3}}, mix="step")
    problems = lambda model: [  # noqa: E731
        str(problem)
        for name, choice in config.sources.items()
        for problem in piece_problems(f"data.sources.{name}", choice.config, parse(ModelConfig, model))
    ]
    mapping = model_mapping()
    assert problems(mapping) == [], "a Q-Former makes as many tokens of any number of frames"
    mapping["routes"] = {
        **mapping["routes"],
        "video": {**mapping["routes"]["video"], "frames": {"count": 2, "merge": "separate"}},
    }
    (told,) = problems(mapping)
    assert "data.sources.v.frames" in told and "gives 15 tokens" in told and "has 6" in told
    mapping = model_mapping()
    mapping["bridges"] = {"perceiver": {**mapping["bridges"]["perceiver"], "temporal": {"visual": 4}}}
    (told,) = problems(mapping)
    assert "data.sources.v.frames" in told and "temporal.visual has vectors for 4 frames" in " ".join(told.split())


@pytest.mark.parametrize("mix, count", [("sample", 1), ("step", 0), ("micro", 0)])
def test_only_sources_that_share_a_batch_must_agree(tmp_path: Path, mix: str, count: int):
    """fails when audio of one and of two clips shares a batch, or is refused although the mix separates it"""
    sources: dict[str, Any] = {"a": {"tag": "ta-cap"}, "f": {"tag": "ta-cap", "clips": 2}, "i": {}}
    problems = list(mixed_piece_problems(data(tmp_path, sources, mix=mix), parse(ModelConfig, model_mapping())))
    assert len(problems) == count
    if problems:
        assert problems[0].path == "data.mix" and "different clips" in problems[0].message
        assert "(1: a; 2: f)" in problems[0].message and "mix: step" in str(problems[0].hint)


def published(stage: int, reference: Path) -> dict[str, dict[str, Any]]:
    """The entries of a published mix by name, numbered as in the fact sheet."""
    mix = json.loads((reference / f"data/multis_mix_stage{stage}.json").read_text())
    return {f"{number}-{entry['datasets'][0]['name']}": entry for number, entry in enumerate(mix["data_cfg"]["train"])}


@pytest.mark.parametrize("stage, count", [(1, 6), (2, 14)])
def test_published_weights_give_the_published_shares(reference: Path, tmp_path: Path, stage: int, count: int):
    """fails when weights of up to 200 million, or batches of 128, 64 and 16, do not give the shares of the runs"""
    entries = published(stage, reference)
    assert len(entries) == count
    sources = {name: {"weight": entry["steps"], "batch": entry["batch_size"]} for name, entry in entries.items()}
    config = data(tmp_path, sources, mix="step")
    several = mixture(config, dict.fromkeys(entries, 10**6), global_batch=64)
    steps = 1000
    drawn = Counter(several.draws(step)[0].source for step in range(steps))
    total = sum(entry["steps"] for entry in entries.values())
    for name, entry in entries.items():
        share = entry["steps"] / total
        assert several.shares[name] == pytest.approx(share)
        assert abs(drawn[name] - steps * share) < 5 * (steps * share * (1 - share)) ** 0.5 + 1
        assert several.expected(steps)[name] == pytest.approx(steps * share * entry["batch_size"])
    assert {len(several.draws(step)) for step in range(200)} <= {entry["batch_size"] for entry in entries.values()}
    if stage == 2:
        tasks = sum(several.shares[name] for name, entry in entries.items() if entry["steps"] == 10000)
        assert tasks == pytest.approx(0.273, abs=5e-4)
