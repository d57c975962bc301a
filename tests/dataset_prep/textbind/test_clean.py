"""The commands clean and reformat; tests/parity/textbind_clean.py compares both with the reference."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dataset_prep.textbind.__main__ import main
from dataset_prep.textbind.clean import Cleaning
from dataset_prep.textbind.image_tags import tagged

CAPTIONS = [f"a photo of number {number}" for number in range(12)]


def raw(response: str | None, captions: list[str] = CAPTIONS[:2], **other: Any) -> dict[str, Any]:
    """A record of `ask`; image 0 has the number 100."""
    numbers = list(range(100, 100 + len(captions)))
    urls = [f"http://example.invalid/{number}.jpg" for number in numbers]
    return {"response": response, "image": tagged(captions), "image_idx": numbers, "url": urls, **other}


def talk(*messages: str) -> str:
    return "\n".join(f"{('Human:', 'Assistant:')[number % 2]} {text}" for number, text in enumerate(messages))


SHOWN = tagged(CAPTIONS)
GOOD = talk(f"see {SHOWN[0]}", "nice", "more?", f"{SHOWN[1]}")


@pytest.mark.parametrize(
    ("record", "verdict"),
    [
        (raw(GOOD), "kept"),
        (raw(None), "malformed"),
        ({"response": GOOD}, "malformed"),
        (raw(GOOD, image_idx=[1]), "malformed"),
        (raw(GOOD, image_idx=[1, "../../etc"]), "malformed"),
        (raw(GOOD, image=[SHOWN[1], SHOWN[0]]), "malformed"),
        (raw(GOOD, ["", "b"]), "malformed"),
        (raw(talk(f"{SHOWN[10]} and {SHOWN[11]}", "ok", "bye"), CAPTIONS), "kept"),
        (raw(talk(f"{SHOWN[10]} and {SHOWN[1]}", "ok", f"{SHOWN[10]}"), CAPTIONS), "repeat_image"),
        (raw(talk(f"{SHOWN[10]}", "ok", "bye"), CAPTIONS[:10]), "unseen_image"),
        (raw(talk("<img0> a photo\nof number 0 </img0>", "ok", "bye")), "no_image"),
        (raw(""), "no_image"),
        (raw(f"I cannot do that. {SHOWN[0]}"), "wrong_role"),
        (raw(talk(f"{SHOWN[0]}", "and Human: too", "bye")), "invalid_turns"),
        (raw(talk(f"{SHOWN[0]}", "ok")), "too_short"),
        (raw(talk(f"{SHOWN[0]}".replace("number", "letters"), "ok", "bye")), "changed_caption"),
    ],
)  # fmt: skip
def test_verdicts(record: dict[str, Any], verdict: str):
    """fails when a filter misses a record, takes one of another filter, or knows indices of one digit only"""
    assert Cleaning().add(record) == verdict


def test_the_first_filter_counts_and_nothing_is_lost(tmp_path: Path, capsys: pytest.CaptureFixture):
    """fails when a record is in neither file, a count differs from the file, or a bad record ends the command"""
    closing = talk(f"{SHOWN[0]} here </img1>", "two,, <img1>", "bye")
    records = [raw(GOOD), raw(GOOD), raw(None), raw(closing), raw("nonsense")]
    path = tmp_path / "raw.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    assert main(["clean", str(path)]) == 0
    kept = json.loads((tmp_path / "raw.clean.json").read_text())
    dropped = [json.loads(line) for line in (tmp_path / "raw.dropped.jsonl").read_text().splitlines()]
    assert [one["record"] for one in dropped] == [records[1], records[2], records[4]]
    assert [one["verdict"] for one in dropped] == ["repeat_response", "malformed", "no_image"]
    assert kept[1]["response"] == f"Human: {SHOWN[0]} here </img1>\n\nAssistant: two\n\nHuman: bye"
    said = capsys.readouterr().out
    assert "2 of 5 records" in said and "dropped 1: malformed" in said and "1 conversations keep a closing tag" in said
    assert main(["clean", str(path), "--remove-closing-tags", "--min-turns", "4"]) == 0
    assert [one["response"].count("\n\n") for one in json.loads((tmp_path / "raw.clean.json").read_text())] == [3]
    assert Cleaning(remove_closing=True).add(raw(closing)) == "kept"
    path.write_text(json.dumps(raw("nonsense")))
    assert main(["clean", str(path)]) == 1


def test_records_keep_only_images_that_can_be_read(tmp_path: Path, capsys: pytest.CaptureFixture):
    """fails when a turn loses an image, a caption is the written one, or a record without its images is kept"""
    wrong = talk(f"see {SHOWN[0]}".replace("photo", "phot"), "nice", "more?", f"{SHOWN[1]}")
    other = raw(talk(f"{SHOWN[0]}", "ok <image>", "bye"))
    later = {**raw(talk(f"{SHOWN[0]}", "ok", "bye")), "image_idx": ["b", "missing"]}
    path, images = tmp_path / "raw.clean.json", tmp_path / "images"
    path.write_text(json.dumps([raw(wrong), other, {"response": 1}, later]))
    images.mkdir()
    for name in ("100.png", "101.png"):
        Image.new("RGB", (2, 2)).save(images / name)
    (images / "b.png").write_bytes(b"no image")
    command = ["reformat", str(path), "--image-dir", str(images)]
    assert main(command) == 0
    first, second = json.loads((tmp_path / "raw.reform.json").read_text())
    assert [(one["role"], one["content"], one["image_list"], one["caption_list"]) for one in first["conversation"]] == [
        ("user", "see <image>", ["100.png"], [CAPTIONS[0]]),
        ("assistant", "nice", [], []),
        ("user", "more?", [], []),
        ("assistant", "<image>", ["101.png"], [CAPTIONS[1]]),
    ]
    assert second["conversation"][0]["image_list"] == ["b.png"] and second["image_dir"] == str(images)
    assert len(json.loads((tmp_path / "raw.img-cap.json").read_text())) == 4
    assert "dropped 2: not a cleaned record" in capsys.readouterr().out
    assert main([*command, "--only-with-images"]) == 0
    assert json.loads((tmp_path / "raw.reform.json").read_text()) == [first]
    assert "dropped 1: unreadable image" in capsys.readouterr().out
    dropped = [json.loads(line) for line in (tmp_path / "raw.unusable.jsonl").read_text().splitlines()]
    assert [one["number"] for one in dropped] == [1, 2, 3] and dropped[-1]["detail"] == "b.png"
    (images / "100.png").unlink()
    assert main([*command, "--only-with-images"]) == 1
