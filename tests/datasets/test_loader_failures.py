"""Broken files in a loader: replaced, recorded, and limited by the failure budget."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

from chatbridge.common.errors import DataError
from chatbridge.common.types import Failure
from chatbridge.datasets.failure_log import FailureLog
from chatbridge.datasets.sample_reader import SampleError
from tests.helpers.loader_data import PROCESSORS, assert_same, broken_pictures, data, loader
from tests.helpers.tiny_media import layout, mp4, write_tar


def test_broken_files_are_replaced_and_reported(tmp_path: Path):
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


def test_the_main_process_records_the_failures_of_workers(tmp_path: Path):
    """fails when a failure in a worker is not recorded"""
    config = broken_pictures(tmp_path)
    failure_log = FailureLog(tmp_path / "failures.jsonl", {"web": 1.0})
    steps = list(loader(config, num_workers=2, failure_log=failure_log))
    lines = (tmp_path / "failures.jsonl").read_text().splitlines()
    assert len(lines) == sum(len(batch.failures) for step in steps for batch in step) > 5
    assert failure_log.draws == {"web": 48}


def test_lines_of_another_rank_before_the_first_step_count(tmp_path: Path):
    """fails when a rank takes the lines of a faster rank for lines of an earlier launch"""
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
    """fails when training continues with a data set that is mostly missing"""
    config = broken_pictures(tmp_path)
    failure_log = FailureLog(tmp_path / "f.jsonl", {"web": 0.01}, grace=5)
    message = r"source 'web': \d+ failures in \d+ draws(.|\n)*broken.tar/0000"
    with pytest.raises(DataError, match=message), loader(config, num_workers=1, failure_log=failure_log) as steps:
        list(steps)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_source_without_one_good_sample_ends_the_run(tmp_path: Path, workers: int):
    """fails when replacements are endless, or the message is a worker's traceback"""
    config = broken_pictures(tmp_path, good=0, bad=3)
    failure_log = FailureLog(tmp_path / "f.jsonl", {})
    with pytest.raises(DataError) as caught, loader(config, num_workers=workers, failure_log=failure_log) as steps:
        list(steps)
    assert str(caught.value).startswith("source 'web': 3 samples in a row cannot be used (it has 3)")
    assert "Traceback" not in str(caught.value) and "broken.tar/00000: " in str(caught.value)
    assert len((tmp_path / "f.jsonl").read_text().splitlines()) == 3


class Defect:
    """A processor with an error in its code."""

    def __call__(self, ref: object, rng: np.random.Generator | None = None) -> Tensor:
        raise KeyError("width")


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_in_the_code_is_not_a_broken_file_and_names_the_sample(tmp_path: Path, workers: int):
    """fails when an error in the code is taken for a broken file, or does not name the sample"""
    config = data(tmp_path)
    defects = {"image": Defect(), "audio": Defect()}
    message = r"source '(pictures|sounds)', sample '.+' .*KeyError: 'width'"
    with pytest.raises(SampleError, match=message), loader(config, num_workers=workers, processors=defects) as steps:
        list(steps)


def test_samples_that_the_model_or_the_layout_cannot_take_are_recorded(tmp_path: Path):
    """fails when a sample that does not fit ends in a crash or an empty target"""
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
