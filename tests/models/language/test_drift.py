"""Rounded language models against full precision: torchao's int8, and what `weights drift` prints."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from chatbridge.cli.weights import drift as command
from chatbridge.common.errors import ConfigError
from chatbridge.models.language._drift import drift, next_token_logprobs, weight_bytes
from chatbridge.models.language.causal_lm import CausalLM
from tests.helpers.serve_parts import ChatWorld


def test_drift_is_zero_for_equal_models_and_grows():
    """fails when a divergence, a share or a likelihood is of other tokens than those of the texts"""
    texts = [[1, 2, 0], [2, 2]]
    full = [torch.tensor([[0.5, 0.3, 0.2]]).expand(len(one), 3).log() for one in texts]
    other = [torch.tensor([[0.2, 0.5, 0.3]]).expand(len(one), 3).log() for one in texts]
    same, moved = drift(texts, full, full), drift(texts, full, other)
    assert (same.kl, same.same_choice, same.perplexity_ratio, same.num_tokens) == (0.0, 1.0, 1.0, 3)
    assert moved.same_choice == 0.0 and moved.kl == pytest.approx(0.22380, abs=1e-4)
    assert moved.nll == pytest.approx(-float(torch.tensor([0.3, 0.2, 0.3]).log().mean()))  # of 2, 0 and 2
    with pytest.raises(ValueError, match="give longer texts"):
        drift([[1]], full[:1], full[:1])


def test_torchao_takes_less_memory_and_drifts_little(chat_world: ChatWorld):
    """fails when int8 is not in effect on a CPU, the head is rounded, or a trainable model is accepted"""
    pytest.importorskip("torchao")
    folder = chat_world.world.folder / "lm"
    texts = [[1, 5, 6, 7, 8, 30, 44, 12]]

    def loaded(**settings: object) -> CausalLM:
        language = CausalLM(CausalLM.Config(weights=folder, **settings))  # type: ignore[arg-type]
        language.requires_grad_(False)
        line = language.load(torch.device("cpu"), torch.float32)
        assert ("torchao" in line) == bool(settings)
        return language.eval()

    full, rounded = loaded(), loaded(load_in_8bit=True, quantizer="torchao")
    found = drift(texts, next_token_logprobs(full, texts), next_token_logprobs(rounded, texts))
    assert 0 < found.kl < 0.01 and weight_bytes(rounded) < weight_bytes(full)
    assert torch.equal(rounded.vocabulary_modules[1].weight, full.vocabulary_modules[1].weight)
    trainable = CausalLM(CausalLM.Config(weights=folder, load_in_8bit=True, quantizer="torchao"))
    with pytest.raises(ValueError, match="cannot be trained"):
        trainable.load(torch.device("cpu"), torch.float32)
    (problem,) = CausalLM.Config(weights=folder, quantizer="torchao").problems()
    assert "8 bit only" in str(problem)


@pytest.mark.slow
def test_the_command_prints_every_form(chat_world: ChatWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """fails when a form is not loaded, or a mistake in the texts ends in a traceback"""
    pytest.importorskip("torchao")
    pytest.importorskip("bitsandbytes")
    assert command.main(["--cfg-path", str(chat_world.config)]) == 0
    printed = capsys.readouterr().out
    rows = {line.split()[0]: line.split() for line in printed.splitlines() if line.startswith(("8bit", "4bit", "full"))}
    assert set(rows) == {"full", *command.FORMS} and "8 texts" in printed
    assert float(rows["4bit"][-3]) > float(rows["8bit-torchao"][-3]) > 0
    with pytest.raises(ConfigError, match="cannot be read"):
        command.main(["--cfg-path", str(chat_world.config), "--texts", str(tmp_path / "no")])
    with pytest.raises(ConfigError, match="--cfg-path"):
        command.main([])
