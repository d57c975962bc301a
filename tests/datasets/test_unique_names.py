"""A sample name means one sample of its source, in lists, logs and predictions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from chatbridge.config.schema import parse
from chatbridge.datasets.builders import BUILDERS, Dataset
from chatbridge.datasets.quarantine import Quarantine
from chatbridge.datasets.tars.local_shards import shard_names
from chatbridge.datasets.unique_names import UniqueNames
from tests.helpers.tiny_media import jpeg, pairs, write_json, write_tar


def opened(name: str, **config: Any) -> Dataset:
    part = BUILDERS.get(name)
    return part(parse(part.Config, config), "mine")


def names(source: Dataset) -> list[str]:
    found = [source.sample_id(index) for index in range(len(source))]
    assert found == [source.record(index, np.random.default_rng(0)).id for index in range(len(source))]
    return found


def kept_out(source: Dataset, *listed: str) -> tuple[list[int], list[str]]:
    quarantine = Quarantine()
    for name in listed:
        quarantine.add("mine", name, "broken", "quarantined")
    notes = quarantine.update_ids([source])
    return [index for index in range(len(source)) if quarantine.find(source, index)], notes


def test_shards_of_one_name_in_two_folders(tmp_path: Path):
    """fails when `0.tar/00000` of one folder excludes the other, or an old list has no effect"""
    write_tar(tmp_path / "a" / "0.tar", pairs(2))
    write_tar(tmp_path / "b" / "0.tar", pairs(2, first=1))
    write_tar(tmp_path / "b" / "1.tar", pairs(1))
    source = opened("web_pairs", shards=f"{tmp_path}/*/*.tar", modality="image")
    assert names(source) == ["a/0.tar/00000", "a/0.tar/00001", "b/0.tar/00001", "b/0.tar/00002", "1.tar/00000"]
    assert kept_out(source, "b/0.tar/00001") == ([2], [])
    assert kept_out(source, "0.tar/00000", "0.tar/00002", "1.tar/00000") == ([0, 3, 4], []), "an old list, unambiguous"
    found, notes = kept_out(source, "0.tar/00001")
    assert found == [] and "first 0.tar/00001 (a/0.tar/00001 or b/0.tar/00001)" in notes[0]


def test_names_of_shards_use_as_few_folders_as_they_need():
    """fails when two shards have one name, or a shard with a unique name is renamed"""
    places = ["/x/a/0.tar", "/y/a/0.tar", "/y/b/0.tar", "/y/b/1.tar", "0.tar", "2.tar"]
    found = shard_names([place.split("/") for place in places])
    assert sorted(found) == [0, 1, 2, 4] and len(set(found.values())) == 4
    assert shard_names([["0.tar"], ["0.tar"], ["1.tar"]]) == {0: "0.tar", 1: "0.tar#2"}


def test_several_questions_about_one_image(tmp_path: Path):
    """fails when all questions about an image have one name: a broken one would exclude the others"""
    records = [{"image_id": 7, "question": f"q{n}", "answer": "a"} for n in range(3)]
    file = write_json(tmp_path / "q.json", [*records, {"image_id": "7#2", "question": "q", "answer": "a"}])
    for name in ("7", "7#2"):
        (tmp_path / f"{name}.jpg").write_bytes(jpeg())
    source = opened("questions", annotations=str(file), tag="ti-qa", image_folder=str(tmp_path))
    assert names(source) == ["7", "7#2", "7#3", "7#2#2"]
    assert kept_out(source, "7#2") == ([1], [])
    quarantine = Quarantine()
    quarantine.add("mine", "7", "SIGSEGV", "crashed")
    assert [n for n in range(4) if quarantine.find(source, n)] == [0, 1, 2], "what crashed a worker is in all of them"


def test_ids_of_records_that_look_like_numbered_ones(tmp_path: Path):
    """fails when the second `a` becomes `a#2` although a record has that id"""
    turns = [{"role": "assistant", "content": "x"}]
    lines = "".join(json.dumps({"id": name, "messages": turns}) + "\n" for name in ("a", "a#2", "a", "a"))
    (tmp_path / "r.jsonl").write_text(lines)
    assert names(opened("records", file=str(tmp_path / "r.jsonl"))) == ["a", "a#2", "a#3", "a#4"]


def test_every_name_is_new():
    """fails when two names of a long list are equal"""
    unique = UniqueNames()
    given = [unique(name) for name in ("x", "x", "x#2", "x", "x#2#2", "x#3", "x") * 3]
    assert len(set(given)) == len(given)
