"""The instruction data of Multimodal-GPT: every published file becomes the layout that the YAMLs read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from chatbridge.common.errors import DataError
from dataset_prep import mmgpt
from dataset_prep.mmgpt_records import SETS
from tests.helpers.mini_mmgpt import COMMANDS, prepare, write_raw
from tests.helpers.mini_multis import skips
from tests.helpers.tiny_media import write_json

PLATE = {"question": "What is on the plate?", "answer": ["food"] * 6 + ["fruit"] * 4, "question_id": "90"}
COCO = "train2014/COCO_train2014_000000000009.jpg"
PAIR = ["train/57/train-10171-0-img0.png", "train/57/train-10171-0-img1.png"]
FIRST = {
    "vqa": {"image": COCO, **PLATE},
    "okvqa": {"image": COCO, **PLATE},
    "coco_caption": {"image": COCO, "caption": [f"Sentence {k} about 9." for k in range(5)]},
    "ocr_vqa": {
        "filename": "0000913154.jpg", "questions": ["Who wrote this book?", "What is the title?"],
        "answers": ["Jane Roe", "The Car"],
    },
}  # fmt: skip
GONE = "its image does not exist"
SKIPPED = {
    "vqa": {"1": GONE, "300": "has no answer"}, "okvqa": {"1": GONE, "300": "has no answer"},
    "aokvqa": {"q581929": GONE, "record 3": "is malformed"}, "coco_caption": {"581929": GONE},
    "ocr_vqa": {"0764586719.jpg": GONE, "'0764586720'": "is malformed"}, "text_ocr": {"3": GONE},
    "gqa": {"05451382": GONE}, "clevr": {"CLEVR_train_000002_20": GONE}, "nlvrv1": {"99-0": GONE},
    "nlvrv2": {"train-10172-1-0": GONE}, "dolly": {"line 3": "has no answer"},
    "alpaca_gpt4": {"record 2": "has no answer"}, "baize": {"record 1": "has no answer"},
    "snlive": {"1.jpg#2": GONE, "4705552913.jpg#9": "has no answer"},
}  # fmt: skip


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("mmgpt")
    write_raw(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        prepare()
    return root / "data/mmgpt"


@pytest.fixture
def here(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(prepared.parents[1])
    return prepared


def records(path: Path) -> list[dict[str, Any]]:
    """The records of a file, out of any of the layouts."""
    if path.suffix == ".jsonl":
        return list(map(json.loads, path.read_text().splitlines()))
    content = json.loads(path.read_text())
    if isinstance(content, dict):
        lists = [value for value in content.values() if isinstance(value, list)]
        return lists[0] if lists else [{key: value} for key, value in content.items()]
    return content


def made(folder: Path, name: str) -> Path:
    (path,) = [*folder.glob(f"{name}.json*"), *folder.glob(f"{name}_train.json*")]
    return path


@pytest.mark.parametrize("name", SETS)
def test_every_set_in_its_layout(prepared: Path, name: str):
    """fails when a set loses a usable record, keeps one without image or answer, or has other fields"""
    path = made(prepared, name)
    found = records(path)
    assert len(found) == (1 if name == "baize" else 2)
    assert skips(path.with_name(f"{path.stem}.skipped.jsonl")) == SKIPPED[name]
    if name in FIRST:
        assert found[0] == FIRST[name]
        return
    published = Path(prepared.parents[1], COMMANDS[name].split()[1])
    lines = published.suffix == ".jsonl" or name.startswith("nlvr")
    content = [json.loads(line) for line in published.read_text().splitlines()] if lines else records(published)
    images = {"aokvqa": {"image": COCO}, "nlvrv2": {"images": PAIR}}  # the fields that the published file lacks
    assert found[0] == content[0] | images.get(name, {})


def test_the_cards_have_these_commands(repository: Path):
    """fails when a card gives another command than the ones that these tests run, or a set has none"""
    cards = "".join(path.read_text() for path in (repository / "dataset_prep/cards").glob("*.md"))
    cards = cards.replace(" \\\n    ", " ")
    assert COMMANDS.keys() == SETS.keys()
    assert [name for name, words in COMMANDS.items() if f"dataset_prep.mmgpt {name} {words}\n" not in cards] == []


def test_the_layouts_of_the_files(prepared: Path):
    """fails when a file is wrapped in another way than the published one"""
    assert list(json.loads((prepared / "text_ocr.json").read_text())) == ["data"]
    assert list(json.loads((prepared / "clevr.json").read_text())) == ["questions"]
    assert list(json.loads((prepared / "gqa.json").read_text())) == ["02930152", "07333408"]
    assert {path.name for path in prepared.glob("*.jsonl") if "skipped" not in path.name} == {
        "nlvrv1_train.jsonl", "snlive.jsonl", "dolly.jsonl"
    }  # fmt: skip


def test_the_same_command_again(here: Path, capsys: pytest.CaptureFixture[str]):
    """fails when a finished list is made again, or images that arrive later are not noticed"""
    asked = ["text_ocr", *COMMANDS["text_ocr"].split()]
    assert mmgpt.main(asked) == 0 and "already done" in capsys.readouterr().out
    image = Path("data/textvqa/images/gone.jpg")
    image.write_bytes(Path("data/textvqa/images/0054c91397f2fe05.jpg").read_bytes())
    assert mmgpt.main(asked) == 0 and "text_ocr.json: 3 records" in capsys.readouterr().out
    image.unlink()
    assert mmgpt.main(asked) == 0 and "text_ocr.json: 2 records" in capsys.readouterr().out


def test_lists_of_lavis_are_read_too(here: Path, tmp_path: Path):
    """fails when a list that already has the names of its images is refused, or these are not checked"""
    record = {"question_id": "a", "question": "What?", "choices": ["x", "y"], "correct_choice_idx": 0,
              "rationales": ["So."], "image": "val2014/COCO_val2014_000000000025.jpg"}  # fmt: skip
    out = ["--out", str(tmp_path)]
    assert mmgpt.main(["aokvqa", "--list", str(write_json(tmp_path / "aokvqa_list.json", [record])), *out]) == 0
    assert records(tmp_path / "aokvqa.json")[0]["image"] == "train2014/COCO_train2014_000000000025.jpg"
    pair = {"sentence": "Two dogs.", "label": "False", "images": PAIR}
    gone = {**pair, "images": [PAIR[0], "dev/gone.png"]}
    assert mmgpt.main(["nlvrv2", "--list", str(write_json(tmp_path / "pairs.json", [pair, gone])), *out]) == 0
    assert records(tmp_path / "nlvrv2.json") == [pair]
    assert mmgpt.main(["coco_caption", "--list", str(write_json(tmp_path / "captions_train2014.json", {
        "images": [{"id": 9, "file_name": "COCO_train2014_000000000009.jpg"}],
        "annotations": [{"image_id": 9, "id": 1, "caption": "A plate."}]})), *out]) == 0  # fmt: skip
    assert records(tmp_path / "coco_caption.json") == [{"image": COCO, "caption": ["A plate."]}]


def test_wrong_input(here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """fails when a wrong option, a missing folder, or the list of another set gives no next step"""
    for words, message in (
        (
            "okvqa --list raw/okvqa/mscoco_train2014_annotations.json",
            "has two files: give the questions with --questions",
        ),
        ("gqa --list raw/gqa/train_balanced_questions.json --split train", "--split is not used by gqa"),
        ("coco_caption --list raw/coco/dataset_coco.json --split dev", "--split dev is not a split of coco_caption"),
        ("dolly --list raw/dolly/databricks-dolly-15k.jsonl --images raw", "dolly is text-only"),
    ):
        with pytest.raises(SystemExit):
            mmgpt.main(words.split())
        assert message in capsys.readouterr().err
    with pytest.raises(DataError, match=r"there is no folder gone; unpack its images, or name their folder"):
        mmgpt.main(["clevr", *COMMANDS["clevr"].split(), "--images", "gone"])
    for folder in ("a", "b"):
        (tmp_path / "twice" / folder).mkdir(parents=True)
        (tmp_path / "twice" / folder / "0000913154.jpg").touch()
    with pytest.raises(DataError, match="several folders have a file of its image's name"):
        mmgpt.main(
            ["ocr_vqa", *COMMANDS["ocr_vqa"].split(), "--images", str(tmp_path / "twice"), "--out", str(tmp_path)]
        )
    own = tmp_path / "dolly.jsonl"
    own.write_text('{"instruction": "a", "context": "", "response": "b"}\n{}\n')
    with pytest.raises(DataError, match="would replace the file of --list that it is made from; choose another --out"):
        mmgpt.main(["dolly", "--list", str(own), "--out", str(tmp_path)])
    assert own.read_text().endswith("{}\n")
    other = write_json(tmp_path / "other.json", [{"image_id": 1, "caption": "A dog."}])
    out = ["--out", str(tmp_path)]
    with pytest.raises(DataError, match="no record can be used\n  skipped 1: is malformed"):
        mmgpt.main(["aokvqa", "--list", str(other), *out])
    with pytest.raises(DataError, match=r"other\.json: its name names no split"):
        mmgpt.main(["nlvrv1", "--list", str(other), *out])
    with pytest.raises(DataError, match="expected 'questions', found 'a list'"):
        mmgpt.main(["clevr", "--list", str(other), *out])
    bad = {"sentence": "Two dogs.", "label": "maybe", "images": PAIR}
    three = {**bad, "label": "True", "images": [*PAIR, *PAIR]}
    with pytest.raises(DataError, match="no record can be used\n  skipped 2: is malformed"):
        mmgpt.main(["nlvrv2", "--list", str(write_json(tmp_path / "pairs.json", [bad, three])), *out])
    text = (tmp_path / "nlvrv2.skipped.jsonl").read_text()
    assert "expected true or false" in text and "expected two: the left one and the right one" in text
