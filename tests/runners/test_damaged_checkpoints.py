"""A damaged checkpoint is never loaded, and never affects other checkpoints."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from chatbridge.common.dist import Dist
from chatbridge.common.errors import ConfigError
from chatbridge.models.checkpoint_manifest import UnusableCheckpoint, read_manifest, seal_manifest
from chatbridge.models.checkpoints import checkpoints
from chatbridge.models.start_from_checkpoint import start_from_checkpoint
from chatbridge.runners.config import RunConfig
from chatbridge.runners.resume import ResumePoint, check_resumable, resume_point
from chatbridge.runners.run_folder import open_run_folder, plan_start
from tests.helpers.tiny_parts import TinyModel
from tests.helpers.tiny_run import resumed, tiny_runner

FILES = ("model.safetensors", "optimizer.pt", "state.json", "manifest.json")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run with checkpoints of steps 2 and 4."""
    tiny_runner(tmp_path / "run", save_every=2, stop_at=4).train()
    return tmp_path / "run"


def settings(folder: Path, **values: Any) -> RunConfig:
    return RunConfig(output_dir=folder, max_steps=8, **values)


def point(folder: Path, **values: Any) -> ResumePoint:
    config = settings(folder, **values)
    found = resume_point(plan_start(config, {}), config, Dist())
    assert found is not None
    return found


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 0x10
    path.write_bytes(content)


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_byte_is_reported(run: Path, name: str) -> None:
    """fails when a checkpoint with a changed byte is resumed, started from or loaded silently"""
    newest = run / "checkpoints/step_000004"
    path = newest / name
    size = path.stat().st_size
    for at in (0, size // 3, size // 2, size - 2):
        flip(path, at)
        with pytest.raises(UnusableCheckpoint, match=name):
            check_resumable(newest)
        if name in ("model.safetensors", "manifest.json"):
            with pytest.raises(ValueError, match=rf"(?s){name}.*copy the checkpoint again.*step_000002"):
                start_from_checkpoint(TinyModel(), run)
        else:  # not read by start_from_checkpoint, but reported
            assert f"{name}: is damaged" in str(start_from_checkpoint(TinyModel(), run))
        flip(path, at)
    check_resumable(newest)


def test_a_manifest_checksum_covers_every_byte(run: Path) -> None:
    """fails when the checksum of the manifest itself does not cover a part of it"""
    path = run / "checkpoints/step_000004/manifest.json"
    size = path.stat().st_size
    for at in (*range(0, size, 11), *range(size - 90, size)):
        flip(path, at)
        with pytest.raises(UnusableCheckpoint):
            read_manifest(path.parent)
        flip(path, at)
    read_manifest(path.parent)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def overwrite(path: Path) -> None:
    path.write_bytes(b"\xff\x00" * 40)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", [truncate, empty, overwrite, Path.unlink])
@pytest.mark.parametrize("old", [False, True])
def test_the_newest_undamaged_checkpoint_is_chosen(run: Path, name: str, damage: Any, old: bool) -> None:
    """fails when one unusable file ends a run that has an older checkpoint, or skipped checkpoints are not reported"""
    if old:
        for checkpoint in checkpoints(run / "checkpoints"):
            without_checksums(checkpoint)
    damage(run / "checkpoints/step_000004" / name)
    found = point(run)
    assert found.checkpoint == run / "checkpoints/step_000002"
    assert "skipped step_000004" in found.notes[0] and name in found.notes[0]
    with pytest.raises(ConfigError, match=r"run\.resume") as error:
        point(run, resume=run / "checkpoints/step_000004")
    assert "step_000002" in str(error.value)


def without_checksums(checkpoint: Path) -> None:
    """Rewrite the manifest as an earlier version did."""
    manifest = {key: value for key, value in read_manifest(checkpoint).items() if key not in ("files", "sha256")}
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))


def test_a_checkpoint_without_checksums_loads_with_a_note(run: Path) -> None:
    """fails when checkpoints of earlier versions are refused, or loaded without a note"""
    without_checksums(run / "checkpoints/step_000004")
    assert "has no checksums" in str(point(run)) and point(run).checkpoint.name == "step_000004"
    assert "has no checksums" in str(start_from_checkpoint(TinyModel(), run))


@pytest.mark.parametrize(
    ("file", "key", "value", "text"),
    [
        ("state.json", "step", 3, "of step 3"),
        ("manifest.json", "step", 2, "of step 2"),
        ("manifest.json", "format", "chatbridge-checkpoint-9", "a different version"),
        ("state.json", "moments", 1, "another version"),
    ],
)
def test_another_step_or_version_is_skipped(run: Path, file: str, key: str, value: Any, text: str) -> None:
    """fails when files of another checkpoint or version are loaded"""
    checkpoint = run / "checkpoints/step_000004"
    manifest = read_manifest(checkpoint)
    if file == "manifest.json":
        seal_manifest(checkpoint / file, {**manifest, key: value})
    else:
        without_checksums(checkpoint)
        state = json.loads((checkpoint / file).read_text())
        (checkpoint / file).write_text(json.dumps({**state, key: value}))
    found = point(run)
    assert found.checkpoint.name == "step_000002" and text in found.notes[0]


def test_without_a_usable_checkpoint_the_way_to_start_from_step_0_is_named(run: Path) -> None:
    """fails when a run with damaged checkpoints only starts at step 0 silently, or the message does not say how to"""
    for checkpoint in checkpoints(run / "checkpoints"):
        empty(checkpoint / "optimizer.pt")
    with pytest.raises(ConfigError) as error:
        point(run)
    reported = " ".join(str(error.value).split())
    assert "step_000002/optimizer.pt: is empty" in reported and "step_000004/optimizer.pt: is empty" in reported
    folder = run / "checkpoints"
    assert f"start from step 0: mv {folder} {folder}.damaged and run the same command" in reported


def test_a_skipped_checkpoint_does_not_stop_the_next_save(run: Path) -> None:
    """fails when a damaged checkpoint blocks the name of a new one, or is removed although it could be repaired"""
    Path.unlink(run / "checkpoints/step_000004/manifest.json")
    open_run_folder(run, {}, point(run).checkpoint.name.endswith("2") * 2)
    assert (run / "previous-1/checkpoints/step_000004/model.safetensors").is_file()
    assert resumed(tiny_runner(run, save_every=2)).train() == 0
    assert [path.name for path in checkpoints(run / "checkpoints")] == ["step_000006", "step_000008"]


def error_of(look: Callable[[Path], Any], checkpoint: Path) -> str:
    """The error message about a checkpoint; an unexpected error ends the test."""
    try:
        look(checkpoint)
    except ValueError as error:
        return str(error)
    return ""


VALUES: list[Any] = [None, True, -1, 1.5, float("nan"), 10**400, "x", "\ud800", "\0", [], [1], {}, {"a": 1}, {"a": {}}]


def test_invalid_contents_of_state_or_manifest_are_reported(run: Path) -> None:
    """fails when any content of state.json or manifest.json ends in an error that does not name the file"""
    checkpoint = run / "checkpoints/step_000004"
    contents = [b"\xff\xfe\x00", b"[" * 100_000, b"NaN", b"nul", b"9" * 5000, b"\xef\xbb\xbf{}"]
    contents += [json.dumps(value).encode() for value in VALUES]
    for name in ("state.json", "manifest.json"):
        whole = json.loads((checkpoint / name).read_text())
        kept = {key: value for key, value in whole.items() if key not in ("files", "sha256")}
        changed = [{**kept, key: value} for key in kept for value in VALUES]
        changed += [{other: kept[other] for other in kept if other != key} for key in kept]
        if name == "manifest.json":
            parts = kept["components"]
            for value in VALUES:
                changed += [{**kept, "components": {**parts, "language": value}}]
                changed += [{**kept, "files": value}, {**kept, "files": {"model.safetensors": value}}]
                changed += [{**kept, "sha256": value}, {**kept, "tokenizer": {"fingerprint": value}}]
                changed += [{**kept, "model": {"encoders": value}}, {**kept, "template": {"name": value}}]
        copy = checkpoint.parent / "fuzz/step_000004"
        shutil.copytree(checkpoint, copy)
        without_checksums(copy)
        for content in [*contents, *(json.dumps(one).encode() for one in changed)]:
            (copy / name).write_bytes(content)
            for look in (check_resumable, partial(start_from_checkpoint, TinyModel())):
                reported = error_of(look, copy)
                is_reported = str(copy) in reported or "frozen weights:" in reported
                assert not reported or is_reported, (content[:300], reported)
        shutil.rmtree(copy)


def test_all_ranks_use_the_choice_of_rank_0(tmp_path: Path) -> None:
    """fails when a rank chooses by itself: it may see other files, and would resume from another step"""

    class Second(Dist):
        def gather(self, value: Any) -> list[Any]:
            assert value is None
            return [ResumePoint(tmp_path / "chosen by rank 0"), None]

    found = resume_point(tmp_path / "step_000004", settings(tmp_path), Second(rank=1, world_size=2))
    assert found is not None and found.checkpoint.name == "chosen by rank 0"
