"""A file of another kind under a data ending is named as what it is, wherever such files are read."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save

from chatbridge.common.errors import ConfigError, DataError
from chatbridge.common.file_kind import HEAD, other_kind
from chatbridge.config.yaml_io import read_yaml
from chatbridge.datasets.builders._prompts import read_prompts
from chatbridge.datasets.formats.json_stream import RECORD_LIST, section
from chatbridge.datasets.formats.video_questions import read_mapping
from chatbridge.datasets.quarantine import read_quarantine
from chatbridge.datasets.tars.scan import scan
from chatbridge.models.hf_folder import folder_problems
from chatbridge.models.tensor_headers import shards_of
from chatbridge.models.weight_files import read_state
from chatbridge.processors.hf_audio import build_extractor
from chatbridge.processors.hf_image import read_settings
from chatbridge.report.run_folders import read_tasks
from dataset_prep.common.input_files import rows_of
from dataset_prep.link_lists import SETS, read_links
from dataset_prep.media_jobs import ids_of
from tests.helpers.tiny_media import pairs, write_tar


def tar_bytes() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("x"), io.BytesIO())
    return stream.getvalue()


def zip_bytes() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a.json", "[]")
    return stream.getvalue()


def torch_bytes() -> bytes:
    stream = io.BytesIO()
    torch.save({"a": torch.ones(2)}, stream)
    return stream.getvalue()


KINDS = {
    "file of weights": torch_bytes(),
    "Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n",
    "web page": b"\n<!DOCTYPE html><html>Sign in</html>",
    "gzip": gzip.compress(b"[]"),
    "zip": zip_bytes(),
    "UTF-16": '[{"url": "a"}]'.encode("utf-16"),
    "parquet": b"PAR1\x15\x04",
    "is a tar": tar_bytes(),
    "zero bytes": bytes(4096),
    "JPEG": b"\xff\xd8\xff\xe0\x00\x10JFIF",
}


def _called(path: Path, name: str) -> Path:
    return path.rename(path.with_name(name))


def _folder_of_a_model(path: Path) -> None:
    for problem in folder_problems("weights", _called(path, "config.json").parent):
        raise ValueError(problem.message)


READERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "lines": (".jsonl", lambda path: list(section(path, *RECORD_LIST))),
    "json": (".json", lambda path: list(section(path, *RECORD_LIST))),
    "quarantine": (".jsonl", read_quarantine),
    "mapping": (".txt", read_mapping),
    "prompts": (".json", read_prompts),
    "links": (".json", lambda path: list(read_links(path, SETS["sbu"]))),
    "table": (".csv", lambda path: list(rows_of(path, ("a",)))),
    "ids": (".json", ids_of),
    "yaml": (".yaml", lambda path: read_yaml(path, path.name)),
    "tar": (".tar", scan),
    "weights": (".safetensors", read_state),
    "index": (".safetensors.index.json", shards_of),
    "images": (".json", lambda path: read_settings(_called(path, "preprocessor_config.json").parent)),
    "sounds": (".json", lambda path: build_extractor(_called(path, "preprocessor_config.json").parent, "", {})),
    "report": (".json", lambda path: read_tasks(path.parent, _called(path, "metrics.json"))),
    "folder": (".json", _folder_of_a_model),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reader", READERS)
def test_another_kind_is_named(tmp_path: Path, reader: str, kind: str):
    """fails when a pointer, an error page or an archive ends in `is no JSON: Expecting value at column 1`"""
    ending, read = READERS[reader]
    path = tmp_path / f"x{ending}"
    path.write_bytes(KINDS[kind])
    read_as_it_is = (("tar", "is a tar"), ("json", "UTF-16"), ("weights", "zip"), ("weights", "file of weights"),
                     ("tar", "zero bytes"))  # fmt: skip
    if (reader, kind) in read_as_it_is:
        return  # torch writes zips; a tar of zeros has no samples
    with pytest.raises((DataError, ConfigError, ValueError)) as caught:
        read(path)
    said = " ".join(str(caught.value).split()).lower().replace("git-lfs", "git lfs")
    assert kind.lower() in said


def test_files_of_weights_are_told_apart():
    """fails when safetensors, or a file of torch before 1.6, is called text, or others are weights"""
    old = io.BytesIO()
    torch.save({"a": torch.ones(2)}, old, _use_new_zipfile_serialization=False)
    for content in (save({"a": torch.ones(2)}), old.getvalue()):
        assert "is a file of weights" in str(other_kind(content[:HEAD], Path("x.yaml")))
    for content in (b'12345678{"a": 1}', zip_bytes()):
        assert "weights" not in str(other_kind(content[:HEAD], Path("x")))


def test_utf_16_json_is_read(tmp_path: Path):
    """fails when a JSON list that Windows wrote as UTF-16 is refused although it can be read"""
    (tmp_path / "x.json").write_bytes('[{"a": "größe"}]'.encode("utf-16"))
    assert [item.value for item in section(tmp_path / "x.json", *RECORD_LIST)] == [{"a": "größe"}]


@pytest.mark.parametrize("text", ['[{"id": 1}, {"id": 2}]', '[\n{"id": 1}\n]', '{\n"id": 1\n}', '[{\n"id": 1}]'])
def test_one_value_called_jsonl(tmp_path: Path, text: str):
    """fails when a list under the name .jsonl is told line by line, and not what to do"""
    (tmp_path / "x.jsonl").write_text(text)
    with pytest.raises(DataError, match="one record per line; rename it to x.json"):
        list(section(tmp_path / "x.jsonl", *RECORD_LIST))


def test_lines_called_json(tmp_path: Path):
    """fails when lines under the name .json are `Extra data`"""
    (tmp_path / "x.json").write_text('{"id": 1}\n{"id": 2}\n')
    with pytest.raises(DataError, match="holds one record per line, not one JSON value; rename it to x.jsonl"):
        list(section(tmp_path / "x.json", *RECORD_LIST))


def test_empty_files(tmp_path: Path):
    """fails when an empty file is no more than a syntax error"""
    for ending in (".json", ".tar"):
        (tmp_path / f"x{ending}").write_bytes(b"")
    with pytest.raises(DataError, match="is empty"):
        list(section(tmp_path / "x.json", *RECORD_LIST))
    with pytest.raises(DataError, match="is empty"):
        scan(tmp_path / "x.tar")


def test_what_is_right_has_no_other_kind(tmp_path: Path):
    """fails when sound text or numbers are taken for another kind"""
    texts = ["[1]", '{"a": "b"}', "a: b\n", "größe", "日本", "<image> what?", json.dumps({"x": "\ud83d"})]
    assert [other_kind(text.encode(), tmp_path) for text in texts] == [None] * len(texts)
    assert len(scan(write_tar(tmp_path / "t.tar", pairs(2)))[0]) == 2
    assert other_kind(np.arange(9, dtype="<i8").tobytes()[8:], tmp_path) is None
