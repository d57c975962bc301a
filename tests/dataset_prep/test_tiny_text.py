"""The text-only questions of the tiny world: answers follow from the input, and held-out scenes are kept apart."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from chatbridge.datasets.builders.instructions import Instructions
from dataset_prep.tiny_world import world, write_text


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    write_text.write_text(folder, seed=3, counts=(240, 60, 60))
    return folder


def read(root: Path, name: str) -> list[dict[str, str]]:
    return json.loads((root / name).read_text())


def described(text: str, modality: str) -> world.Scene:
    """The scene whose values a description holds; exactly one value of every attribute occurs in it."""
    found = []
    for values in world.ATTRIBUTES[modality].values():
        (value,) = [value for value in values if re.search(rf"\b{value}\b", text)]
        found.append(value)
    return world.Scene(modality, tuple(found))


@pytest.mark.parametrize(("name", "held_out"), [("instruct/text.json", False), ("heldout/text.json", True)])
def test_questions(root: Path, name: str, held_out: bool):
    """Fails when an answer is not that of the description, or a scene is on the wrong side."""
    records = read(root, name)
    assert set(Counter(record["category"] for record in records).values()) == {len(records) // 3}
    for record in records:
        scene = described(record["input"], record["category"])
        assert scene.is_held_out == held_out
        kinds = [k for k, texts in world.QUESTIONS[scene.modality].items() if record["instruction"] in texts]
        assert record["output"] in [scene[kind] for kind in kinds]
    assert len({record["input"] for record in records}) > len(records) // 2


def test_dialogues(root: Path):
    """Fails when a dialogue has no description, describes a held-out scene, or ends in a form that Baize does not."""
    for record in read(root, "instruct/text_chat.json"):
        opening, first, *_ = record["input"].split("[|Human|] ")
        assert opening.strip() == write_text.CHAT_OPENING and record["input"].endswith("\n[|Human|] ")
        assert not described(first.partition(". ")[0], record["topic"]).is_held_out


@pytest.mark.parametrize(
    ("layout", "name", "rounds"),
    [("alpaca", "instruct/text.json", {1}), ("baize", "instruct/text_chat.json", {2, 3, 4})],
)
def test_the_builder_reads_both_layouts(
    root: Path, layout: Literal["alpaca", "baize"], name: str, rounds: set[int]
) -> None:
    """Fails when a file is not in the layout that its source in the YAML names."""
    source = Instructions(Instructions.Config(format=layout, annotations=root / name), "text")
    assert len(source) == len(read(root, name))
    found = set()
    for number in range(len(source)):
        record = source.record(number, np.random.default_rng(0))
        found.add(sum(message.role == "assistant" for message in record.conversation))
    assert found == rounds


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Fails when the seed does not decide the files, or a count below one is taken."""
    for name in ("a", "b"):
        assert write_text.main(["--root", str(tmp_path / name), "--count", "12"]) == 0
    assert "12 and 1500 dialogues" in capsys.readouterr().out
    files = [sorted(path.read_text() for path in (tmp_path / name).rglob("*.json")) for name in ("a", "b")]
    assert files[0] == files[1] and len(files[0]) == 3
    with pytest.raises(SystemExit):
        write_text.main(["--root", str(tmp_path), "--count", "0"])
    assert "--count" in capsys.readouterr().err
