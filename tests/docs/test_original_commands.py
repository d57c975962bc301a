"""The commands of the original pages and their counterparts in docs/original_commands.md."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import torch

from chatbridge.cli import chat, demo, evaluate, train
from chatbridge.common import dist
from chatbridge.common.errors import ConfigError, DataError
from chatbridge.config.original_keys import KEYS_HERE
from chatbridge.experiment.roots import Evaluation, Experiment
from tests.docs.test_readme_commands import WITH_ACTIONS, help_of, module_of, program
from tests.docs.test_readme_commands import commands as shell_commands
from tests.helpers.placeholder_world import ABSENT, OPEN, parse_with_placeholders, write_placeholder_world
from tests.helpers.serve_parts import ChatWorld

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/original_commands.md").read_text(encoding="utf-8")
MAINS: dict[str, Any] = {"train.py": train, "demo.py": demo}
MAINS |= {"chatbridge.cli.evaluate": evaluate, "chatbridge.cli.chat": chat}
FAMILIES = ("ChatBridge", "MiniGPT-4", "ChatBind", "Multimodal-GPT", "TextBind")
ELSEWHERE = ("conda", "make")
MISSING = re.compile(r"there is no|does not exist|[Nn]o such file")


def rows(title: str) -> list[list[str]]:
    """The cells of the table below a title, without its head."""
    section = PAGE.split(f"## {title}\n")[1].split("\n## ")[0]
    cells = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line] for line in cells[2:]]


def commands(*titles: str) -> list[str]:
    found = [command for title in titles for row in rows(title) for command in re.findall(r"`([^`]+)`", row[1])]
    return list(dict.fromkeys(found))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_placeholder_world(tmp_path_factory.mktemp("original"))
    (folder / "weights").mkdir()
    (folder / "weights/chatbridge.pth").touch()
    return folder


@pytest.fixture
def here(written: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(written)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # --gpu-id 2 is fine on a machine without a GPU
    return written


def checked(command: str, *more: str) -> list[str]:
    """The problems that --check of a command reports, as text."""
    module, arguments = program(shlex.split(command))
    try:
        assert MAINS[module].main([*arguments, "--check", *more]) == 0
    except ConfigError as error:
        return [str(problem) for problem in error.problems]
    return []


def test_the_pages_are_covered():
    """fails when the first command of a page is missing in the table, or the tables are no longer found"""
    first = ["python demo.py --cfg-path eval_configs/chatbridge_eval.yaml --gpu-id 0"]
    first += [f"python demo.py --cfg-path eval_configs/minigpt4_{name}eval.yaml --gpu-id 0" for name in ("", "llama2_")]
    assert set(first) <= set(commands(*FAMILIES))
    assert any("chatbind_eval.yaml --image dog_image.jpg --prompt" in one for one in commands("ChatBind"))
    assert len(rows("ChatBridge")) >= 10 and len(rows("MiniGPT-4")) >= 12 and len(rows("ChatBind")) >= 18
    assert len(rows("Multimodal-GPT")) >= 20 and len(rows("TextBind")) >= 22
    assert len(rows("On the tiny twin")) == 27
    assert "docs/original_commands.md" in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("command", commands(*FAMILIES))
def test_original_commands_lack_files_and_nothing_else(here: Path, command: str, monkeypatch, capsys):
    """fails when a command of the table is refused for another reason than missing weights and data"""
    words = shlex.split(command)
    if words[0] in ELSEWHERE:
        return
    module, arguments = program(words)
    if module in MAINS:
        problems = checked(command)
        assert problems and all(OPEN in text or ABSENT.search(text) or MISSING.search(text) for text in problems), (
            "\n\n".join(problems)
        )
        assert any("model.language.weights" in text and "Hugging Face form" in text for text in problems)
        return
    action = arguments[:1] if module in WITH_ACTIONS else []
    text = help_of(module, action, monkeypatch, capsys)
    assert "usage" in text and all(word in text for word in arguments if word.startswith("--"))


OTHERS = [one for one in commands(*FAMILIES) if re.search(r"dataset_prep|apply-delta|review|export", one)]


@pytest.mark.parametrize("command", OTHERS)
def test_other_commands_lack_their_input_and_nothing_else(tmp_path: Path, command: str, monkeypatch, capsys):
    """fails when a command of the table is not accepted as written, or does not name the missing input"""
    monkeypatch.chdir(tmp_path)
    module, arguments = program(shlex.split(command))
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    given = [] if module.startswith("dataset_prep") else [arguments]
    with pytest.raises((SystemExit, ConfigError, DataError, ValueError)) as caught:
        raise SystemExit(module_of(module).main(*given))
    messages = f"{caught.value} {capsys.readouterr().err}"
    missing = [word for word in arguments if word in messages and not word.startswith("--")]
    assert MISSING.search(messages), messages
    assert any("/" in word or "llama" in word or word.endswith((".json", ".jsonl")) for word in missing), messages
    assert list(tmp_path.iterdir()) == []


def twin_commands() -> list[str]:
    """Those of the table; trainings that a shell block of a page has too are checked by test_readme_commands."""
    return [one for one in commands("On the tiny twin") if "train.py" not in one or one not in shell_commands()]


@pytest.mark.parametrize("command", twin_commands())
def test_the_tiny_twin_is_ready(here: Path, command: str, monkeypatch, capsys):
    """fails when a command on the tiny model reports a problem after the quickstart has written its files"""
    if "dataset_prep" in command or "export" in command:
        module, arguments = program(shlex.split(command))
        text = help_of(module, [], monkeypatch, capsys)
        assert "usage" in text and all(word in text for word in arguments if word.startswith("--"))
        return
    is_chat = any(one in command for one in ("demo.py", "evaluate", "chat --cfg-path"))
    more = ["--options", "run.init_from=null"] if is_chat else []  # nothing was trained here
    assert checked(command, *more) == []
    out = capsys.readouterr().out
    assert "parameters" in out
    if "--gpu-id" in command:
        assert out.count("--gpu-id 0 has no effect: PyTorch finds no GPU on this machine") == 1


@pytest.mark.parametrize("name", ["chatbridge_eval", "chatbridge_7b_eval"])
def test_the_demo_of_the_published_sizes_builds(here: Path, name: str, capsys):
    """fails when a demo with every file in place cannot be planned, or has other modalities"""
    config = parse_with_placeholders(Evaluation, Path(f"eval_configs/{name}.yaml"))
    part = config.model.language.config
    assert part.architecture["hidden_size"] == (4096 if "7b" in name else 5120)
    assert list(config.model.routes) == ["image", "video", "audio"]


def test_settings_with_another_name_exist():
    """fails when the last table names a key that does not exist"""
    cells = [row[1] for row in rows("Settings that have another name")]
    found = [key for cell in cells for key in re.findall(r"`((?:model|run|data)\.[\w.]+)`", cell)]
    assert len(found) >= 15
    plain = [key for key in found if key.startswith(("run.", "data."))]
    hints = {"run": get_type_hints(Experiment)["run"], "data": get_type_hints(Experiment)["data"]}
    for key in plain:
        kind: Any = hints[key.split(".")[0]]
        for name in key.split(".")[1:]:
            assert name in kind.__dataclass_fields__, key
            kind = get_type_hints(kind)[name]


@pytest.mark.parametrize("command", ["train.py --cfg-path train_configs/tiny_pretrain.yaml",
                                     "demo.py --cfg-path eval_configs/tiny_eval.yaml"])  # fmt: skip
def test_original_options_name_the_key_here(here: Path, command: str):
    """fails when an option of the original pages is refused without the key that has the same meaning"""
    messages = {text.split()[0]: " ".join(text.split()) for text in checked(
        f"python {command}", "--options", "model.ckpt=a.pth", "model.llama_model=v", "model.q_former_model=q.pth",
        "run.init_lr=1e-4", "datasets.cc.vis_processor=x")}  # fmt: skip
    for key, found in (("model.ckpt", "run.init_from"), ("model.llama_model", "model.language.weights"),
                       ("model.q_former_model", "model.bridges.<name>.weights")):  # fmt: skip
        assert f"the original's {key} is {found}" in messages[f"{key}"], messages
    assert "run.optimizer.lr" in messages["run.init_lr"] and "data.sources" in messages["datasets"]


def test_the_table_of_original_keys_is_true():
    """fails when an original's key exists here with another meaning, or its counterpart does not exist"""
    for original, key in KEYS_HERE.items():
        assert not has_key(original), original
        first = key.split()[0].rstrip(",")
        inside = ("model.encoders", "model.bridges", "model.language", "data.sources", "evaluation.tasks", "base")
        assert first.startswith(inside) or has_key(first), key


def has_key(key: str) -> bool:
    """Whether training has this key, outside of parts chosen by name."""
    kind: Any = Experiment
    for name in key.split("."):
        if name not in getattr(kind, "__dataclass_fields__", {}):
            return False
        kind = get_type_hints(kind)[name]
    return True


# ---------------------------------------------------------------- --gpu-id


@pytest.mark.parametrize(
    ("found", "gpu_id", "reason"),
    [(2, 2, "is 2, but PyTorch finds 2 GPUs"), (1, 7, "finds 1 GPU on"), (2, -1, "numbered from 0"), (0, -1, "from 0")],
)
def test_a_gpu_that_does_not_exist_is_refused(monkeypatch, found: int, gpu_id: int, reason: str):
    """fails when --gpu-id of a missing GPU ends in a CUDA traceback, or selects another GPU"""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: found > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: found)
    with pytest.raises(ConfigError, match=reason) as caught:
        dist.start("auto", gpu_id)
    (problem,) = caught.value.problems
    assert problem.path == "--gpu-id" and (not found or gpu_id < 0 or problem.allowed == ("0", "1")[:found])


def test_the_named_gpu_is_selected(monkeypatch):
    """fails when --gpu-id 1 loads the model on GPU 0, or all ranks of torchrun select the same GPU"""
    taken: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    assert dist.start("auto", 1).device == torch.device("cuda", 1)
    assert taken == [torch.device("cuda", 1)] and dist.gpu_note(1) is None
    assert dist.gpu_note(1, "cpu") == "--gpu-id 1 has no effect: run.device is cpu; the model runs on the CPU"
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="under torchrun every rank takes its own"):
        dist.gpu_note(1)


def test_the_demo_reports_that_it_runs_on_the_cpu(tmp_path: Path, monkeypatch, capsys):
    """fails when --check of a valid chat prints no plan, reads weights, or hides that --gpu-id has no effect"""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    world = ChatWorld(tmp_path)
    config = str(world.write("auto.yaml", run={"output_dir": str(tmp_path / "eval")}))
    assert demo.main(["--cfg-path", config, "--gpu-id", "0", "--check"]) == 0
    out = capsys.readouterr().out
    assert "takes image, video, audio; template vicuna_v0" in out and "bridges are untrained" in out
    assert "PyTorch finds no GPU" in out
    from chatbridge.serve.engine import ChatEngine

    assert "PyTorch finds no GPU" in ChatEngine.from_config(config, gpu_id=0).about[-1]
    with pytest.raises(ConfigError, match="numbered from 0"):
        demo.main(["--cfg-path", config, "--gpu-id", "-1", "--check"])
