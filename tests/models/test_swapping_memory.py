"""Loading a language model takes the memory of its weights once, and trainable weights keep their precision."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from chatbridge.models.loading import load_weights
from chatbridge.models.trainable import set_trainable
from tests.helpers.tiny_models import LANGUAGE, tiny_model


@pytest.mark.parametrize("kept", ["float32", "bfloat16", "float16"])
def test_what_trains_keeps_the_digits_of_the_file(tmp_path: Path, kept: str) -> None:
    """fails when trained tensors go through the compute dtype on their way, or frozen ones are not held in it"""
    architecture = {"model_type": "llama", **LANGUAGE["architecture"]}
    torch.manual_seed(0)
    written = AutoModelForCausalLM.from_config(AutoConfig.for_model(**architecture)).to(getattr(torch, kept))
    written.save_pretrained(tmp_path)
    model = tiny_model(language={"name": "causal_lm", "weights": str(tmp_path)})
    set_trainable(model, ["language.lm.model.norm.*", "language.lm.lm_head.*"])
    load_weights(model, "cpu", torch.bfloat16)
    expected = written.state_dict()
    for name, parameter in model.language.lm.named_parameters():
        wanted = torch.float32 if parameter.requires_grad else torch.bfloat16
        assert parameter.dtype == wanted
        assert torch.equal(parameter, expected[name].to(wanted)), name


@pytest.mark.slow
def test_peak_memory_of_loading(repository: Path) -> None:
    """fails when loading holds a second copy of the weights, or a process its own copy of mapped ones"""
    script = repository / "benchmarks" / "load_memory.py"
    command = [sys.executable, str(script), "--gigabytes", "1.5"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=repository)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(lines) == 2 and lines[0]["own_ratio"] < 0.2
