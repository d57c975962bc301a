"""The quickstart on real weights: what its steps are, what is done again, and the figures of its evaluation."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from chatbridge.common.errors import DataError
from dataset_prep.stamps import figures, quickstart

ROOT = Path(__file__).parents[3]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the shipped files and no data."""
    for name in ("configs", "train_configs", "eval_configs"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def made(command: Any, seconds: int = 100) -> None:
    for path in command.makes:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.utime(path, (seconds, seconds))


def test_the_steps_follow_from_each_other(here: Path) -> None:
    """fails when a stage does not start from the one before, the evaluation asks another run, or the seed is lost"""
    *_, stage1, stage2, evaluation = (step.commands[0] for step in quickstart.steps(5))
    for command in (stage1, stage2):
        assert command.arguments[-2:] == ("--options", "run.seed=5")
    files = [yaml.safe_load(Path(name).read_text()) for name in (quickstart.STAGE1, quickstart.STAGE2)]
    assert files[1]["run"]["init_from"] == files[0]["run"]["output_dir"]
    asked = yaml.safe_load(Path(quickstart.EVALUATION).read_text())
    assert asked["run"]["init_from"] == files[1]["run"]["output_dir"]
    assert asked["model"]["adapters"] == files[1]["model"]["adapters"]
    assert stage2.makes[0].is_relative_to(files[1]["run"]["output_dir"]) and evaluation.reads == stage2.makes


def test_finished_steps_are_not_repeated(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """fails when a second call trains again, leaves out what is open, or reports figures of an earlier training"""
    ran: list[str] = []
    monkeypatch.setattr(
        quickstart, "run_side_by_side", lambda commands, at_once=None: ran.extend(c[-1] for c in commands)
    )
    steps = quickstart.steps()
    for step in steps[:4]:
        made(step.commands[0])
    steps[2].commands[0].makes[0].unlink()  # the cache is looked at again until stage 2 is done
    assert quickstart.main(["--seed", "3"]) == 2 and not ran  # the runs that are there are not those of seed 3
    assert quickstart.main([]) == 0
    assert ran == ["run.init_from=null", quickstart.STAGE2, quickstart.EVALUATION, "runs/stamps/eval", "runs/stamps"]
    ran.clear()
    made(steps[4].commands[0], 200)
    made(steps[5].commands[0], 150)
    assert quickstart.main([]) == 0 and ran[0] == quickstart.EVALUATION
    assert quickstart.main(["--seed", "3"]) == 2
    quickstart.SEED.write_text('{"seed":')
    assert "is damaged" in quickstart.other_seed(None)


def write_lines(folder: Path, task: str, condition: str, lines: list[dict[str, Any]]) -> None:
    name = f"predictions_{task}{'.' + condition if condition else ''}.jsonl"
    (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_figures_of_an_evaluation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """fails when a loss is not per token, or questions of one condition or group count for another"""
    losses = {"": (-6.0, -2.0), "shuffled_image": (-9.0, -3.0), "without_image": (-12.0, -4.0)}
    for condition, (one, other) in losses.items():
        lines = [{"answer_logprob": one, "answer_tokens": 3}, {"answer_logprob": other, "answer_tokens": 1}]
        write_lines(tmp_path, "captions", condition, lines)
    for task in ("pictures", "sounds"):
        lines = [{"prediction": letter, "details": {"answer": "A"}} for letter in "AAAB"]
        write_lines(tmp_path, task, "", lines)
    with pytest.raises(DataError, match="predictions_pairs"):
        figures.figures(tmp_path)
    for damaged, words in (('{"prediction": "A', "is damaged"), ("", "no answered question")):
        (tmp_path / "predictions_pairs.jsonl").write_text(damaged)
        with pytest.raises(DataError, match=words):
            figures.figures(tmp_path)
    kinds = [(kind, paired) for kind in ("both", "same") for paired in ("known", "never")]
    for number, condition in enumerate(("", "without_audio")):
        lines = [
            {
                "prediction": "B" if number or kind == "same" else "A",
                "details": {"answer": "A", "kind": kind, "paired": paired},
            }
            for kind, paired in kinds
        ]
        write_lines(tmp_path, "pairs", condition, lines)
    assert figures.main([str(tmp_path)]) == 0
    found = json.loads((tmp_path / "figures.json").read_text())
    assert found["captions"] == {"all": 2.0, "shuffled_image": 3.0, "without_image": 4.0}
    assert found["choices"]["sounds"] == {"chance": 0.25, "count": 4, "all": 0.75}
    pair = found["choices"]["pairs: both, never paired"]
    assert pair == {"chance": 0.25, "count": 1, "all": 1.0, "without_audio": 0.0}
    assert found["choices"]["pairs: same, known paired"]["all"] == 0.0
    assert "2.00 nats a token with their own picture, 3.00 with another one" in capsys.readouterr().out
