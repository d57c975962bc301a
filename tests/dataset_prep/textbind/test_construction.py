"""From a pool to records of training, with a local server in the place of the language model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from chatbridge.common.errors import ConfigError, DataError
from chatbridge.datasets.formats.json_fields import Fields
from chatbridge.datasets.formats.textbind import read_record
from dataset_prep.textbind.__main__ import main
from dataset_prep.textbind.sample import Sampler
from tests.helpers import textbind_construction as world
from tests.helpers.judge_server import judge_server

KEY = "sk-very-secret-key"


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pool of 48 captions in three groups."""
    folder = tmp_path_factory.mktemp("construction")
    pairs, out = world.write_pairs(folder), folder / "pool"
    assert main(["embed", "--pairs", str(pairs), "--captions", "--per-file", "20", "--out", str(out)]) == 0
    assert main(["cluster", str(out), "--clusters", "3", "--min-size", "4", "--library", "sklearn"]) == 0
    return out


@pytest.fixture
def ask(pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The arguments of `ask` over six samples."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    samples = tmp_path / "samples.jsonl"
    assert main(["sample", str(pool), "--number", "6", "--out", str(samples)]) == 0
    given = ["ask", str(samples), "--out", str(tmp_path / "raw.jsonl"), "--model", "writer-1", "--threads", "1"]
    return [*given, "--requests-per-minute", "100000", "--first-wait", "0.01"]


def test_groups_are_topics_and_samples_stay_in_one(pool: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    """fails when groups mix topics, an image is drawn twice, a draw depends on more than the seed, or a second embed
    or a later round begins again"""
    topics, clusters = world.captions(), json.loads((pool / "clusters.json").read_text())["clusters"]
    assert sorted({topics[number][0] for number in one["images"]} == {topics[one["images"][0]][0]}
                  for one in clusters) == [True] * 3  # fmt: skip
    assert {word for one in clusters for word in one["words"]} >= {"bread", "boat", "bird"}
    draw = ["sample", str(pool), "--images", "3", "5", "--number", "5", "--out"]
    one, two, three = (tmp_path / f"{name}.jsonl" for name in "abc")
    for path in (one, two):
        assert main([*draw, str(path)]) == 0
    assert one.read_text() == two.read_text()
    assert main([*draw, str(three), "--seed", "1", "--besides", str(one), "--number", "100"]) == 1
    assert "fewer than asked for" in capsys.readouterr().out
    samples = [*rows(one), *rows(three)]
    assert len({sample["id"] for sample in samples}) == len(samples)
    assert max(Counter(number for sample in samples for number in sample["image_idx"]).values()) == 1
    for sample in samples:
        assert 3 <= len(sample["image"]) <= 5
        assert len({topics[number][0] for number in sample["image_idx"]}) == 1
        (group,) = (one for one in clusters if one["cluster"] == sample["cluster"])
        assert set(sample["image_idx"]) <= set(group["images"])
        assert sample["image"][1] == f"<img1> {topics[sample['image_idx'][1]][1]} </img1>"
        assert sample["url"][0] == f"http://example.invalid/{sample['image_idx'][0]}.jpg"
    before = (pool / "00001.npz").stat().st_mtime_ns
    again = ["embed", "--pairs", str(pool.parent / "pairs.jsonl"), "--captions", "--per-file", "20", "--out", str(pool)]
    (pool / "00002.npz").unlink()
    assert main(again) == 0 and (pool / "00001.npz").stat().st_mtime_ns == before and (pool / "00002.npz").exists()
    with pytest.raises(DataError, match="has different arguments"):
        main([*again, "--limit", "7"])
    with pytest.raises(DataError, match="the pool has 48 images, but 49 groups"):
        main(["cluster", str(pool), "--clusters", "49"])
    with pytest.raises(DataError, match="--min-size is 32"):
        main(["cluster", str(pool), "--clusters", "3", "--library", "sklearn", "--out", str(tmp_path / "x")])


def test_a_sample_has_no_two_images_of_one_caption():
    """fails when equal captions meet in a sample, or a group of few captions never ends"""
    group = [{"image_idx": n, "caption": "ABC"[n % 3] if n else "a", "url": "", "file": ""} for n in range(9)]
    found = list(Sampler({0: group}, 2, 3))
    assert found and all(len({text.split()[1].lower() for text in one["image"]}) == len(one["image"]) for one in found)
    assert not list(Sampler({0: group[:1] * 5}, 2, 3))
    repeated = [one for _, one in zip(range(20), Sampler({0: group}, 2, 3, "size", repeats=True))]
    assert len(repeated) == 20 and all(len(set(one["image_idx"])) == len(one["image_idx"]) for one in repeated)


def test_from_samples_to_training_records(ask: list[str], tmp_path: Path, capsys: pytest.CaptureFixture):
    """fails when a reply is lost, paid twice or wrongly counted, an example of a good rating is not used in the next
    round, or the records are not those that training reads"""
    raw = tmp_path / "raw.jsonl"
    odd = {
        0: "I am a teapot.",
        2: (429, {"Retry-After": "0.01"}),
        3: "!nothing",
        4: (500, {}),
        5: "Human: hi\nAssistant: yes",
    }
    with judge_server(behave=world.model(odd)) as server:
        command = [*ask, "--base-url", server.url, "--price", "10", "30"]
        assert main([*command, "--check"]) == 0 and not server.requests
        assert "samples  6, 6 to do" in capsys.readouterr().out
        assert main(command) == 0
        out = capsys.readouterr().out
        assert "6 replies requested, 0 from the cache; 600 prompt and 60 completion tokens, $0.0078" in out
        assert "1 are not conversations: empty reply" in out and "1 are not conversations: no turn begins" in out
        first = rows(raw)
        assert [row["id"] for row in first] == [f"0-{n:06d}" for n in range(6)] and len(server.requests) == 8
        assert [bool(row["fault"]) for row in first] == [True, False, True, True, False, False]
        assert first[1]["examples"] and first[1]["usage"]["prompt_tokens"] == 100 and first[1]["model"] == "writer-1"
        request = server.requests[0]["messages"][1]["content"]
        assert "Example 3" in request and request.index("Example 1") < request.index(
            rows(tmp_path / "samples.jsonl")[0]["image"][0]
        )
        assert main(command) == 0 and len(server.requests) == 8  # everything is there
        raw.unlink()
        assert main(command) == 0 and len(server.requests) == 8 and rows(raw) == first
        assert "0 replies requested, 6 from the cache; 0 prompt and 0 completion tokens" in capsys.readouterr().out
        assert main([*command, "--retry-faulty"]) == 0 and len(server.requests) == 11
        assert not any(row["fault"] for row in rows(raw))
        assert rows(tmp_path / "raw.faulty.jsonl") == [row for row in first if row["fault"]]
        assert "900 prompt and 90 completion tokens in all, 3 faulty replies replaced" in capsys.readouterr().out
        _rate(tmp_path, raw)
        later = [*command, "--examples", str(tmp_path / "examples.jsonl"), "--out", str(tmp_path / "two.jsonl")]
        assert main(later) == 0
        good = rows(tmp_path / "examples.jsonl")[0]
        assert good["image"][1] in server.requests[-1]["messages"][1]["content"]
        assert all(one["authorization"] == f"Bearer {KEY}" for one in server.headers)
    assert main(["reformat", str(tmp_path / "raw.clean.json"), "--image-dir", "images"]) == 0
    records = tmp_path / "raw.reform.json"
    assert main(["split", str(records), "--validation", "1", "--test", "1", "--out", str(tmp_path)]) == 0
    train = json.loads((tmp_path / "train.json").read_text())
    assert len(train) == 4 and [one["role"] for one in train[0]["conversation"]] == ["user", "assistant"] * 2
    assert train[0]["conversation"][3]["content"] == "Yes. <image>"
    for record in train:  # the builder of the training reads them
        read = read_record(Fields(record))
        assert len(read.conversation(Path("images"))) == 4 and read.turns[3].captions == tuple(
            record["conversation"][3]["caption_list"]
        )
    assert main(["stats", str(records), "--out", str(tmp_path / "stats.json")]) == 0
    stats = json.loads((tmp_path / "stats.json").read_text())
    assert stats["turns"]["all"] == 2 and stats["images"] == {"all": 2.0, "user": 1.0, "assistant": 1.0}
    assert KEY not in "".join(path.read_text("latin1") for path in tmp_path.rglob("*") if path.is_file())


def _rate(folder: Path, raw: Path) -> None:
    """Clean, and rate two of six conversations."""
    assert main(["clean", str(raw)]) == 0
    cleaned, table = folder / "raw.clean.json", folder / "ratings.csv"
    assert main(["rate", "export", str(cleaned), "--number", "4", "--out", str(table)]) == 0
    with pytest.raises(DataError, match="may hold ratings"):
        main(["rate", "export", str(cleaned), "--out", str(table)])
    text = table.read_text(encoding="utf-8-sig")
    assert text.count(",,,\n") == 4 or text.count(",,,\r\n") == 4
    wrong = text.replace('",,,', '",Excelent,,', 1)
    table.write_text(wrong)
    take = ["rate", "import", str(table), "--conversations", str(cleaned), "--examples", str(folder / "examples.jsonl")]
    with pytest.raises(DataError, match="quality is 'Excelent'.*did you mean Excellent"):
        main(take)
    table.write_text(text.replace('",,,', '",excellent,vivid; Comparison,', 1).replace('",,,', '",Poor,,dull', 1))
    assert main(take) == 0 and main(take) == 0
    (example,) = rows(folder / "examples.jsonl")
    assert example["quality"] == "Excellent" and example["characteristics"] == ["vivid", "Comparison"]
    assert main(["rate", "summary", str(table)]) == 0


def test_a_server_that_fails_loses_nothing(ask: list[str], tmp_path: Path, capsys: pytest.CaptureFixture):
    """fails when failures or a spent budget lose replies, the wrong options are accepted, or other samples are mixed"""
    raw = tmp_path / "raw.jsonl"
    with judge_server(behave=world.model({1: (400, {}), 3: (401, {})})) as server:
        command = [*ask, "--base-url", server.url]
        with pytest.raises(DataError, match=r"the language model answered HTTP 401.*check the key"):
            main(command)
        assert len(rows(raw)) == 2 and len(server.requests) == 4
        with pytest.raises(DataError, match="the budget of"):
            main([*command, "--price", "1000", "0", "--budget", "0.15"])
        assert len(rows(raw)) == 4
        assert main(command) == 0 and len(rows(raw)) == 6 and len(server.requests) == 8
        raw.write_text(raw.read_text() + '{"id": "torn')
        assert main(command) == 0 and len(rows(raw)) == 6
        samples = tmp_path / "samples.jsonl"
        changed = rows(samples)
        changed[2]["image"] = ["<img0> a door </img0>", *changed[2]["image"][1:]]
        samples.write_text("".join(json.dumps(one) + "\n" for one in changed))
        with pytest.raises(DataError, match=r"over other images \(0-000002\)"):
            main(command)
        assert main([*command, "--overwrite"]) == 0 and len(rows(raw)) == 6
        assert len(server.requests) == 9  # the others are in the cache
        with pytest.raises(ConfigError) as wrong:
            main([*ask, "--base-url", "nowhere", "--budget", "1", "--parameter", "n=2", "--out", str(samples)])
        assert {problem.path for problem in wrong.value.problems} == {"--base-url", "--budget", "--parameter", "--out"}
    (tmp_path / "bad.jsonl").write_text(json.dumps({**rows(raw)[0], "response": "Human: no image"}))
    with pytest.raises(DataError, match="example 1 cannot be used: no_image"):
        main([*ask, "--examples", str(tmp_path / "bad.jsonl")])
    (tmp_path / "prompt.txt").write_text("Write about {image}")
    with pytest.raises(DataError, match=r"must contain {images} once"):
        main([*ask, "--prompt", str(tmp_path / "prompt.txt")])
    samples.write_text(json.dumps({**changed[0], "url": []}))
    with pytest.raises(DataError, match=r"sample 1 cannot be used: has \d images, \d image_idx and 0 url"):
        main(ask)


@pytest.mark.slow
def test_a_killed_command_resumes_without_paying_twice(ask: list[str], tmp_path: Path):
    """fails when a kill loses a reply that arrived, tears a line, or the next command asks for it again"""
    root, raw = Path(__file__).parents[3], tmp_path / "raw.jsonl"
    with judge_server(behave=world.model({3: "!hang"})) as server:
        command = [sys.executable, "-m", "dataset_prep.textbind", *ask, "--base-url", server.url]
        environment = {**os.environ, "PYTHONPATH": str(root), "NO_PROXY": "127.0.0.1"}
        first = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + 120
        while len(server.requests) < 4 and time.monotonic() < deadline:
            time.sleep(0.02)
        first.send_signal(signal.SIGKILL)
        first.communicate(timeout=60)
        assert len(rows(raw)) == 3
        subprocess.run(command, env=environment, check=True, timeout=120)
        assert len(server.requests) == 7  # six and the one that was on its way
    assert [row["id"] for row in rows(raw)] == [f"0-{n:06d}" for n in range(6)]
    assert not list(tmp_path.rglob("*.lock")) and not list(tmp_path.rglob("*.part"))
