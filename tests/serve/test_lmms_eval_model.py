"""The model of lmms-eval: its answers are those of a chat, its losses those of training; and a run of its own runner.

The package lmms-eval has requirements that contradict ours (av below 16), so the quick tests stand it in: three classes
of its interface. The run is skipped where it cannot be imported.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import soundfile
import torch
from PIL import Image

from chatbridge.common.types import Sample
from chatbridge.conversation.messages import assistant, user
from chatbridge.datasets.collate import collate
from chatbridge.serve.engine import ChatEngine
from tests.helpers.mini_lmms_eval import CHOICES, ENTRY, QUESTION, installed, is_installed, write_tasks
from tests.helpers.serve_parts import ChatWorld

MODULE = "chatbridge.serve.lmms_eval_model"
SIX = {"max_new_tokens": 6, "temperature": 0, "do_sample": False, "num_beams": 1, "until": ["\n\n"]}


class Lmms:
    def __init__(self) -> None:
        self.task_dict: dict[str, Any] = {}

    def clean(self) -> None:
        pass


@dataclass
class GenerationResult:
    text: str
    token_counts: Any = None


@dataclass(frozen=True)
class Manifest:
    model_id: str
    simple_class_path: str | None = None


@pytest.fixture
def adapter(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The module, with classes in place of the package's."""
    parts = {"lmms_eval": {}, "lmms_eval.api": {}, "lmms_eval.models": {}, "lmms_eval.api.model": {"lmms": Lmms},
             "lmms_eval.api.instance": {"GenerationResult": GenerationResult},
             "lmms_eval.models.registry_v2": {"ModelManifest": Manifest}}  # fmt: skip
    for name, content in parts.items():
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    yield import_module(MODULE)
    sys.modules.pop(MODULE, None)


@pytest.fixture
def model(adapter: Any, engine: ChatEngine, world: ChatWorld, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(adapter, "_engine", lambda *given: engine)
    made = adapter.ChatBridge(cfg="a.yaml", batch_size=2)
    made.task_dict = {"mini": {"test": documents(world)}}
    return made


def documents(world: ChatWorld) -> list[Any]:
    samples, rate = soundfile.read(world.files["audio"])
    sound = {"array": samples, "sampling_rate": rate}
    with Image.open(world.files["image"]) as opened:
        image = opened.convert("RGB")
    return [[image], [str(world.files["silent_video"])], [sound], None, [[image], sound], [str(world.files["words"])]]


def requests(numbers: Sequence[int], second: Any, text: str = QUESTION) -> list[Any]:
    """As lmms-eval makes them: text, settings or continuation, visuals of a document, its number, task, split."""
    return [SimpleNamespace(args=(text, second, lambda doc: doc, number, "mini", "test")) for number in numbers]


def test_answers_are_those_of_a_chat(model: Any, engine: ChatEngine, world: ChatWorld) -> None:
    """fails when a visual is lost or read as another kind, or an answer depends on its batch"""
    asked: list[list[Any]] = [[Path(world.files[name])] for name in ("image", "silent_video", "audio")]
    asked += [[], [Path(world.files["image"]), Path(world.files["audio"])]]
    expected = [engine.reply([*media, QUESTION], max_new_tokens=6).strip() for media in asked]
    assert model.generate_until(requests(range(5), SIX)) == expected and len(set(expected)) > 1
    between = "what <image> and <image> color is it ?"
    (found,) = model.generate_until(requests([4], SIX, between))
    image, sound = (engine.attach(one).media[0] for one in asked[4])
    options = model._options(SIX, 0)
    assert found == engine.answer((user("what ", image, " and ", sound, " color is it ?"),), options).text.strip()


def test_an_answer_ends_before_the_strings_of_a_task(model: Any) -> None:
    """fails when `until` is not cut, or settings of a task have no effect"""
    (whole,) = model.generate_until(requests([0], {**SIX, "max_new_tokens": 12}))
    inner = whole[len(whole) // 2]
    (cut,) = model.generate_until(requests([0], {**SIX, "max_new_tokens": 12, "until": inner}))
    assert cut == whole[: whole.index(inner)].strip()
    options = model._options({"do_sample": True, "temperature": 0.7, "top_p": 0.9, "max_pixels": 4}, 3)
    assert (options.sample, options.temperature, options.top_p) == (True, 0.7, 0.9)
    assert not model._options({"do_sample": True, "temperature": 0}, 3).sample
    assert options.seed != model._options({"do_sample": True, "temperature": 0.7}, 4).seed


def test_a_file_that_cannot_be_read_is_counted(model: Any, caplog: pytest.LogCaptureFixture) -> None:
    """fails when it ends the run, or its question gets an answer without it in silence"""
    found = model.generate_until(requests([0, 5, 3], SIX))
    assert found[1] == "" and found[0] and found[2] and model.num_unreadable == 1
    model.clean()
    assert "1 questions could not be read" in caplog.text


def test_losses_are_those_of_training(model: Any, engine: ChatEngine) -> None:
    """fails when the least loss is not the most likely choice, or choices of a question are read apart"""
    asked = [one for number in (0, 3) for choice in CHOICES for one in requests([number], f" {choice}")]
    passes: list[int] = []
    hook = engine.model.language.decoder_layers[0].register_forward_pre_hook(lambda *given: passes.append(1))
    found = model.loglikelihood(asked)
    hook.remove()
    assert len(passes) == 4  # for each question its prompt, and all choices after it
    for choice, one in zip(CHOICES, found[3:], strict=True):
        loss, is_greedy = one
        sample = Sample("a", "a", (user(QUESTION), assistant(choice)))
        batch = collate([sample], engine.layout)
        num_own = len(engine.layout.continuations((user(QUESTION),), [choice])[0])
        batch.predict_at, batch.target = batch.predict_at[:num_own], batch.target[:num_own]
        batch.num_points = (num_own,)
        with torch.no_grad():
            assert loss == pytest.approx(float(engine.model(batch).total), abs=1e-5)
        assert one.text == (loss, is_greedy) and is_greedy is False and one.token_counts is None
    assert found[0] != found[3]


def test_rounds_follow_from_the_answers_before(model: Any) -> None:
    """fails when a round does not see the answers so far, or the rounds never end"""
    seen: list[Any] = []

    def following(doc: Any, previous_output: Any, round_idx: int, previous_round_info: Any) -> tuple[Any, ...]:
        seen.append((list(previous_output), round_idx, previous_round_info))
        return doc, f"{QUESTION} {previous_output[-1]}", round_idx == 2, previous_output, round_idx

    args = (QUESTION, SIX, lambda doc: doc, following, 0, "mini", "test")
    (found,) = model.generate_until_multi_round([SimpleNamespace(args=args)])
    assert len(found) == 2 and seen == [(found[:1], 1, None), (found, 2, 1)]


def test_arguments_are_checked(adapter: Any) -> None:
    """fails when a misspelled argument is ignored, or nothing says what to load"""
    with pytest.raises(ValueError, match="has no pretrained; it has cfg, checkpoint"):
        adapter.ChatBridge(cfg="a.yaml", pretrained="x")
    with pytest.raises(ValueError, match="batch_size is 'auto', expected a whole number"):
        adapter.ChatBridge(cfg="a.yaml", batch_size="auto")
    with pytest.raises(ValueError, match="needs cfg=FILE.yaml, or checkpoint="):
        adapter.ChatBridge()


def test_the_package_announces_the_model(adapter: Any) -> None:
    """fails when an installed package is not found by lmms-eval, or names another class"""
    setup = (Path(__file__).parents[2] / "setup.py").read_text()
    assert f'"lmms_eval.models": ["{ENTRY}"]' in setup
    found = adapter.manifest()
    assert (found.model_id, found.simple_class_path) == ("chatbridge", f"{MODULE}.ChatBridge")


@pytest.mark.slow
@pytest.mark.skipif(not is_installed(), reason="lmms-eval is not installed; docs/evaluation.md has the command")
def test_a_run_of_lmms_eval(world: ChatWorld, tmp_path: Path) -> None:
    """fails when the runner of lmms-eval cannot build, ask or score one of our models"""
    tasks, site = write_tasks(tmp_path / "tasks", world.files), installed(tmp_path / "site")
    paths = [str(Path(__file__).parents[2]), str(site), os.environ.get("PYTHONPATH", "")]
    environment = {"PYTHONPATH": os.pathsep.join(paths), "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "lmms_eval", "--model", "chatbridge", "--model_args", f"cfg={world.config}",
               "--tasks", "mini_caption,mini_choice", "--include_path", str(tasks), "--batch_size", "2", "--device",
               "cpu", "--log_samples", "--output_path", str(tmp_path / "out")]  # fmt: skip
    ran = subprocess.run(command, env={**os.environ, **environment}, text=True, capture_output=True, timeout=300)
    assert ran.returncode == 0, ran.stderr[-3000:]
    (path,) = (tmp_path / "out").rglob("*_results.json")
    results = json.loads(path.read_text())["results"]
    assert results["mini_caption"]["says,none"] == 1.0
    (samples,) = (tmp_path / "out").rglob("*_samples_mini_choice.jsonl")
    rows = [json.loads(line) for line in samples.read_text().splitlines()]
    losses = [[float(pair[0]) for pair in row["filtered_resps"]] for row in rows]
    correct = [one.index(min(one)) == int(row["target"]) for one, row in zip(losses, rows, strict=True)]
    assert results["mini_choice"]["acc,none"] == pytest.approx(sum(correct) / 5)
