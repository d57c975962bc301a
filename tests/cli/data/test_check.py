"""`chatbridge data check`: everything that is wrong is said, and nothing that is broken takes the check with it."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from chatbridge.cli.data import check, command
from chatbridge.cli.data.check_report import common_reason
from chatbridge.common.errors import ConfigError, DataError
from chatbridge.common.process_pool import LostTask, ProcessPool
from chatbridge.datasets.builders.records import Records
from tests.helpers.data_world import write_damage, write_pairs, write_run
from tests.helpers.mini_world import MiniWorld, write_yaml
from tests.helpers.tiny_media import jpeg, write_json, write_tar


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> MiniWorld:
    return MiniWorld(tmp_path_factory.mktemp("world"))


@pytest.fixture
def damaged(world: MiniWorld, tmp_path: Path) -> Path:
    sources = {
        "damage": {"name": "records", "file": str(write_damage(tmp_path / "media"))},
        "pictures": {"name": "web_pairs", "modality": "image", "shards": write_pairs(tmp_path)},
    }
    return write_run(world, tmp_path / "run.yaml", sources)


def report(config: Path, capsys: pytest.CaptureFixture, *options: str) -> tuple[int, dict]:
    code = check.main([str(config), "--json", "--workers", "1", *options])
    return code, json.loads(capsys.readouterr().out)


def test_broken_samples_are_named_with_their_reason(damaged: Path, capsys: pytest.CaptureFixture):
    """fails when a broken picture, video or sound passes, a sound file fails, or the exit code is not 1"""
    code, found = report(damaged, capsys, "--full")
    reasons = {one["id"]: one["reason"] for one in found["sources"]["damage"]["broken"]}
    assert code == found["exit_code"] == 1
    assert set(reasons) == {"cut.jpg", "cut2.jpg", "empty.jpg", "cut.mp4", "short.wav", "text.wav", "gone"}
    assert "no such file" in reasons["gone"] and "empty" in reasons["empty.jpg"] and "25 ms" in reasons["short.wav"]
    assert [one["id"] for one in found["sources"]["pictures"]["broken"]] == ["pairs.tar/4"]
    assert found["sources"]["pictures"]["read"] == 5


def test_alike_failures_come_together(damaged: Path, capsys: pytest.CaptureFixture):
    """fails when two truncated pictures are two groups, because their messages differ in a number"""
    assert check.main([str(damaged), "--workers", "1", "--source", "damage"]) == 1
    said = capsys.readouterr().out
    assert "2 x not a readable image" in said and "cut.jpg: " in said and "cut2.jpg: " in said
    assert common_reason("a/7.jpg: not an image (12 bytes)") == common_reason("b/c 8.jpg: not an image (9 bytes)")
    assert common_reason("the tar has no text of 7", "a.tar/7") == common_reason(
        "the tar has no text of ab", "a.tar/ab"
    )


def test_sound_data_pass(world: MiniWorld, tmp_path: Path, capsys: pytest.CaptureFixture):
    """fails when sound sources are no 0, or a sample of them is read twice or not at all"""
    sources = {"qa": world.source("questions", "ti-qa"), "clips": world.source("captions", "tv-cap")}
    code, found = report(write_run(world, tmp_path / "run.yaml", sources), capsys, "--sample", "2")
    assert code == 0
    assert {name: one["read"] for name, one in found["sources"].items()} == {"qa": 2, "clips": 2}


def test_files_of_no_sample_are_told(world: MiniWorld, tmp_path: Path, capsys: pytest.CaptureFixture):
    """fails when the check calls a tar sound and passes over what it could not place in it"""
    members = [("img_v1.5.jpg", jpeg()), ("img_v1.5.txt", "a red square"), ("img_v1.5.cls", "3"), ("._x.jpg", "x")]
    source = {"name": "web_pairs", "modality": "image", "shards": str(write_tar(tmp_path / "a.tar", members))}
    config = write_run(world, tmp_path / "run.yaml", {"dots": source})
    code, found = report(config, capsys, "--full")
    said = "2 files belong to no sample: with the ending .cls 1 (img_v1.5.cls), hidden 1 (._x.jpg)"
    assert (code, found["sources"]["dots"]["samples"], found["sources"]["dots"]["note"]) == (0, 1, said)
    assert check.main([str(config), "--workers", "1"]) == 0
    assert said in capsys.readouterr().out


def test_no_weights_are_needed(damaged: Path, world: MiniWorld, tmp_path: Path, capsys: pytest.CaptureFixture):
    """fails when a weights file that is still ??? prevents a check of the data"""
    options = ["--options", "model.language.weights=???", "model.encoders.vision.weights=/nowhere/vision.pth"]
    code, found = report(damaged, capsys, "--sample", "1", *options)
    assert (code, found["problems"]) in ((0, []), (1, []))
    assert set(found["sources"]) == {"damage", "pictures"}


def test_all_mistakes_at_once_and_the_rest_is_read(world: MiniWorld, tmp_path: Path, capsys: pytest.CaptureFixture):
    """fails when one broken source hides another, a misspelled key goes unnoticed, or the exit code is not 2"""
    lines = tmp_path / "lines.jsonl"
    lines.write_text('{"id": 1}\n{"id":\n', encoding="utf-8")
    sources = {
        "broken": {"name": "records", "file": str(lines)},
        "gone": {"name": "records", "file": str(tmp_path / "gone.jsonl")},
        "misspelled": {"name": "recrods", "file": "x"},
        "fine": world.source("questions", "ti-qa"),
    }
    config = write_run(world, tmp_path / "run.yaml", sources)
    code, found = report(config, capsys, "--options", "run.max_stepz=3")
    paths = {one["path"] for one in found["problems"]}
    assert code == 2
    assert paths == {"data.sources.broken", "data.sources.gone.file", "data.sources.misspelled.name", "run.max_stepz"}
    (broken,) = (one for one in found["problems"] if one["path"] == "data.sources.broken")
    assert "line 1:" in broken["hint"] and "line 2:" in broken["hint"]
    assert found["sources"]["fine"]["read"] == 6
    assert check.main([str(config), "--sample", "1", "--workers", "1"]) == 2
    printed = capsys.readouterr()
    assert "NO  misspelled" in printed.out and "did you mean records" in printed.err


def test_an_evaluation_is_checked_too(world: MiniWorld, tmp_path: Path, capsys: pytest.CaptureFixture):
    """fails when the data sets of tasks are not opened, or read as training reads them"""
    content = {"model": world.model(), "run": {"output_dir": str(tmp_path)}, "evaluation": {"tasks": world.tasks()}}
    code, found = report(write_yaml(tmp_path / "eval.yaml", content), capsys, "--sample", "1")
    assert code == 0 and set(found["tasks"]) == set(world.tasks()) and not found["sources"]


def test_the_quarantine_list_is_kept_up_to_date(damaged: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    """fails when a line lacks what a run asks for, when a repaired sample stays, or one that was not read is lost"""
    path = tmp_path / "lists" / "quarantine.jsonl"
    old = [{"source": "damage", "id": "fine.jpg", "reason": "was broken once"},
           {"source": "elsewhere", "id": "x", "reason": "not looked at"}]  # fmt: skip
    write_json(path, old)
    check.main([str(damaged), "--full", "--workers", "1", "--quarantine", str(path)])
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    assert all(set(entry) == {"source", "id", "reason"} for entry in entries)
    broken = ("cut.jpg", "cut2.jpg", "empty.jpg", "cut.mp4", "short.wav", "text.wav", "gone")
    expected = {("pictures", "pairs.tar/4"), ("elsewhere", "x"), *(("damage", name) for name in broken)}
    assert {(entry["source"], entry["id"]) for entry in entries} == expected
    assert "9 samples" in capsys.readouterr().out
    path.write_text("no json\n")
    with pytest.raises(DataError, match="line 1: expected"):
        check.main([str(damaged), "--sample", "1", "--workers", "1", "--quarantine", str(path)])


def test_a_missing_sound_is_counted(world: MiniWorld, tmp_path: Path, capsys: pytest.CaptureFixture):
    """fails when videos whose sound is gone pass without a word, although the policy is to say so"""
    source = world.source("questions", "tva-qa") | {"audio_folder": str(world.folder / "videos")}
    config = write_run(world, tmp_path / "run.yaml", {"joint": source})
    code, found = report(config, capsys, "--full")
    assert code == 0 and found["sources"]["joint"]["without_sound"] == 6
    code, found = report(config, capsys, "--full", "--options", "data.media.missing_sound=refuse")
    assert code == 1 and len(found["sources"]["joint"]["broken"]) == 6


def test_a_decoder_that_hangs_or_crashes_is_one_sample(
    damaged: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    """fails when a process that dies or never answers ends the check, or its sample is not named"""
    whole = Records.record

    def record(self, index, rng):
        if self.sample_id(index) == "fine.jpg":
            time.sleep(60)
        if self.sample_id(index) == "fine.wav":
            os.kill(os.getpid(), signal.SIGSEGV)
        return whole(self, index, rng)

    monkeypatch.setattr(Records, "record", record)
    code, found = report(damaged, capsys, "--full", "--options", "data.media.time_limit_s=0.1")
    reasons = {one["id"]: one["reason"] for one in found["sources"]["damage"]["broken"]}
    assert code == 1 and len(reasons) == 9
    assert "longer than 2 s" in reasons["fine.jpg"] and "SIGSEGV" in reasons["fine.wav"]
    assert "no such file" in reasons["gone"], "what came after them was read"


def test_a_process_pool_gives_every_task_one_result():
    """fails when tasks are lost, done twice, or a lost one has no reason"""

    def work(task: int) -> int:
        if task == 3:
            os._exit(7)
        if task == 4:
            time.sleep(60)
        return task * task

    found = dict(ProcessPool(work, 2, 1.5).results(range(20)))
    crashed, hung = found.pop(3), found.pop(4)
    assert isinstance(crashed, LostTask) and "exit code 7" in crashed.detail
    assert isinstance(hung, LostTask) and "ended after 1.5 s" in hung.detail
    assert found == {task: task * task for task in range(20) if task not in (3, 4)}


def test_the_clock_of_a_task_can_stand_still():
    """fails when a worker that fetches a shard is ended, or its clock does not go on afterwards"""

    class Fetching:
        on_pause = None

        def __call__(self, task: int) -> str:
            assert self.on_pause is not None
            self.on_pause(True)
            time.sleep(1.2)
            self.on_pause(False)
            time.sleep(60 if task else 0)
            return "done"

    found = dict(ProcessPool(Fetching(), 1, 1.0).results([0, 1]))
    assert found[0] == "done" and isinstance(found[1], LostTask)


def test_a_tar_that_breaks_off_is_not_sound(world: MiniWorld, tmp_path: Path, capsys: pytest.CaptureFixture):
    """fails when the samples that a damaged shard has lost go unnoticed"""
    tar = Path(write_pairs(tmp_path))
    whole = tar.read_bytes()
    tar.write_bytes(whole[: whole.index(b"4.jpg") + 100])  # inside a header
    source = {"name": "web_pairs", "modality": "image", "shards": str(tar)}
    config = write_run(world, tmp_path / "run.yaml", {"pictures": source})
    code, found = report(config, capsys, "--full")
    assert code == 1 and "damaged" in found["warnings"][0]


def test_an_unknown_action_or_source_says_which_there_are(damaged: Path, capsys: pytest.CaptureFixture):
    """fails when a misspelled word is met with silence or a traceback"""
    assert command.main(["chek"]) == 2
    assert "did you mean check" in capsys.readouterr().err
    assert command.main([]) == 0
    with pytest.raises(ConfigError, match="damages"):
        check.main([str(damaged), "--source", "damages"])


def test_a_mixture_alone_can_be_checked(world: MiniWorld, tmp_path: Path, capsys: pytest.CaptureFixture):
    """fails when a file of configs/mixtures needs a model around it before its sources can be looked at"""
    config = write_yaml(tmp_path / "mix.yaml", {"data": {"sources": {"qa": world.source("questions", "ti-qa")}}})
    assert check.main([str(config), "--json", "--workers", "1", "--sample", "2"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["sources"]["qa"]["read"] == 2 and "the file has no model" in said.err


def test_an_encoder_that_needs_its_folder_does_not_stand_in_the_way(damaged: Path, capsys: pytest.CaptureFixture):
    """fails when preprocessing that lies in a folder of weights prevents a check of the files"""
    encoder = "model.encoders.vision={name: hf_vision, weights: ???}"
    code, found = report(damaged, capsys, "--full", "--options", encoder)
    assert code == 1
    assert {"cut.jpg", "empty.jpg"} <= {one["id"] for one in found["sources"]["damage"]["broken"]}
    assert "fine.jpg" not in {one["id"] for one in found["sources"]["damage"]["broken"]}


def test_a_wrong_number_of_samples_per_shard_is_a_warning(
    world: MiniWorld, tmp_path: Path, capsys: pytest.CaptureFixture
):
    """fails when nobody says that the samples of remote shards were counted wrong in the YAML"""
    shards = {"shards": f"file://{write_pairs(tmp_path)}", "cache_folder": str(tmp_path / "cache")}
    source = {"name": "web_pairs", "modality": "image", "samples_per_shard": 1000, **shards}
    code, found = report(write_run(world, tmp_path / "run.yaml", {"far": source}), capsys, "--sample", "2")
    (warning,) = found["warnings"]
    assert code == 1 and warning.startswith("source far: 1 of its shards are here and hold ") and "1,000" in warning


def test_full_reads_all_of_an_item(tmp_path: Path):
    """fails when damage between the places that one draw takes is called sound"""
    from chatbridge.cli.data.sample_check import CachedReading, LastOfEach
    from chatbridge.common.errors import MediaError
    from chatbridge.processors.audio import AudioProcessor
    from chatbridge.processors.image import ImageProcessor
    from chatbridge.processors.video import VideoProcessor
    from tests.helpers.media_files import tone, write_audio
    from tests.helpers.video_files import write_moving

    samples = np.tile(tone(1.0), 30)
    write_audio(tmp_path / "good.wav", samples, subtype="FLOAT")
    samples[len(samples) // 2] = np.nan
    write_audio(tmp_path / "nan.wav", samples, subtype="FLOAT")
    stream = write_moving(tmp_path / "good.ts", 60, options={"g": "12"})
    content = stream.read_bytes()
    at = len(content) // 2 // 188 * 188
    (tmp_path / "lost.ts").write_bytes(content[:at] + content[at + 188 * 2 :])
    readers = {".wav": AudioProcessor(target_frames=100), ".ts": VideoProcessor(ImageProcessor(16), 1)}
    for name, is_sound in (("good.wav", True), ("nan.wav", False), ("good.ts", True), ("lost.ts", False)):
        path = tmp_path / name
        CachedReading()(readers[path.suffix], path, LastOfEach())  # one draw sees nothing
        for ref in (path, path.read_bytes()):
            if is_sound:
                CachedReading(is_full=True)(readers[path.suffix], ref, LastOfEach())
                continue
            with pytest.raises(MediaError, match="not numbers|damaged"):
                CachedReading(is_full=True)(readers[path.suffix], ref, LastOfEach())
