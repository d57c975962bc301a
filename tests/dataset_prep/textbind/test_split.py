"""`python -m dataset_prep.textbind`, and its command split."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from chatbridge.common.errors import DataError
from dataset_prep.textbind.__main__ import COMMANDS, main


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
