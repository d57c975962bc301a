"""The commands of an installed wheel, from a folder without the repository."""

from __future__ import annotations

import json
import os
import shutil
import site
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tests.helpers.mini_world import MiniWorld, write_yaml

SHIPPED = ("chatbridge", "configs", "setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE")
COMMANDS = """
import sys
import chatbridge
from chatbridge.__main__ import main
assert chatbridge.__file__.startswith(sys.prefix), chatbridge.__file__
for command in (
    "train --cfg-path my.yaml",
    "evaluate --cfg-path my_eval.yaml",
    "generate run --records questions.jsonl --out answers.jsonl",
    "report run answered",
    "data check my.yaml --sample 2 --workers 1",
    "weights list my_eval.yaml",
    "weights check my_eval.yaml",
    "demo --checkpoint run --check",
):
    sys.stdout.flush()
    assert main(command.split()) == 0, command
answer = chatbridge.load_model("run").reply("what color is it ?", max_new_tokens=2)
assert isinstance(answer, str)
print("all commands ran")
"""


def environment_of(folder: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return {**kept, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PATH": f"{folder / 'bin'}:{kept['PATH']}"}


@pytest.fixture(scope="module")
def installed(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel, and the dependencies of this one."""
    root = tmp_path_factory.mktemp("wheel")
    source, environment = root / "source", root / "env"
    for name in SHIPPED:  # a build leaves files beside setup.py
        ignored = shutil.ignore_patterns("__pycache__")
        copy = shutil.copytree if (repository / name).is_dir() else shutil.copy
        source.mkdir(exist_ok=True)
        copy(repository / name, source / name, **({"ignore": ignored} if copy is shutil.copytree else {}))
    venv.create(environment)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input"]
    build = [*pip, "wheel", str(source), "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", str(root)]
    done = subprocess.run(build, env=environment_of(environment), cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = root.glob("chatbridge-*.whl")
    into = ["--python", str(environment / "bin/python"), "install", "--no-compile", "--no-deps", "--no-index"]
    done = subprocess.run(
        [*pip, *into, str(wheel)], env=environment_of(environment), cwd=root, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (packages,) = environment.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text("\n".join(site.getsitepackages()))  # its own .pth files are not read
    return environment


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder: two files that build on a model of the wheel, and questions."""
    world, here = MiniWorld(tmp_path_factory.mktemp("world")), tmp_path_factory.mktemp("user")
    model = {
        "encoders": {"vision": {"weights": None}, "audio": {"weights": None}},
        "language": {"weights": str(world.folder / "lm")},
    }
    write_yaml(
        here / "my.yaml",
        {
            "base": ["models/chatbridge_tiny.yaml"],
            "model": {**model, "trainable": ["bridges.*", "encoders.*"]},
            "data": {"sources": {"qa": world.source("questions", "ti-qa")}, "num_workers": 0},
            "run": {"output_dir": "run", "max_steps": 2, "micro_batch": 2, "device": "cpu", "precision": "fp32"},
        },
    )
    write_yaml(
        here / "my_eval.yaml",
        {
            "base": ["models/chatbridge_tiny.yaml"],
            "model": {**model, "trainable": ["bridges.*", "encoders.*"]},
            "evaluation": {"tasks": {"image_qa": world.tasks()["image_qa"]}, "num_workers": 0},
            "run": {"output_dir": "answered", "init_from": "run", "device": "cpu", "precision": "fp32"},
        },
    )
    (here / "questions.jsonl").write_text(json.dumps({"messages": [{"role": "user", "content": "what color is it ?"}]}))
    return here


def test_a_plan_of_a_users_file_from_an_installed_wheel(installed: Path, folder: Path):
    """fails when the console script, the shipped configs or a module of the package is missing from the wheel"""
    command = [str(installed / "bin/chatbridge"), "train", "--cfg-path", "my.yaml", "--check"]
    done = subprocess.run(command, env=environment_of(installed), cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "perceiver" in done.stdout and "2 steps of 2 conversations" in done.stdout
    assert not (folder / "run").exists()


@pytest.mark.slow
def test_every_command_works_from_an_installed_wheel(installed: Path, folder: Path):
    """fails when a command reads a file that only the repository has"""
    command = [str(installed / "bin/python"), "-c", COMMANDS]
    done = subprocess.run(command, env=environment_of(installed), cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    assert done.stdout.endswith("all commands ran\n")
    assert (folder / "run/checkpoints/step_000002/model.safetensors").is_file()
    assert (folder / "answered/metrics.json").is_file() and (folder / "answers.jsonl").is_file()
