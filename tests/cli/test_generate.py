"""`python -m chatbridge generate`: answers to records that have none, and what becomes of it when it is stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from chatbridge import __main__ as commands
from chatbridge.cli import answer_generation
from chatbridge.common.errors import ConfigError, DataError
from chatbridge.config.schema import parse
from chatbridge.datasets.builders.records import Records
from chatbridge.models.language import GenerateOptions
from chatbridge.tasks import TaskConfig
from chatbridge.tasks.config import EvaluationConfig
from chatbridge.tasks.evaluator import summary_line
from tests.helpers.lock_holder import held
from tests.helpers.mini_world import MiniWorld, write_yaml
from tests.helpers.scored import results_of
from tests.helpers.tiny_media import write_json


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> MiniWorld:
    return MiniWorld(tmp_path_factory.mktemp("world"))


def question(name: str, path: str = "", words: str = "what color is it ?", answer: str | None = None) -> dict[str, Any]:
    media = [{"type": "image", "path": path}] if path else []
    turns = [{"role": "user", "content": [*media, {"type": "text", "text": words}]}]
    return {"id": name, "messages": turns + ([{"role": "assistant", "content": answer}] if answer is not None else [])}


@pytest.fixture
def given(world: MiniWorld, tmp_path: Path) -> list[str]:
    """The command line over five records, one of them without its image."""
    records = [question("a", "i0.jpg"), question("b"), question("c", "gone.jpg"), question("d", "i1.jpg", answer=""),
               question("e", "i2.jpg", answer="red")]  # fmt: skip
    config = write_yaml(tmp_path / "eval.yaml", {"model": world.model(), "run": {"output_dir": "unused"}})
    file = write_json(tmp_path / "q.jsonl", records)
    return ["generate", str(config), "--records", str(file), "--root", str(world.folder / "images"), "--workers", "0",
            "--out", str(tmp_path / "a.jsonl"), "--task", "max_new_tokens=4", "batch_size=2"]  # fmt: skip


def lines(given: list[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(given[given.index("--out") + 1]).read_text().splitlines()]


def test_records_without_answers_are_answered_and_failures_named(given: list[str], capsys: pytest.CaptureFixture):
    """fails when a question without an answer is refused, loses its line, or a missing file ends the command"""
    assert commands.main(given) == 1
    found = lines(given)
    assert [(row["index"], row["id"]) for row in found] == list(enumerate("abcde"))
    assert "no such file" in found[2]["problem"] and set(found[2]) == {"index", "id", "problem"}
    assert all(isinstance(row["answer"], str) and row["question"] for row in found if row["id"] != "c")
    assert "4 answers" in (out := capsys.readouterr().out) and "1 records failed" in out


def test_an_evaluation_generates_without_scores(world: MiniWorld, tmp_path: Path, capsys: pytest.CaptureFixture):
    """fails when the task `generate` of a YAML is refused, writes no answers, or reports a score without references"""
    records = [question("a", "i0.jpg"), question("b", "gone.jpg"), question("c", "i2.jpg", answer="red")]
    dataset = {"name": "records", "file": str(write_json(tmp_path / "q.jsonl", records)), "unanswered": "keep",
               "root": str(world.folder / "images")}  # fmt: skip
    tasks = {"open": {"name": "generate", "dataset": dataset, "max_new_tokens": 4}}
    tasks["lost"] = {
        **tasks["open"],
        "dataset": {**dataset, "file": str(write_json(tmp_path / "l.jsonl", records[1:2]))},
    }
    asked = {"model": world.model(), "evaluation": {"tasks": tasks, "num_workers": 0},
             "run": {"output_dir": str(tmp_path / "eval"), "device": "cpu"}}  # fmt: skip
    assert commands.main(["evaluate", "--cfg-path", str(write_yaml(tmp_path / "e.yaml", asked))]) == 0
    rows = [json.loads(line) for line in (tmp_path / "eval/predictions_open.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == ["a", "b", "c"] and not any("scores" in row for row in rows)
    assert "problem" in rows[1] and isinstance(rows[0]["prediction"], str) and rows[2]["references"] == ["red"]
    assert json.loads((tmp_path / "eval/metrics.json").read_text()) == {
        "open": {"metric": None, "count": 3, "unreadable": 1, "problems": {"no such file": 1}},
        "lost": {"metric": None, "count": 1, "unreadable": 1, "problems": {"no such file": 1}},
    }
    assert commands.main(["report", str(tmp_path / "eval")]) == 0


def test_a_stopped_run_resumes(given: list[str], monkeypatch: pytest.MonkeyPatch):
    """fails when a stop inside a line repeats, loses or changes answers, or a failure is never tried again"""
    assert commands.main(given) == 1
    whole, path = lines(given), Path(given[given.index("--out") + 1])
    path.write_text("".join(json.dumps(row) + "\n" for row in whole[:3]) + json.dumps(whole[3])[:20])
    asked: list[int] = []
    torch.manual_seed(17)  # parts without weights are the same in the next process
    inner = answer_generation.iter_predictions
    monkeypatch.setattr(
        answer_generation, "iter_predictions", lambda *given, **more: asked.extend(given[5]) or inner(*given, **more)
    )
    assert commands.main(given) == 1
    assert lines(given) == whole and asked == [2, 3, 4]
    missing = Path(given[given.index("--root") + 1], "gone.jpg")
    missing.write_bytes(missing.with_name("i0.jpg").read_bytes())
    try:
        assert commands.main(given) == 0
    finally:
        missing.unlink()
    assert asked == [2, 3, 4, 2] and "answer" in lines(given)[2]
    monkeypatch.setattr(answer_generation, "build_chat", lambda *_, **options: pytest.fail("nothing is left"))
    assert commands.main(given) == 0


def test_answers_of_different_settings_are_never_mixed(given: list[str]):
    """fails when a different model, question file or setting appends to existing answers, or replaces them"""
    commands.main(given)
    before = lines(given)
    with pytest.raises(DataError, match="made with a different generation.*--overwrite"):
        commands.main([*given, "repetition_penalty=1.5"])
    file = Path(given[given.index("--records") + 1])
    file.write_text(file.read_text() + json.dumps(question("f")) + "\n")
    with pytest.raises(DataError, match="made with a different records"):
        commands.main(given)
    assert lines(given) == before
    assert commands.main([*given, "--overwrite"]) == 1 and len(lines(given)) == 6


def test_a_file_that_another_process_writes_is_refused(given: list[str], tmp_path: Path):
    """fails when two commands answer into one file: lines twice, and images of one removed by the other"""
    with held(tmp_path / ".a.jsonl.in_use"), pytest.raises(DataError, match="a.jsonl: another process writes it"):
        commands.main(given)
    assert not (tmp_path / "a.jsonl").exists()
    assert commands.main(given) == 1 and len(lines(given)) == 5
    assert not list(tmp_path.glob(".*"))


def test_mistakes_are_messages(given: list[str], tmp_path: Path):
    """fails when an invalid setting, or a folder that is not a run, ends in a traceback"""
    with pytest.raises(ConfigError, match="(?s)temperature.*has no effect without sample"):
        commands.main([*given, "temperature=0.5"])
    with pytest.raises(ConfigError, match="expected KEY=VALUE"):
        commands.main([*given, "sample"])
    with pytest.raises(ConfigError, match="not readable as YAML"):
        commands.main([*given, "seed=[1"])
    with pytest.raises(ConfigError, match="has no description of its model"):
        commands.main([given[0], str(tmp_path), *given[2:]])
    with pytest.raises(DataError, match="unanswered: keep.*chatbridge generate"):
        Records(parse(Records.Config, {"file": given[given.index("--records") + 1]}), "mine")


def test_files_that_are_there_are_kept(given: list[str], tmp_path: Path):
    """fails when answers overwrite the questions, or a malformed settings file beside them ends in a traceback"""
    questions = (tmp_path / "q.jsonl").read_text()
    with pytest.raises(DataError, match="choose another --out"):
        commands.main([*given, "--out", str(tmp_path / "q.jsonl"), "--overwrite"])
    assert (tmp_path / "q.jsonl").read_text() == questions
    (tmp_path / "a.jsonl").write_text("mine")
    for settings in ("[1]", "3", "[" * 100_000):
        (tmp_path / "a.jsonl.settings.json").write_text(settings)
        with pytest.raises(DataError, match="without a valid"):
            commands.main(given)
    assert (tmp_path / "a.jsonl").read_text() == "mine"


def test_a_task_takes_every_setting_of_the_generation(world: MiniWorld):
    """fails when a setting of the generation cannot be given, has no effect, or contradicts another unreported"""
    settings = {"max_new_tokens": 8, "min_new_tokens": 2, "num_beams": 2, "sample": True, "temperature": 0.7,
                "top_p": 0.9, "top_k": 5, "repetition_penalty": 1.2, "length_penalty": 0.5, "seed": 3}  # fmt: skip
    assert {*settings, "max_drawings"} == set(GenerateOptions.__dataclass_fields__)
    node = {**world.tasks()["image_qa"], **settings}
    config: TaskConfig = parse(EvaluationConfig, {"tasks": {"qa": node}}).tasks["qa"].config
    options = config.generation(6, 0)
    assert {name: getattr(options, name) for name in settings if name not in ("seed", "max_new_tokens")} == {
        name: value for name, value in settings.items() if name not in ("seed", "max_new_tokens")
    }
    assert options.max_new_tokens == 6 and options.seed not in (None, config.generation(6, 1).seed)
    for name, value in (("min_new_tokens", 9), ("top_p", 1.5), ("temperature", 0)):
        with pytest.raises(ConfigError, match=name):
            parse(EvaluationConfig, {"tasks": {"qa": {**node, name: value}}})


@pytest.mark.parametrize("tasks, left", [(None, set()), ({"a": None, "b": 1}, {"b"})])
def test_null_takes_a_task_out(tasks: Any, left: set[str], world: MiniWorld):
    """fails when `tasks: null` or `tasks.a: null` is an error instead of removing what a base defines"""
    node = None if tasks is None else {name: value and world.tasks()["image_qa"] for name, value in tasks.items()}
    assert set(parse(EvaluationConfig, {"tasks": node}).tasks) == left


def test_a_metric_without_data_is_absent(world: MiniWorld):
    """fails when names_all is 0 % although no record says what must be named, or there is a score without references"""
    (choice,) = parse(EvaluationConfig, {"tasks": {"cap": world.tasks()["audio_caption"]}}).tasks.values()
    task = choice.part(choice.config, "cap")
    base = {"question": "", "prediction": "a red circle", "references": ["a red circle"], "details": {}}
    plain = [{**base, "id": str(k)} for k in range(3)]
    broken = {**base, "id": "3", "problem": "gone"}
    found = results_of(task, [*plain, broken])
    assert "names_all" not in found and "recall" not in found and found["exact_match"] == 0.75
    assert found["metric"] == "exact_match"
    named = {**base, "id": "4", "details": {"must_name": ["red"]}}
    mixed = results_of(task, [named, *plain])
    assert mixed["names_all"] == 1.0 and mixed["measured"] == {"names_all": 1, "recall": 1}
    nothing = results_of(task, [{**plain[0], "references": []}])
    assert nothing["metric"] is None
    assert "not scored" in summary_line("cap", nothing)
    assert results_of(task, [broken])["names_all"] == 0.0
