"""Stage 1 and MiniGPT-4: small copies of the published files become the shards that the shipped mixtures read."""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from chatbridge.common.errors import DataError
from chatbridge.config.merge import load
from chatbridge.config.schema import parse
from chatbridge.datasets.build_mixture import build_mixture
from chatbridge.datasets.builders.captions import Captions
from chatbridge.datasets.loader import build_loader
from chatbridge.experiment.build import build_model
from chatbridge.experiment.data import open_data
from chatbridge.experiment.open import open_config
from chatbridge.experiment.roots import Experiment
from dataset_prep import cc_sbu_align, wavcaps, web_images, web_videos
from dataset_prep.common.split_zip import SplitZip
from tests.helpers import stage1_inputs as inputs
from tests.helpers.mini_world import write_language_model, write_yaml
from tests.helpers.stage1_inputs import manifest_of, without_name
from tests.helpers.tiny_models import AUDIO, PERCEIVER, VISION

ROOT = Path(__file__).parents[2]


# ---------------------------------------------------------------- videos


def test_videos_of_a_folder(here: Path):
    """fails when a video of the csv is not found, loses its caption, or a missing one is not counted"""
    table, videos = inputs.write_webvid(here / "raw")
    arguments = ["webvid", "--list", str(table), "--videos", str(videos), "--workers", "2", "--per-shard", "2"]
    assert web_videos.main(arguments) == 0
    manifest = manifest_of(Path("data/webvid"))
    assert manifest.samples == 4 and sorted(manifest.files) == ["00000.tar", "00001.tar"]
    assert sum(manifest.skipped.values()) == 2 and manifest.skipped["is in the list but not in the folder"] == 1
    with tarfile.open("data/webvid/00000.tar") as tar:
        assert tar.getnames()[:3] == ["1000.json", "1000.mp4", "1000.txt"]
        assert tar.extractfile("1000.txt").read() == b'A clip, number 0, with "quotes"'  # type: ignore[union-attr]
    assert not Path("data/webvid/.work").exists()
    before = manifest.files["00001.tar"].sha256
    Path("data/webvid/00001.tar").unlink()
    assert web_videos.main(arguments) == 0
    assert manifest_of(Path("data/webvid")).files["00001.tar"].sha256 == before


def test_videos_of_video2dataset_and_frame_folders(here: Path):
    """fails when the tars of video2dataset or the published layout of frames is not read or written"""
    tars = inputs.write_video2dataset(here / "tars")
    assert web_videos.main(["webvid", "--videos", str(tars), "--workers", "0", "--out", "shards"]) == 0
    manifest = manifest_of(Path("shards"))
    assert manifest.samples == 2 and manifest.skipped == {"has no caption": 1}
    table, videos = inputs.write_webvid(here / "raw", count=2)
    command = ["webvid", "--list", str(table), "--videos", str(videos), "--workers", "0", "--as", "frames"]
    assert web_videos.main(command) == 0
    mapper = Path("data/webvid_frames/pretrain_txt_mapper.json")
    assert [record["video_id"] for record in json.loads(mapper.read_text())] == ["1000", "1001"]
    config = {"tag": "tv", "annotations": str(mapper), "video_folder": "data/webvid_frames/videos", "frames": 4}
    source = Captions(parse(Captions.Config, config), "webvid")
    assert len(source) == 2 and source.record(0, np.random.default_rng(0)).references == (
        'a clip, number 0, with "quotes"',
    )
    (here / "open.csv").write_text('video,caption,fps\npart/1000.mp4,"a long, long one",25\n')
    command = ["webvid", "--videos", str(videos), "--workers", "0", "--out", "open", "--list", "open.csv"]
    assert web_videos.main([*command, "--id-column", "video", "--caption-column", "caption"]) == 0
    assert manifest_of(Path("open")).samples == 1
    command = ["webvid", "--list", str(table), "--videos", str(videos)]
    with pytest.raises(DataError, match="has no column caption"):
        web_videos.main([*command, "--caption-column", "caption"])
    with pytest.raises(DataError, match="the captions are missing"):
        web_videos.main(["webvid", "--videos", str(videos)])


# ---------------------------------------------------------------- audio


@pytest.mark.parametrize(("part_bytes", "num_parts"), [(1000, 4), (40, 100)])
def test_split_zips(tmp_path: Path, part_bytes: int, num_parts: int):
    """fails when a member that continues in the next part is not read, or a missing part is not named"""
    members = {f"a/{k}.flac": bytes([k]) * 700 for k in range(12)}
    parts = inputs.write_split_zip(tmp_path / "AudioSet_SL.zip", members, part_bytes)
    assert len(parts) > num_parts
    archive = SplitZip(parts[-1])
    assert {name: archive.read(name) for name in archive.members} == members
    content = bytearray(parts[1].read_bytes())
    content[-1] ^= 1
    parts[1].write_bytes(content)
    with pytest.raises(ValueError, match="damaged"):
        [archive.read(name) for name in members]
    parts[1].unlink()
    with pytest.raises(DataError, match=r"missing in its folder: AudioSet_SL\.z02"):
        SplitZip(parts[-1])
    (tmp_path / "page.zip").write_text("<html>")
    with pytest.raises(DataError, match="is not a zip"):
        SplitZip(tmp_path / "page.zip")


@pytest.mark.skipif(shutil.which("zip") is None, reason="the zip program is not installed")
def test_split_zips_of_the_zip_program(tmp_path: Path):
    """fails when archives of the program that WavCaps was packed with are not read correctly"""
    members = {f"{k}.flac": inputs.flac(1.0, seed=k) for k in range(20)}
    for name, content in members.items():
        (tmp_path / name).write_bytes(content)
    for options in ([], ["-fz"]):  # plain and zip64
        subprocess.run(["zip", "-q", "-s", "64k", *options, "x.zip", *members], cwd=tmp_path, check=True)
        archive = SplitZip(tmp_path / "x.zip")
        assert len(archive.parts) > 2 and {name: archive.read(name) for name in archive.members} == members
        for part in archive.parts:
            part.unlink()


@pytest.mark.parametrize("name", ["audioset_sl", "freesound"])
def test_wavcaps(here: Path, name: str):
    """fails when a file is not found by its id, a damaged or excluded one is kept, or the bytes change"""
    listed, members = inputs.wavcaps_files(name == "audioset_sl", [0.3, 0.2, 0.2, 0.2])
    first, second, third, _ = members
    members[second] = b"fLaC" + bytes(300)
    del members[third]
    inputs.write_split_zip(here / "x.zip", members, 1500)
    (here / "x.json").write_text(json.dumps(listed))
    entries: Any = listed["data"]
    key = {"audioset_sl": "AudioSet", "freesound": "FreeSound"}[name]
    (here / "exclude.json").write_text(json.dumps({key: [entries[3]["id"]]}))
    command = [name, "--zip", "x.zip", "--json", "x.json", "--workers", "0"]
    assert wavcaps.main([*command, "--exclude", "exclude.json"]) == 0
    out = Path("data") / name
    manifest = manifest_of(out)
    reasons = {"cannot be decoded": 1, "is on the list of --exclude": 1, "its audio is not in the zip": 1}
    assert manifest.samples == 1 and manifest.skipped == reasons
    with tarfile.open(out / "00000.tar") as tar:
        stem = Path(first).stem
        assert tar.getnames() == [f"{stem}.{ending}" for ending in ("flac", "json", "txt")]
        assert tar.extractfile(f"{stem}.flac").read() == members[first]  # type: ignore[union-attr]
    with pytest.raises(DataError, match="exclude: 'exclude.json' before, None now"):
        wavcaps.main(command)


# ---------------------------------------------------------------- MiniGPT-4's second stage


def test_cc_sbu_align(here: Path):
    """fails when the YAML cannot read the data of the zip of stage 2, or a caption without an image is kept"""
    archive = inputs.write_cc_sbu_align(here / "cc_sbu_align.zip")
    for _ in range(2):
        assert cc_sbu_align.main(["--zip", str(archive)]) == 0
        manifest = manifest_of(Path("data/cc_sbu_align"))
        assert manifest.samples == 3
        assert manifest.skipped == {"its image cannot be opened": 1, "its image is not in the zip": 1}
    (here / "configs").symlink_to(ROOT / "configs")
    node = load(ROOT / "configs/datasets/minigpt4_cc_sbu_align.yaml")[0]["data"]["sources"]["minigpt4_cc_sbu_align"]
    source = Captions(parse(Captions.Config, without_name(node)), "align")
    assert len(source) == 3 and source.record(2, np.random.default_rng(0)).references == ("The image shows 2.",)
    (here / "page.zip").write_text("<html>")
    with pytest.raises(DataError, match="is not a zip"):
        cc_sbu_align.main(["--zip", "page.zip"])


# ---------------------------------------------------------------- all of stage 1


def prepare_all(folder: Path) -> None:
    """Convert the six sources of the published mixture to data/<set>/*.tar."""
    lists = inputs.write_lists(folder / "raw")
    for name in ("cc3m", "cc12m", "laion"):
        web_images.main([name, "--list", str(lists[name])])
    table, videos = inputs.write_webvid(folder / "raw/webvid", count=2)
    web_videos.main(["webvid", "--list", str(table), "--videos", str(videos), "--workers", "0"])
    for name, seconds in (("audioset_sl", [0.3, 0.3]), ("freesound", [0.1, 2.0])):
        listed, members = inputs.wavcaps_files(name == "audioset_sl", seconds)
        inputs.write_split_zip(folder / f"{name}.zip", members, 4000)
        (folder / f"{name}.json").write_text(json.dumps(listed))
        wavcaps.main([name, "--zip", f"{name}.zip", "--json", f"{name}.json", "--workers", "0"])


def small_run(folder: Path) -> Path:
    """The shipped mixture with a small model and smaller batches; frames and clips are those of the mixture."""
    write_language_model(folder / "lm")
    routes = {
        "image": {"encoder": "vision", "bridge": "perceiver"},
        "video": {"encoder": "vision", "bridge": "perceiver", "frames": {"count": 4, "merge": "concat"}},
        "audio": {"encoder": "audio", "bridge": "perceiver", "clips": {"count": 1}},
    }
    language = {"name": "causal_lm", "weights": "lm", "template": "vicuna_v0"}
    model = {"encoders": {"vision": VISION, "audio": AUDIO}, "bridges": {"perceiver": PERCEIVER}, "routes": routes}
    names = load(ROOT / "configs/mixtures/chatbridge_alignment.yaml")[0]["data"]["sources"]
    content = {
        "base": ["mixtures/chatbridge_alignment.yaml"],
        "model": {**model, "language": language, "trainable": ["bridges.*"]},
        "data": {"num_workers": 0, "sources": {name: {"batch": 2} for name in names}},
        "run": {"output_dir": "runs/mini", "max_steps": 4, "micro_batch": 2},
    }
    return write_yaml(folder / "run.yaml", content)


def test_the_published_mix_on_miniatures(here: Path):
    """fails when the shipped mixture cannot read the output of the scripts, or a source has wrong frames or
    clips, or no finite loss"""
    prepare_all(here)
    opened = open_config(Experiment, small_run(here))
    sources = open_data(opened).sources
    config = opened.config
    built = build_model(config.model)
    model = built.model
    built.load_weights(torch.device("cpu"), "fp32")
    mixture = build_mixture(config.data, sources, config.run.seed, 2)
    layout = built.layout(config.template, config.data.max_tokens)
    shapes = {}
    for name in mixture.names:
        step = next(step for step in range(10_000) if mixture.draws(step)[0].source == name)
        loader = build_loader(
            mixture, layout, model.processors(train=True), micro_batch=2, start_step=step, stop_step=step + 1,
            num_workers=0, seed=1,
        )  # fmt: skip
        with loader:
            ((batch,),) = loader
        assert set(batch.sources) == {name} and not batch.failures
        (media,) = batch.media.values()
        shapes[name] = tuple(media.shape)
        with torch.no_grad():
            assert torch.isfinite(model(batch).total)
    image, audio = (3, 28, 28), (32, 32)
    assert shapes == {
        "cc3m": (2, *image), "cc12m": (2, *image), "laion": (2, *image), "webvid": (2, 4, *image),
        "audioset_sl": (2, 1, *audio), "freesound": (2, 2, *audio),
    }  # fmt: skip
