"""Steps from workers: the same whatever their number, wherever a run starts, whatever is broken on the way."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from chatbridge.common.errors import ConfigError, DataError
from chatbridge.common.types import Batch, Failure
from chatbridge.config.schema import parse
from chatbridge.datasets.build_mixture import build_mixture
from chatbridge.datasets.builders import Dataset
from chatbridge.datasets.config import DataConfig
from chatbridge.datasets.failure_log import FailureLog
from chatbridge.datasets.loader import BatchLoader, build_loader
from chatbridge.datasets.reading import SampleError
from chatbridge.processors.audio import AudioProcessor
from chatbridge.processors.image import ImageProcessor
from chatbridge.processors.video import VideoProcessor
from tests.helpers.tiny_media import jpeg, layout, mp4, pairs, wav, write_json, write_tar

PROCESSORS = {
    "image": ImageProcessor(size=4, train=True),
    "audio": AudioProcessor(mel_bins=8, target_frames=16),
    "video": VideoProcessor(ImageProcessor(size=4, train=True), num_frames=2),
}


def data(folder: Path, **options: Any) -> DataConfig:
    """Pictures in two shards, sounds by questions; different sizes and weights."""
    if not (folder / "pictures-0.tar").exists():
        write_tar(folder / "pictures-0.tar", pairs(9))
        write_tar(folder / "pictures-1.tar", pairs(4, first=9))
        for number in range(5):
            (folder / f"s{number}.wav").write_bytes(wav(200 + 100 * number))
        records = [
            {"video_id": f"s{n}", "question": [f"what {n}", "which"], "answer": [f"tone {n}", "x"]} for n in range(5)
        ]
        write_json(folder / "sounds.json", records)
    sources = {
        "pictures": {"name": "web_pairs", "shards": f"{folder}/pictures-*.tar", "modality": "image", "weight": 2},
        "sounds": {
            "name": "questions",
            "annotations": f"{folder}/sounds.json",
            "tag": "ta-qa",
            "audio_folder": str(folder),
            "weight": 1,
        },
    }
    return parse(DataConfig, {"sources": options.pop("sources", sources), **options})


def open_sources(config: DataConfig) -> dict[str, Dataset]:
    return {name: choice.part(choice.config, name) for name, choice in config.sources.items()}


def loader(
    config: DataConfig, world: int = 1, micro_batch: int = 4, accumulate: int = 2, **options: Any
) -> BatchLoader:
    mixture = build_mixture(config, open_sources(config), 11, world * micro_batch * accumulate)
    given = {"stop_step": 6, "num_workers": 0, "seed": 5, **options}
    lay, processors = given.pop("layout", layout("vicuna_v0")), given.pop("processors", PROCESSORS)
    return build_loader(mixture, lay, processors, micro_batch=micro_batch, accumulate=accumulate, world=world, **given)


def ids(steps: list[list[Batch]]) -> list[list[tuple[str, ...]]]:
    return [[batch.sample_ids for batch in step] for step in steps]


def assert_same(left: list[list[Batch]], right: list[list[Batch]]) -> None:
    assert ids(left) == ids(right)
    for one, other in zip([b for step in left for b in step], [b for step in right for b in step], strict=True):
        assert one.ids.equal(other.ids) and one.target.equal(other.target) and one.predict_at.equal(other.predict_at)
        assert (
            one.failures == other.failures and one.sources == other.sources and one.media.keys() == other.media.keys()
        )
        for modality, media in one.media.items():
            assert media.equal(other.media[modality]) and one.media_slots[modality].equal(other.media_slots[modality])


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_do_not_change_the_result(tmp_path: Path, workers: int):
    """fails when steps arrive out of order, or a random choice depends on the worker"""
    config = data(tmp_path)
    alone = list(loader(config))
    assert len(alone) == 6 and all(len(step) == 2 and len(batch.sources) == 4 for step in alone for batch in step)
    assert {"pictures", "sounds"} == {source for step in alone for batch in step for source in batch.sources}
    assert_same(list(loader(config, num_workers=workers)), alone)


def test_spawned_workers_do_the_same(tmp_path: Path):
    """fails when something in the loader cannot be pickled"""
    config = data(tmp_path)
    with loader(config, num_workers=1, stop_step=2, start_method="spawn") as spawned:
        assert_same(list(spawned), list(loader(config, stop_step=2)))


def test_a_later_start_continues_the_run(tmp_path: Path):
    """fails when a resumed run sees other samples, prompts or frames than the uninterrupted one"""
    config = data(tmp_path)
    whole = list(loader(config, num_workers=2))
    assert_same(list(loader(config, start_step=3, num_workers=1)), whole[3:])
    assert_same(list(loader(config, start_step=6)), [])


@pytest.mark.parametrize("world, accumulate", [(2, 1), (1, 2), (2, 2), (4, 1)])
def test_one_process_equals_several(tmp_path: Path, world: int, accumulate: int):
    """fails when 1 process x 8 and 2 processes x 4 see different conversations in a step, or see one differently"""
    config = data(tmp_path)
    whole = list(loader(config, micro_batch=8, accumulate=1))
    size = 8 // (world * accumulate)
    ranks = [list(loader(config, world, size, accumulate, rank=rank)) for rank in range(world)]
    for number, step in enumerate(whole):
        parts = [batch for micro in range(accumulate) for rank in ranks for batch in [rank[number][micro]]]
        assert [name for part in parts for name in part.sample_ids] == list(step[0].sample_ids)
        targets = torch.cat([part.target for part in parts])
        assert targets.equal(step[0].target)
        for modality, media in step[0].media.items():
            assert torch.cat([part.media[modality] for part in parts if modality in part.media]).equal(media)


def test_samples_differ_between_passes_and_seeds(tmp_path: Path):
    """fails when every pass draws the same question of a record, or the seed does not matter"""
    config = data(tmp_path)
    only = data(tmp_path, sources={"sounds": {**_source(config, "sounds", tmp_path)}})
    steps = list(loader(only, micro_batch=5, accumulate=1, stop_step=8))
    lengths = {tuple(batch.ids[batch.sample_ids.index("s0")].tolist()) for (batch,) in steps}
    assert len(lengths) >= 2, "one record, two questions"
    other = list(loader(only, micro_batch=5, accumulate=1, stop_step=8, seed=6))
    assert ids(steps) == ids(other) and any(not a.ids.equal(b.ids) for (a,), (b,) in zip(steps, other))


def _source(config: DataConfig, name: str, folder: Path) -> dict[str, Any]:
    choice = config.sources[name]
    return {"name": choice.name, "annotations": f"{folder}/sounds.json", "tag": "ta-qa", "audio_folder": str(folder)}


def broken_pictures(folder: Path, good: int = 6, bad: int = 3) -> DataConfig:
    members = pairs(good)
    for number in range(good, good + bad):
        kinds = [jpeg(side=40)[:200], b"", b"<html>404</html>"]
        members += [(f"{number:05}.jpg", kinds[number % 3]), (f"{number:05}.txt", "broken")]
    tar = write_tar(folder / "broken.tar", members)
    return data(folder, sources={"web": {"name": "web_pairs", "shards": str(tar), "modality": "image"}})


def test_broken_files_are_replaced_in_the_open(tmp_path: Path):
    """fails when a broken file stops the run, is swapped silently, or is replaced differently after a resume"""
    config = broken_pictures(tmp_path)
    steps = list(loader(config))
    failures = [failure for step in steps for batch in step for failure in batch.failures]
    assert {failure.id for failure in failures} == {"broken.tar/00006", "broken.tar/00007", "broken.tar/00008"}
    assert all(failure.source == "web" and failure.reason for failure in failures)
    for step in steps:
        for batch in step:
            assert len(batch.sample_ids) == 4 and "broken" not in str(batch.sample_ids).replace("broken.tar", "")
            for failure in batch.failures:
                assert failure.replaced_by in batch.sample_ids and failure.replaced_by != failure.id
    assert_same(list(loader(config, num_workers=2)), steps)
    assert_same(list(loader(config, start_step=4)), steps[4:])


def test_the_failure_log_of_the_main_process_keeps_the_list(tmp_path: Path):
    """fails when a failure met in a worker is not written down"""
    config = broken_pictures(tmp_path)
    failure_log = FailureLog(tmp_path / "failures.jsonl", {"web": 1.0})
    steps = list(loader(config, num_workers=2, failure_log=failure_log))
    lines = (tmp_path / "failures.jsonl").read_text().splitlines()
    assert len(lines) == sum(len(batch.failures) for step in steps for batch in step) > 5
    assert failure_log.draws == {"web": 48}


def test_what_another_rank_adds_before_the_first_step_counts(tmp_path: Path):
    """fails when a rank takes what a quicker one wrote in this launch for traces of an earlier launch"""
    config = broken_pictures(tmp_path)
    failure_log, quicker = (
        FailureLog(tmp_path / "f.jsonl", {"web": 1.0}),
        FailureLog(tmp_path / "f.jsonl", {"web": 1.0}),
    )
    with loader(config, num_workers=0, failure_log=failure_log) as steps:
        iterator = iter(steps)
        quicker.add([Failure("web", "other", "broken", drawn=0)] * 3)
        own = sum(len(batch.failures) for batch in next(iterator))
        assert failure_log.failed["web"] == own + 3


def test_a_spent_budget_stops_the_run_with_the_list(tmp_path: Path):
    """fails when training goes on over a data set that is mostly gone"""
    config = broken_pictures(tmp_path)
    failure_log = FailureLog(tmp_path / "f.jsonl", {"web": 0.01}, grace=5)
    message = r"source 'web': \d+ failures in \d+ draws(.|\n)*broken.tar/0000"
    with pytest.raises(DataError, match=message), loader(config, num_workers=1, failure_log=failure_log) as steps:
        list(steps)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_source_without_one_good_sample_ends_the_run(tmp_path: Path, workers: int):
    """fails when replacing goes on for ever, or the message is a worker's traceback"""
    config = broken_pictures(tmp_path, good=0, bad=3)
    failure_log = FailureLog(tmp_path / "f.jsonl", {})
    with pytest.raises(DataError) as caught, loader(config, num_workers=workers, failure_log=failure_log) as steps:
        list(steps)
    assert str(caught.value).startswith("source 'web': 3 samples in a row cannot be used (it has 3)")
    assert "Traceback" not in str(caught.value) and "broken.tar/00000: " in str(caught.value)
    assert len((tmp_path / "f.jsonl").read_text().splitlines()) == 3


class Defect:
    """A processor with a slip in its code."""

    def __call__(self, ref: object, rng: np.random.Generator | None = None) -> Tensor:
        raise KeyError("width")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_defect_is_no_broken_file_and_names_the_sample(tmp_path: Path, workers: int):
    """fails when a slip in our code is swallowed as a broken file, or does not say which sample met it"""
    config = data(tmp_path)
    defects = {"image": Defect(), "audio": Defect()}
    message = r"source '(pictures|sounds)', sample '.+' .*KeyError: 'width'"
    with pytest.raises(SampleError, match=message), loader(config, num_workers=workers, processors=defects) as steps:
        list(steps)


def test_what_the_model_or_the_layout_cannot_take_is_written_down(tmp_path: Path):
    """fails when a sample that does not fit is a crash, or an empty target"""
    config = data(tmp_path)
    without_sound = {name: processor for name, processor in PROCESSORS.items() if name != "audio"}
    with pytest.raises(
        DataError, match="source 'sounds'(.|\n)*the model does not take audio; its modalities: image, video"
    ):
        list(loader(config, processors=without_sound))
    with pytest.raises(DataError, match="no supervised token fits"):
        list(loader(config, layout=layout("vicuna_v0", max_tokens=5)))


def test_videos_are_decoded_in_forked_workers(tmp_path: Path):
    """fails when a decoder that the main process has used hangs or crashes after a fork"""
    members: list[tuple[str, bytes | str]] = []
    for number in range(6):
        members += [(f"{number}.mp4", mp4(6 + number)), (f"{number}.txt", f"clip {number}")]
    tar = write_tar(tmp_path / "clips.tar", [*members, ("6.mp4", mp4()[:300]), ("6.txt", "cut off")])
    sources = {"clips": {"name": "web_pairs", "shards": str(tar), "modality": "video"}}
    config = data(tmp_path, sources=sources)
    alone = list(loader(config))
    assert alone[0][0].media["video"].shape == (4, 2, 3, 4, 4)
    assert any(batch.failures for step in alone for batch in step)
    assert_same(list(loader(config, num_workers=2)), alone)


def test_the_global_generators_are_left_alone(tmp_path: Path):
    """fails when loading data moves the generator that dropout draws from, so that a resumed run differs"""
    config = data(tmp_path)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    for workers in (0, 1):
        list(loader(config, num_workers=workers))
    assert torch.get_rng_state().equal(before[0])
    assert (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002


def workers_alive() -> list[multiprocessing.process.BaseProcess]:
    return [child for child in multiprocessing.active_children() if child.is_alive()]


def test_workers_end_with_the_loop(tmp_path: Path):
    """fails when worker processes stay behind after a break, an exception or close"""
    config = data(tmp_path)
    before = len(workers_alive())
    with loader(config, num_workers=2, stop_step=10**6) as steps:
        iterator = iter(steps)
        next(iterator)
        assert len(workers_alive()) == before + 2
    until = time.monotonic() + 60
    while len(workers_alive()) > before and time.monotonic() < until:
        time.sleep(0.05)
    assert len(workers_alive()) == before
    assert len(steps) == 10**6


def test_ctrl_c_does_not_kill_the_workers(tmp_path: Path):
    """fails when Ctrl-C, which the terminal sends to all processes, takes away the batches of the last steps"""
    with loader(data(tmp_path), num_workers=1, stop_step=10) as steps:
        iterator = iter(steps)
        next(iterator)
        for child in workers_alive():
            os.kill(child.pid or 0, signal.SIGINT)
        assert len(list(iterator)) == 9


def test_the_batch_must_fit_the_ranks(tmp_path: Path):
    """fails when the loader quietly reads another number of conversations than the mixture deals"""
    config = data(tmp_path)
    mixture = build_mixture(config, open_sources(config), 0, 8)
    with pytest.raises(ValueError, match="8 conversations per step; micro_batch 4 x accumulate 1 x 1 ranks need 4"):
        build_loader(mixture, layout(), PROCESSORS, micro_batch=4, stop_step=1, seed=0)


def test_the_data_section_reports_all_its_problems(tmp_path: Path):
    """fails when a misspelled builder, key, weight or template is not told with the rest"""
    sources = {
        "a": {"name": "web_pair", "shards": "x"},
        "b": {"name": "captions", "annotations": "none.json", "tag": "ti", "image_foldr": str(tmp_path)},
        "c": {"name": "records", "file": str(tmp_path / "no.jsonl"), "weight": -1},
    }
    with pytest.raises(ConfigError) as caught:
        parse(DataConfig, {"sources": sources, "mix": "steps"}, path="data")
    text = " ".join(str(caught.value).split())
    for words in ("did you mean web_pairs?", "did you mean image_folder?", "data.sources.c.weight", "data.mix"):
        assert words in text
    good = {"r": {"name": "records", "file": str(write_json(tmp_path / "r.jsonl", [])), "weight": 0}}
    with pytest.raises(ConfigError, match="did you mean vicuna_v0"):
        parse(DataConfig, {"sources": good, "template": "vicuna_v1"})
    with pytest.raises(ConfigError, match="all weights are 0"):
        parse(DataConfig, {"sources": good})
    with pytest.raises(ConfigError, match="at least 1 item"):
        parse(DataConfig, {"sources": {}})
