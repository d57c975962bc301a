"""`python -m dataset_prep.textbind`, and its commands split and stats."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from chatbridge.common.errors import DataError
from dataset_prep.common import arguments
from dataset_prep.textbind.__main__ import COMMANDS, main
from dataset_prep.textbind.stats import WORD, statistics


def test_every_command_describes_itself(capsys: pytest.CaptureFixture):
    """fails when a command has no module, no arguments, or no help"""
    assert main([]) == 0
    listed = capsys.readouterr().out
    for name in COMMANDS:
        assert f"\n  {name} " in listed
        with pytest.raises(SystemExit) as ended:
            main([name, "--help"])
        assert ended.value.code == 0
        assert f"usage: python -m dataset_prep.textbind {name}" in capsys.readouterr().out
    with pytest.raises(DataError, match="no command 'spilt'; did you mean split"):
        main(["spilt"])


def test_a_split_keeps_every_record_once(tmp_path: Path, capsys: pytest.CaptureFixture):
    """fails when a record is lost or repeated, or when the split depends on more than the file and the seed"""
    source = tmp_path / "all.jsonl"
    source.write_text("".join(json.dumps({"n": n}) + "\n" for n in range(30)))
    arguments = ["split", str(source), "--validation", "5", "--test", "3", "--out"]
    read = {}
    for folder in ("one", "two"):
        assert main([*arguments, str(tmp_path / folder)]) == 0
        read[folder] = {name: json.loads((tmp_path / folder / f"{name}.json").read_text())
                        for name in ("train", "val", "test")}  # fmt: skip
    assert read["one"] == read["two"]
    assert {name: len(part) for name, part in read["one"].items()} == {"train": 22, "val": 5, "test": 3}
    assert sorted(record["n"] for part in read["one"].values() for record in part) == list(range(30))
    assert [record["n"] for record in read["one"]["train"]] != sorted(record["n"] for record in read["one"]["train"])
    assert main([*arguments, str(tmp_path / "one"), "--seed", "1"]) == 0
    assert json.loads((tmp_path / "one" / "val.json").read_text()) != read["two"]["val"]
    with pytest.raises(DataError, match="has 30 records, but --validation and --test take 30"):
        main([*arguments, str(tmp_path), "--validation", "27"])
    source.write_text('{"n": 1}\n[2]\n')
    with pytest.raises(DataError, match="record 1 is something else"):
        main([*arguments, str(tmp_path)])
    source.write_text('{"n": 1}\n{"n"')
    with pytest.raises(DataError, match="line 2: is not valid JSON"):
        main([*arguments, str(tmp_path)])


def conversation(*contents: str) -> list[dict[str, object]]:
    return [{"role": ("user", "assistant")[number % 2], "content": text, "image_list": [f"{number}.png"]}
            for number, text in enumerate(contents)]  # fmt: skip


def test_statistics_of_two_conversations():
    """fails when a mean counts other messages, images count as tokens, or n-grams of different positions meet"""
    first = conversation("see <image> it's a cat", "a cat <image><image>", "no", "a cat sits on it")
    found = statistics([first, conversation("see it's a dog", "a cat sits")], WORD.findall)
    assert found["conversations"] == 2 and found["different_images"] == 4
    assert found["turns"] == {"all": 1.5} and found["images"] == {"all": 1.5, "user": 0.5, "assistant": 1.0}
    assert found["tokens"] == {"all": (12 + 7) / 2, "user": (5 + 4) / 2, "assistant": (7 + 3) / 2}
    # user: "see it's a cat", "see it's a dog": 4 of 6 pairs differ, 3 of 4 triples, 2 of 2; "no" has none of any
    assert found["diversity"]["user"] == pytest.approx((4 / 6 + 3 / 4 + 2 / 2 + 0) / 2)
    # assistant: "a cat", "a cat sits": 2 of 3 pairs, 1 of 1 triples; "a cat sits on it": all of each size
    assert found["diversity"]["assistant"] == pytest.approx((2 / 3 + 1 + 3) / 2)


def test_what_stats_cannot_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    """fails when a missing package or another kind of file ends in a traceback"""
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"conversation": conversation("a", "b")}]))
    monkeypatch.setitem(sys.modules, "sacremoses", None)
    for given, expected in (([str(path), "--tokenizer", "moses"], "pip install sacremoses"),
                            ([str(tmp_path)], "there is no file")):  # fmt: skip
        with pytest.raises(SystemExit) as ended:
            arguments.run(lambda given=given: main(["stats", *given]))
        assert ended.value.code == 2 and expected in capsys.readouterr().err
    path.write_text(json.dumps([{"response": "b"}]))
    with pytest.raises(DataError, match=r'record 0 has no "conversation"'):
        main(["stats", str(path)])
