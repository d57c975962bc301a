"""Files are complete or unchanged, and a torn line loses only itself."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from chatbridge.common.safe_files import append_lines, file_lock, read_json_lines, replace_text, underlying_os_error
from chatbridge.common.types import Failure
from chatbridge.config.yaml_io import write_yaml
from chatbridge.datasets.failure_log import FailureLog
from tests.helpers.small_disk import small_disk


def test_a_line_after_a_torn_one_is_read(tmp_path: Path) -> None:
    """fails when a line that a crash cut off swallows the next one, or the reader stops there or stays silent"""
    path = tmp_path / "metrics.jsonl"
    append_lines(path, ['{"step": 1}'])
    with path.open("ab") as file:
        file.write(b'{"step": 2, "lo')
    append_lines(path, ['{"step": 3}', '{"text": "a\u2028b"}'])
    append_lines(path, [])
    found = read_json_lines(path)
    assert [record.get("step") for record in found.records] == [1, 3, None]
    assert found.torn == (2,) and found.note == "1 torn lines are skipped (line 2)"
    assert read_json_lines(path).records[2]["text"] == "a\u2028b"


def test_the_failure_log_continues_after_a_torn_line(tmp_path: Path) -> None:
    """fails when the first failure after a crash is lost with the line that the crash cut off"""
    path = tmp_path / "failures.jsonl"
    path.write_bytes(b'{"source": "a", "id": "torn", "rea')
    failure_log = FailureLog(path, {})
    failure_log.add([Failure(source="a", id="next", reason="broken", drawn=0)])
    assert [record["id"] for record in read_json_lines(path).records] == ["next"]
    assert failure_log.failed["a"] == 1


def test_a_full_disk_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    """fails when resolved.yaml is rewritten in place, a full disk leaves half of it, or the error names no file"""
    path = tmp_path / "resolved.yaml"
    write_yaml({"run": {"seed": 1}}, path)
    before = path.read_bytes()
    for write in (lambda: write_yaml({"run": {"text": "x" * 9000}}, path), lambda: replace_text(path, "y" * 9000)):
        with small_disk(4096), pytest.raises(OSError) as error:
            write()
        assert error.value.filename == str(path)
        assert path.read_bytes() == before
        assert os.listdir(tmp_path) == ["resolved.yaml"]


def test_what_a_killed_owner_was_writing_is_removed(tmp_path: Path) -> None:
    """fails when the next owner of a lock leaves the part of a killed one, or removes that of another file"""
    path, part, other = tmp_path / "a[1].json", tmp_path / ".a[1].json.7-7.part", tmp_path / ".b.json.7-7.part"
    part.touch()
    other.touch()
    with file_lock(path):
        replace_text(path, "{}")
    assert sorted(tmp_path.iterdir()) == [other, path]


def test_the_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """fails when the error names the temporary file beside the one that was to be written"""
    path = tmp_path / ("x" * 250)
    with pytest.raises(OSError, match="too long") as error:
        replace_text(path, "a")
    assert error.value.filename == str(path)


def test_a_partial_write_is_an_error(tmp_path: Path) -> None:
    """fails when the rest of a line that did not fit is silently dropped"""
    path = tmp_path / "failures.jsonl"
    with small_disk(100), pytest.raises(OSError):
        append_lines(path, [json.dumps({"id": number}) for number in range(40)])
    append_lines(path, ['{"id": "later"}'])
    assert read_json_lines(path).records[-1] == {"id": "later"}


def test_the_system_error_below_a_library_error_is_found() -> None:
    """fails when a full disk is no longer recognised in the error of a library"""
    below = OSError(28, "No space left on device")
    outer = RuntimeError("unexpected pos 704 vs 598")
    outer.__context__ = below  # as torch has it
    assert underlying_os_error(outer) is below
    found = underlying_os_error(ValueError("Error while serializing: I/O error: No space left on device (os error 28)"))
    assert found is not None and found.errno == 28
    assert underlying_os_error(ValueError("another error")) is None


WRITES_IN_PLACE = {  # file -> why no process can read half of what it writes
    "chatbridge/cli/export_hf.py": "in a folder that gets its name when it is whole",
    "chatbridge/cli/export_vllm.py": "in a folder that gets its name when it is whole",
    "chatbridge/common/safe_files.py": "writes under another name, then replaces",
    "chatbridge/models/checkpoint_manifest.py": "in a folder that gets its name when it is whole",
    "chatbridge/runners/checkpoint.py": "in a folder that gets its name when it is whole",
    "chatbridge/serve/saved_conversations/conversation_file.py": "in a temporary folder of its own",
    "dataset_prep/web_images.py": "inside Preparation.writing, which replaces",
}


def test_no_text_is_written_in_place(repository: Path) -> None:
    """fails when a note, a manifest or a marker of finished work is written so that another process may read half"""
    found = set()
    for folder in ("chatbridge", "dataset_prep", "benchmarks"):
        for path in (repository / folder).rglob("*.py"):
            name = path.relative_to(repository).as_posix()
            if not name.startswith(("dataset_prep/torture/", "benchmarks/load_memory", "benchmarks/data_memory")):
                found |= {name for line in path.read_text(encoding="utf-8").splitlines() if ".write_text(" in line}
    assert found == set(WRITES_IN_PLACE)


def test_safetensors_files_are_readable_like_other_files(tmp_path: Path) -> None:
    from chatbridge.cli.weights.shard_writer import write_safetensors

    (tmp_path / "usual").write_text("", encoding="utf-8")
    write_safetensors({"x": torch.zeros(2)}, tmp_path / "x.safetensors")
    assert (tmp_path / "x.safetensors").stat().st_mode == (tmp_path / "usual").stat().st_mode
