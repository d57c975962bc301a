"""`chatbridge cache` and data.feature_cache on a miniature world: the same code and files as a real run."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock

from chatbridge.cli import cache, train
from chatbridge.common.errors import ConfigError
from chatbridge.datasets.feature_cache import content
from chatbridge.datasets.feature_cache.container import read_container
from chatbridge.datasets.feature_cache.index import FeatureIndex
from chatbridge.datasets.feature_cache.record import SET
from chatbridge.models.encoders.beats import BEATs
from chatbridge.models.encoders.eva_vit import EvaViT
from chatbridge.models.loading import save_component
from chatbridge.processors.image import ImageProcessor
from tests.helpers.mini_world import MiniWorld, write_yaml
from tests.helpers.tiny_media import jpeg, mp4
from tests.helpers.tiny_models import tiny_model
from tests.helpers.train_runs import environment, losses, records


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> MiniWorld:
    return MiniWorld(tmp_path_factory.mktemp("world"))


def config(
    world: MiniWorld, folder: Path, name: str, media: dict[str, Any] | None = None, cached: Any = None, **settings: Any
) -> Path:
    """The YAML of a run; keyword arguments are the settings of the cache in `folder`, or `cached` is all of them."""
    found = world.experiment(folder / name)
    found["data"]["media"] = {"piece_choice": "fixed", **(media or {})}
    if cached or settings:
        found["data"]["feature_cache"] = cached or {"folder": str(folder / "cache"), **settings}
    return write_yaml(folder / f"{name}.yaml", found)


def built(path: Path, *arguments: str) -> int:
    return cache.main([str(path), "--workers", "0", *arguments])


def trained(path: Path, *options: str) -> int:
    return train.main(["--cfg-path", str(path), *(["--options", *options] if options else [])])


def refused(path: Path, *options: str) -> str:
    """The message of a training that is refused before its first step."""
    with pytest.raises(ConfigError) as error:
        trained(path, *options)
    return " ".join(str(error.value).split())


def test_losses_with_the_cache_equal_those_without(world, tmp_path, monkeypatch, caplog):
    """fails when cached features differ from those of the step, an encoder runs although its features are cached, or a
    second build writes anything"""
    caplog.set_level(logging.INFO, "chatbridge")
    assert trained(config(world, tmp_path, "plain")) == 0
    paths = {values: config(world, tmp_path, values, values=values) for values in ("fp32", "int8")}
    for path in paths.values():
        assert built(path) == 0
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "cache").rglob("*.rows")}
    assert built(paths["fp32"]) == 0
    assert before == {file: file.stat().st_mtime_ns for file in (tmp_path / "cache").rglob("*.rows")}

    def encoder_runs(self: Any, *_: Any) -> None:
        raise AssertionError("an encoder runs")

    for encoder in (EvaViT, BEATs):
        monkeypatch.setattr(encoder, "forward", encoder_runs)
    for path in paths.values():
        assert trained(path) == 0
    plain = losses(tmp_path / "plain")
    assert losses(tmp_path / "fp32") == plain
    assert losses(tmp_path / "int8") != plain
    assert losses(tmp_path / "int8") == pytest.approx(plain, rel=1e-4)
    assert [line["grad_norm"] for line in records(tmp_path / "int8")] == pytest.approx(
        [line["grad_norm"] for line in records(tmp_path / "plain")], rel=0.01
    )


@pytest.mark.slow
def test_workers_read_the_same(world, tmp_path):
    """fails when features change on the way from a loader worker"""
    assert trained(config(world, tmp_path, "plain")) == 0
    path = config(world, tmp_path, "cached", values="fp32")
    assert cache.main([str(path), "--workers", "1"]) == 0
    assert trained(path, "data.num_workers=2") == 0
    assert losses(tmp_path / "cached") == losses(tmp_path / "plain")


@pytest.mark.slow
@pytest.mark.parametrize("batching", ["grouped", "packed"])
def test_every_way_to_batch_reads_the_same(world, tmp_path, batching):
    """fails when features of a packed row belong to another conversation"""
    options = [f"data.batching={batching}", "model.language.attention=eager"]
    assert trained(config(world, tmp_path, "plain"), *options) == 0
    path = config(world, tmp_path, "cached", values="fp32")
    assert built(path) == 0 and trained(path, *options) == 0
    assert losses(tmp_path / "cached") == losses(tmp_path / "plain")


@pytest.mark.slow
def test_random_pieces_are_encoded_in_each_step(world, tmp_path, capfd):
    """fails when frames that training draws come from a cache, or the run does not say which modality and why"""
    assert trained(config(world, tmp_path, "plain", {"piece_choice": "random"})) == 0
    path = config(world, tmp_path, "cached", {"piece_choice": "random"}, values="fp32")
    assert built(path) == 0
    assert trained(path) == 0
    assert losses(tmp_path / "cached") == losses(tmp_path / "plain")
    said = capfd.readouterr().err
    assert "feature cache: image from" in said
    assert "feature cache: not for video: frames are drawn at random; data.media.piece_choice: fixed" in said
    assert "feature cache: not for audio: clips are drawn at random" in said
    assert {path.name.partition("-")[0] for path in (tmp_path / "cache").glob("*-*")} == {"image"}


def test_a_changed_file_is_refused_and_built_again(tmp_path, monkeypatch):
    """fails when a run uses the features of what a file was, or a rebuild encodes more than the changed file"""
    monkeypatch.setattr(content, "RECENT_NS", -(10**12))  # trust the times of files that were written just now
    world = MiniWorld(tmp_path / "world")
    path = config(world, tmp_path, "run", values="fp32", modalities=["image"])
    assert built(path) == 0
    changed = world.folder / "images/i1.jpg"
    times = changed.stat()
    changed.write_bytes(jpeg(33, side=32))
    os.utime(changed, ns=(times.st_atime_ns, times.st_mtime_ns))
    message = refused(path)
    assert "features of image are incomplete" in message and "image_qa: 1 of 6 samples" in message
    assert f"build what is missing: chatbridge cache {path}" in message and "pictures" not in message
    (folder,) = (tmp_path / "cache").glob("image-*")
    before = sum(file.stat().st_size for file in folder.glob("*.rows"))
    assert built(path) == 0
    row = 4 * 5 * 24 + 5 + 27
    assert sum(file.stat().st_size for file in folder.glob("*.rows")) == before + row // 64 * 64
    assert trained(path) == 0


def test_other_weights_are_refused_with_both_fingerprints(world, tmp_path):
    """fails when features of another encoder are used, or the message does not lead to the file that differs"""
    weights = tmp_path / "vision.safetensors"
    encoder = tiny_model().encoders["vision"]
    save_component(encoder, weights)
    path = config(world, tmp_path, "run", values="bf16", modalities=["image"])
    option = f"model.encoders.vision.weights={weights}"
    assert built(path, "--options", option) == 0
    before = json.loads(next((tmp_path / "cache").glob(f"*/{SET}")).read_text())["encoder"]["fingerprint"]
    with torch.no_grad():
        next(encoder.parameters()).view(-1)[-1].add_(1e-3)  # one value of one tensor
    save_component(encoder, weights)
    message = refused(path, option)
    assert f"encoder.fingerprint: {before} in the cache" in message
    assert f"the weights file {weights} has changed since" in message
    assert built(path, "--options", option) == 0
    assert trained(path, option) == 0


def test_other_preprocessing_is_refused_before_anything_is_built(world, tmp_path):
    """fails when images are read in another way than those that were encoded, or the message hides which setting"""
    assert built(config(world, tmp_path, "run", values="bf16")) == 0
    other = config(world, tmp_path, "other", {"pixels": "float"}, values="bf16")
    message = refused(other)
    assert message.count("made in another way") == 3  # every modality at once
    assert "preprocessing.limits.pixels: uint8 in the cache, float now" in message
    assert not (tmp_path / "other").exists()
    assert "values: bf16 in the cache, int8 now" in refused(config(world, tmp_path, "int8", values="int8"))


@pytest.mark.slow
def test_broken_media_fail_as_without_the_cache(tmp_path):
    """fails when the failure log, the replacements or the note about missing sound differ with the cache"""
    world = MiniWorld(tmp_path / "world")
    (world.folder / "images/i2.jpg").write_bytes(b"no image")
    (world.folder / "videos/v1.mp4").write_bytes(mp4(num_frames=3))
    (world.folder / "audios/v3.wav").unlink()
    (world.folder / "audios/v4.wav").write_bytes(mp4(num_frames=3))  # a video without an audio track
    for name, cached in (("plain", {}), ("cached", {"values": "fp32"})):
        path = config(world, tmp_path, name, **cached)
        source = {"joint": world.source("questions", "tva-qa"), "image_qa": world.source("questions", "ti-qa")}
        found = json.loads(json.dumps(world.experiment(tmp_path / name, max_steps=6)))
        found["data"] |= {"sources": {key: {**one, "failure_budget": 0.9} for key, one in source.items()},
                          "media": {"piece_choice": "fixed"}}  # fmt: skip
        if cached:
            found["data"]["feature_cache"] = {"folder": str(tmp_path / "cache"), **cached}
        write_yaml(path, found)
        if cached:
            assert built(path) == 0
        assert trained(path) == 0
    assert losses(tmp_path / "cached") == losses(tmp_path / "plain")
    logged = [(tmp_path / name / "failures.jsonl").read_text() for name in ("plain", "cached")]
    assert logged[0] == logged[1]
    assert "i2.jpg" in logged[0] and "without sound" in logged[0]
    listed = [json.loads(line) for line in (tmp_path / "cache/failures.jsonl").read_text().splitlines()]
    assert {one["source"] for one in listed} == {"image_qa", "joint"}


@pytest.fixture(scope="module")
def small_cache(world, tmp_path_factory) -> Path:
    """A folder with a cache of the images, of which the sources lack some."""
    folder = tmp_path_factory.mktemp("small")
    assert built(config(world, folder, "run", values="bf16", modalities=["image"]), "--limit", "2") == 0
    return folder


def test_missing_features_are_counted_at_the_start(world, small_cache):
    """fails when a run begins without features that it will need"""
    path = config(world, small_cache, "run", values="bf16", modalities=["image"])
    message = refused(path)
    assert "pictures: 4 of 6 samples" in message and "image_qa: 2 of 6 samples" in message  # of three colors
    assert "encoder.fingerprint" in refused(path, "run.seed=5")  # an encoder without weights has other random values


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"folder": "{tmp}/absent"}, "there is no folder"),
        ({"folder": "{tmp}"}, "is not a feature cache"),
        ({"folder": "{tmp}/run.yaml"}, "is a file"),
        ({"modalities": ["image", "vidoe"]}, "did you mean video?"),
        ({"values": "fp16"}, "bf16"),
        ({}, "no features of video"),
    ],
)
def test_mistakes_in_the_settings_are_reported(world, small_cache, tmp_path, settings, words):
    """fails when a mistake is found after the model was built, or without the next step"""
    given = {"folder": str(small_cache / "cache"), **settings}
    cached = {key: value.format(tmp=tmp_path) if isinstance(value, str) else value for key, value in given.items()}
    assert words in refused(config(world, tmp_path, "run", cached=cached))


def test_modalities_that_cannot_be_cached_are_refused_by_name(world, small_cache):
    """fails when a listed modality is silently encoded in each step, or a trained encoder is cached"""
    path = config(world, small_cache, "random", {"piece_choice": "random"}, modalities=["image", "video"])
    assert "names video, but frames are drawn at random" in refused(path)
    path = config(world, small_cache, "trained", modalities=["image"])
    message = refused(path, "model.trainable=[bridges.*,encoders.vision.norm.*]")
    assert "names image, but its encoder 'vision' is trained (model.trainable: 'encoders.vision.norm.*')" in message
    adapted = refused(path, "model.adapters=[{targets: [encoders.vision.*]}]")
    assert "its encoder 'vision' has adapters (model.adapters: 'encoders.vision.*')" in adapted
    assert "has trainable tensors" in refused(path, "model.trainable=[bridges.*,'*.norm.weight']")
    missing = f"data.feature_cache.folder={small_cache / 'absent'}"
    message = refused(path, "model.trainable=[bridges.*]", "model.adapters=[{targets: ['*qkv']}]", missing)
    assert "encoder 'vision' has adapters ('*qkv')" in message and "there is no folder" in message
    with pytest.raises(ConfigError, match="'encoders.vision.norm.\\*'"):
        built(path, "--options", "model.trainable=[bridges.*,encoders.vision.norm.*]")


def test_features_of_another_dtype_are_neither_built_nor_read(world, small_cache):
    """fails when an exception to run.precision for an encoder is left aside, so that features have another dtype"""
    path = config(world, small_cache, "exception", modalities=["image"])
    for pattern in ("encoders.vision", "encoders.*"):
        option = f"run.compute_dtype={{{pattern}: fp32}}"
        with pytest.raises(ConfigError, match="includes an encoder, but cached features are of run.precision"):
            built(path, "--options", option)
        assert "includes an encoder, but cached features are of run.precision" in refused(path, option)


def test_a_wrong_argument_is_named_by_itself(world, tmp_path):
    """fails when a mistake on the command line is reported at a line of the file, or without the nearest modality"""
    path, file = config(world, tmp_path, "run", modalities=["image"]), tmp_path / "a_file"
    file.touch()
    for arguments, nearest, words in (
        (("--modality", "imge"), "image", "imge"), (("--folder", str(file)), None, f"{file} is a file")
    ):  # fmt: skip
        with pytest.raises(ConfigError) as error:
            built(path, *arguments)
        (problem,) = error.value.problems
        assert (problem.file, problem.line, problem.nearest) == (arguments[0], None, nearest)
        assert words in problem.message


def test_a_processor_that_draws_is_found_by_the_build(world, tmp_path, monkeypatch):
    """fails when random crops of a plugin's processor are stored as if they were the image"""

    class Cropped(ImageProcessor):
        def __call__(self, ref: Any, rng: Any = None) -> torch.Tensor:
            x = super().__call__(ref, rng)
            return x if rng is None or rng.random() < 0.5 else x.flip(-1)

    usual = EvaViT.Config.processor

    def processor(self: Any, modality: str, train: bool, count: int) -> Any:
        return Cropped(size=28, lean=True) if modality == "image" else usual(self, modality, train, count)

    monkeypatch.setattr(EvaViT.Config, "processor", processor)
    with pytest.raises(ConfigError, match="the processor of image draws at random"):
        built(config(world, tmp_path, "run", modalities=["image"]))
    assert not list((tmp_path / "cache").rglob("*.rows"))


def test_check_says_how_each_modality_is_read(world, small_cache, capsys):
    """fails when the plan of a run does not show which modalities are cached, and why others are not"""
    path = config(world, small_cache, "run", {"piece_choice": "random"}, values="bf16")
    assert train.main(["--cfg-path", str(path), "--check"]) == 0
    said = capsys.readouterr().out
    assert f"feature cache: image from {small_cache / 'cache'} (bf16)" in said
    assert "feature cache: not for audio: clips are drawn at random" in said


def test_a_newer_version_is_named(world, small_cache, tmp_path):
    """fails when a cache of a later format is read as if it had this one"""
    folder = tmp_path / "cache/image-0123"
    folder.mkdir(parents=True)
    (folder / SET).write_text(json.dumps({"format": 99}))
    assert "newer version (format 99" in refused(config(world, tmp_path, "run", modalities=["image"]))


@pytest.mark.slow
def test_damage_is_reported_and_repaired(world, tmp_path):
    """fails when a damaged shard is used, --verify misses it, or a rebuild keeps it"""
    path = config(world, tmp_path, "run", values="bf16", modalities=["image"])
    assert built(path) == 0 and built(path, "--verify") == 0
    (rows,) = (tmp_path / "cache").glob("image-*/*.rows")
    whole = rows.read_bytes()
    rows.write_bytes(whole[:-1])
    assert f"{rows}: has" in refused(path)
    rows.write_bytes(whole[:100] + bytes([whole[100] ^ 1]) + whole[101:])
    assert built(path, "--verify") == 1 and not rows.exists()
    assert "incomplete" in refused(path)
    assert built(path) == 0
    for keys in (tmp_path / "cache").glob("image-*/*.keys"):
        keys.write_bytes(keys.read_bytes()[:-9])
    assert built(path, "--verify") == 1 and "incomplete" in refused(path)
    assert built(path) == 0 and trained(path) == 0


def test_two_builds_in_one_folder_are_refused(world, small_cache):
    """fails when two commands write the index of one cache"""
    path = config(world, small_cache, "run", modalities=["image"])
    with FileLock(small_cache / "cache/.lock"), pytest.raises(ConfigError, match="another process builds there"):
        built(path)


def test_a_folder_that_cannot_be_written_is_named(world, tmp_path):
    """fails when the mistake is found after the encoders were loaded"""
    (tmp_path / "file").touch()
    path = config(world, tmp_path, "run", cached={"folder": str(tmp_path / "file/cache")})
    with pytest.raises(ConfigError, match="cannot be written: Not a directory"):
        built(path)


def test_a_disk_that_is_too_small_is_told_before_the_build(world, tmp_path, monkeypatch):
    """fails when a build starts that cannot end"""
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("chatbridge.experiment.feature_cache.build.shutil.disk_usage", lambda folder: usage)
    with pytest.raises(ConfigError, match="has 1.0 kB free, the features need about 14.") as error:
        built(config(world, tmp_path, "run", values="fp32"))
    assert "values: int8" in str(error.value)
    assert not list((tmp_path / "cache").rglob("*.rows"))


@pytest.mark.slow
def test_the_folder_may_move_and_nothing_else(world, tmp_path):
    """fails when a resumed run insists on the old folder, or goes on with other features unasked"""
    path = config(world, tmp_path, "run", values="bf16", modalities=["image"])
    assert built(path) == 0
    assert trained(path, "run.stop_at=2") == 0
    (tmp_path / "cache").rename(tmp_path / "moved")
    moved = f"data.feature_cache.folder={tmp_path / 'moved'}"
    assert trained(path, moved) == 0 and len(losses(tmp_path / "run")) == 4
    assert "other settings" in refused(path, "data.feature_cache=null")


@pytest.mark.slow
def test_two_ranks_build_one_cache(world, tmp_path):
    """fails when ranks wait for each other's locks, leave out or repeat samples, or write an index of their own only"""
    path = config(world, tmp_path, "run", values="fp32")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [*launcher, "-m", "chatbridge", "cache", str(path), "--workers", "1", "--options", "run.device=cpu"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "cache").rglob("*.keys"))) == 6  # three modalities, two ranks
    assert trained(config(world, tmp_path, "plain")) == 0 and trained(path) == 0
    assert losses(tmp_path / "run") == losses(tmp_path / "plain")


SLOWED = """
import sys, time
from chatbridge.datasets.feature_cache import shards
from chatbridge.experiment.feature_cache import encode as encoding
from chatbridge.cli import cache
shards.ShardWriter.commit_if_due = lambda self: self.commit() or True  # a shard per batch
def encoded(*arguments, encode=encoding.encoded):
    time.sleep(0.05)
    return encode(*arguments)
encoding.encoded = encoded
sys.exit(cache.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_build_that_is_killed_continues(world, tmp_path):
    """fails when a kill -9 leaves an entry that is read, or the next build repeats or misses something"""
    path = config(world, tmp_path, "run", values="fp32")
    command = [sys.executable, "-c", SLOWED, str(path), "--workers", "0", "--batch", "1"]
    rows: set[Path] = set()
    for more in (1, 3, 6):
        process = subprocess.Popen(command, env=environment(), stderr=subprocess.DEVNULL)
        while process.poll() is None and len(set((tmp_path / "cache").rglob("*.keys")) - rows) < more:
            time.sleep(0.005)
        process.kill()
        process.wait()
        found = set((tmp_path / "cache").rglob("*.keys"))
        assert rows <= found  # nothing that was committed is made again
        rows = found
    assert len(rows) >= 10 and built(path) == 0
    sums = [len(read_container(one)[1]["high"]) for one in (tmp_path / "cache").rglob("*.keys")]
    indexes = [FeatureIndex(one.parent) for one in (tmp_path / "cache").rglob("index")]
    assert sum(sums) == sum(map(len, indexes))  # no piece twice
    assert trained(config(world, tmp_path, "plain")) == 0 and trained(path) == 0
    assert losses(tmp_path / "run") == losses(tmp_path / "plain")
