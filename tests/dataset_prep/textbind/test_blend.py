"""The sources of the second stage as records: images found, errors of the released conversion behind a switch."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chatbridge.common.errors import DataError
from chatbridge.config.schema import parse
from chatbridge.conversation.messages import Media, user
from chatbridge.datasets.builders import BUILDERS
from chatbridge.datasets.formats.instructions import PREAMBLES
from dataset_prep.textbind.__main__ import main
from tests.helpers.tiny_media import write_json


def blended(folder: Path, source: str, records: Any, *more: str, ending: str = "json") -> list[dict[str, Any]]:
    listed = write_json(folder / f"{source}_raw.{ending}", records)
    assert main(["blend", source, "--list", str(listed), "--out", str(folder / "out"), *more]) == 0
    return json.loads((folder / f"out/{source}.json").read_text())


def contents(record: dict[str, Any]) -> list[str]:
    return [turn["content"] for turn in record["conversation"]]


def images(folder: Path, *names: str) -> str:
    for name in names:
        (folder / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "images" / name).write_bytes(b"not decoded here")
    return str(folder / "images")


def skipped(folder: Path, source: str) -> list[tuple[str, str]]:
    lines = (folder / f"out/{source}.skipped.jsonl").read_text().splitlines()
    return [(entry["id"], entry["reason"]) for entry in map(json.loads, lines)]


def talk(*turns: tuple[str, str], **more: Any) -> dict[str, Any]:
    return {"conversations": [{"from": speaker, "value": text} for speaker, text in turns], **more}


def test_llava_is_read_by_the_builder(tmp_path: Path):
    """fails when the record of a converted source is not one that training reads, or names a file that is not there"""
    folder = images(tmp_path, "COCO_train2014_000000000009.jpg")
    records = [
        talk(("human", "What?\n<image>"), ("gpt", "Food, see <image>."), image="000000000009.jpg"),
        talk(("human", "<image> Who?"), ("gpt", "Nobody."), image="000000000010.jpg"),
        talk(("human", "Hi"), ("robot", "Hello.")),
        talk(("gpt", "Hello."), ("human", "Hi")),
    ]
    (made,) = blended(tmp_path, "llava", records, "--images", folder)
    assert contents(made) == ["What?\n<image>", "Food, see ."]
    reasons = [("record 1", "its image does not exist"), ("record 2", "is malformed"), ("record 3", "is malformed")]
    assert skipped(tmp_path, "llava") == reasons
    kind: Any = BUILDERS.get("textbind")
    source = kind(parse(kind.Config, {"annotations": str(tmp_path / "out/llava.json")}), "llava")
    shown = source.record(0, np.random.default_rng(0)).conversation
    assert shown[0] == user("What?\n", Media("image", Path(folder) / "COCO_train2014_000000000009.jpg"))
    kept = blended(tmp_path / "as_published", "llava", records[:1], "--images", folder, "--released")
    assert kept[0]["conversation"][1]["image_list"] == ["COCO_train2014_000000000009.jpg"]  # an image of an answer


def test_the_other_sources(tmp_path: Path):
    """fails when words are glued, a literal marker stays without an image, or an answer of TextBind is left out"""
    folder = images(tmp_path, "train/1.jpg", "2.jpg", "3.jpg", "4.png")
    asked = {"question": "Where is <ph_st> the ball <ph_ed> , here ?", "cot_with_ans": "There .", "img_path": "2.jpg"}
    (shikra,) = blended(tmp_path, "shikra", [asked], "--images", folder, ending="jsonl")
    assert contents(shikra) == ["<image>\nWhere is the ball, here ?", "There."]
    (glued,) = blended(tmp_path, "shikra", [asked], "--images", folder, "--released", ending="jsonl")
    assert contents(glued)[0] == "<image>\nWhere isthe ball, here ?"
    many = {"prompt": "An <image>?", "target": "yes", "image_path": "train/1.jpg"}
    (multi,) = blended(tmp_path, "multi_instruct", [many], "--images", folder, ending="jsonl")
    assert contents(multi) == ["<image>\nAn ?", "yes"]
    described = {"annotations": [{"image_id": "3", "caption": "A street."}, {"image_id": "9", "caption": "A car."}]}
    (minigpt4,) = blended(tmp_path, "minigpt4", described, "--images", folder)
    assert minigpt4["conversation"][0]["image_list"] == ["3.jpg"] and contents(minigpt4)[1] == "A street."
    pair = {"instruction": "Say <image>", "input": " ", "output": "Hi"}
    (alpaca,) = blended(tmp_path, "alpaca_gpt4", [pair])
    assert contents(alpaca)[0] == f"{PREAMBLES[False]}\n\n### Instruction:\nSay \n\n### Response:"
    drawn = {
        "role": "assistant",
        "content": "<image>",
        "image_list": ["4.png"],
        "caption_list": ["<img0> a dog </img0>"],
    }
    own = {"conversation": [{"role": "user", "content": "Draw"}, drawn]}
    (mim,) = blended(tmp_path, "mim", [own], "--images", folder)
    assert mim["conversation"][1]["caption_list"] == ["a dog"] and mim["image_dir"] == folder
    (cut,) = blended(tmp_path, "mim", [own], "--images", folder, "--released")
    assert contents(cut) == ["Draw"]
    files = [str(tmp_path / f"out/{name}.json") for name in ("mim", "minigpt4", "alpaca_gpt4")]
    assert main(["blend", "joined", "--list", *files, "--out", str(tmp_path / "out")]) == 0
    joined = json.loads((tmp_path / "out/joined.json").read_text())
    assert [len(record["conversation"]) for record in joined] == [2, 1, 2] and joined[0] == minigpt4


def test_platypus_and_wrong_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """fails when a literal marker of Open-Platypus becomes an image, or a wrong argument ends in a traceback"""
    pair = {"instruction": "Solve <image> x", "input": "1", "output": "x=<image>1", "data_source": "math"}
    (made,) = blended(tmp_path, "platypus", [pair], ending="jsonl")
    assert contents(made)[0].endswith("### Instruction:\nSolve  x\n\n### Input:\n1\n\n### Response:")
    assert contents(made)[1] == "x=1" and "image_dir" not in made
    out = ["--out", str(tmp_path / "out")]
    (tmp_path / "bad.parquet").write_bytes(b"no parquet")
    with pytest.raises(DataError, match="bad.parquet: (cannot be read as parquet|pyarrow is needed)"):
        main(["blend", "platypus", "--list", str(tmp_path / "bad.parquet"), *out])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match="pyarrow is needed to read parquet; pip install pyarrow, or convert"):
        main(["blend", "platypus", "--list", str(tmp_path / "bad.parquet"), *out])
    listed = ["--list", str(write_json(tmp_path / "a.json", [{}]))]
    for words, message in (
        (["platypus", *listed, "--images", "x"], "--images is not used: platypus is text-only"),
        (
            ["shikra", *listed, "--images", str(tmp_path / "none")],
            "there is no folder .*none with the images of shikra",
        ),
        (["platypus", *listed], "no record can be used"),
        (["joined", *listed, "--released"], "joined copies records"),
        (["platypus", *listed, str(tmp_path / "a.json")], "several files of one name"),
    ):
        with pytest.raises(DataError, match=message):
            main(["blend", *words, *out])
