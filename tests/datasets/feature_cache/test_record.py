"""The identity of a set of features."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from chatbridge.common.errors import DataError
from chatbridge.datasets.feature_cache.record import FORMAT, SET, FeatureRecord, changes, read_record, records

RECORD = FeatureRecord(
    "image", {"class": "eva_vit", "settings": {"depth": 2}, "fingerprint": "ab", "compute_dtype": "float32"},
    {"size": 28, "mean": [0.5, 0.5]}, 5, 7, "bf16", {"libraries": {"torch": "1"}},
)  # fmt: skip


@pytest.mark.parametrize(
    "other",
    [
        replace(RECORD, modality="video"),
        replace(RECORD, encoder={**RECORD.encoder, "fingerprint": "ac"}),
        replace(RECORD, encoder={**RECORD.encoder, "settings": {"depth": 3}}),
        replace(RECORD, encoder={**RECORD.encoder, "compute_dtype": "bfloat16"}),
        replace(RECORD, preprocessing={**RECORD.preprocessing, "size": 29}),
        replace(RECORD, values="int8"),
        replace(RECORD, format=FORMAT - 1),
    ],
)
def test_everything_that_decides_features_is_in_the_name(other):
    """fails when two sets with different features would share a folder"""
    assert other.name != RECORD.name


def test_notes_are_not_in_the_name_and_come_back(tmp_path):
    """fails when another version of a library makes a cache useless, or is forgotten"""
    other = replace(RECORD, notes={"libraries": {"torch": "2"}})
    assert other.name == RECORD.name
    other.write(tmp_path / other.name)
    assert read_record(tmp_path / other.name) == other
    assert list(records(tmp_path).values()) == [other]


def test_changes_name_both_sides():
    """fails when a message hides which setting differs, or one of its values"""
    other = replace(RECORD, encoder={**RECORD.encoder, "fingerprint": "ac"}, values="int8")
    assert list(changes(other.identity, RECORD.identity)) == [
        "encoder.fingerprint: ab in the cache, ac now",
        "values: bf16 in the cache, int8 now",
    ]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (json.dumps({**RECORD.identity, "format": FORMAT + 1}), "newer version"),
        ("{", "is damaged"),
        ('{"format": 1}', "is damaged"),
        ('{"format": 1, "modality": "image"}', "is damaged"),
    ],
)
def test_a_set_that_cannot_be_read_is_named(tmp_path, content, words):
    """fails when a set of a newer version is read anyway, or the message does not name the file"""
    (tmp_path / SET).write_text(content)
    with pytest.raises(DataError, match=words) as error:
        read_record(tmp_path)
    assert str(tmp_path / SET) in str(error.value)
