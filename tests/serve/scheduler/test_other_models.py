"""Requests at the same time for models whose answers cannot simply share a batch, and programs that just end."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch

from chatbridge.conversation.messages import Conversation, Drawing, assistant, user
from chatbridge.models.language import GenerateOptions
from chatbridge.serve.answer import Answer
from chatbridge.serve.engine import ChatEngine
from chatbridge.serve.request import RequestSettings
from tests.helpers.flamingo_release import Release
from tests.helpers.serve_parts import SHORT, ChatWorld, color_question
from tests.helpers.toy_drawing import with_toy_lab

TEXT: Conversation = (user("what color is it ?"),)
Asked = list[tuple[Conversation, GenerateOptions]]


def assert_same_together(engine: ChatEngine, asked: Asked) -> list[Answer]:
    """Every answer is the same alone, and together with all others, twice each; returns those alone."""
    can_count = engine.layout.template.drawing_ids is None

    def answer(one: tuple[Conversation, GenerateOptions]) -> Answer:
        counted = RequestSettings(top_logprobs=0 if can_count and one[1].num_beams == 1 else None)
        return engine.answer(*one, counted)

    alone = []
    for one in asked:
        engine.forget()
        alone.append(answer(one))
    engine.forget()
    with ThreadPoolExecutor(2 * len(asked)) as pool:
        together = list(pool.map(answer, asked * 2))
    assert list(map(seen, together)) == list(map(seen, alone * 2)) and not engine.stats()["running"]
    for one, other in zip(together, alone * 2, strict=True):
        assert logprobs(one) == pytest.approx(logprobs(other), abs=1e-4)
    return alone


def seen(answer: Answer) -> tuple[Any, ...]:
    return answer.text, answer.num_tokens, captions(answer), answer.notes


def captions(answer: Answer) -> list[str]:
    return [part.caption for part in answer.parts if isinstance(part, Drawing)]


def logprobs(answer: Answer) -> list[float]:
    return [one.logprob for one in answer.logprobs]


@pytest.mark.slow
def test_media_that_layers_read(world: ChatWorld, repository: Path, tmp_path: Path) -> None:
    """Fails when a layer of one request reads the image of another one, also beside a beam search."""
    release = Release(tmp_path / "release", world.world.folder / "lm")
    engine = ChatEngine.from_config(repository / "eval_configs" / "mmgpt_eval.yaml", release.options)
    shown = color_question(engine, world, "image")
    image: Any = shown[0].media[0]
    other = (user(replace(image, ref=replace(image.ref, tensor=-image.ref.tensor)), "what color is it ?"),)
    twice = (*TEXT, assistant("a"), user(image, *other[0].media, "and it ?"))
    beams = GenerateOptions(max_new_tokens=8, num_beams=3)
    asked = [(one, how) for how in (SHORT, beams) for one in (TEXT, shown, other, twice)]
    alone = [logprobs(one) for one in assert_same_together(engine, asked)[:4]]
    least = min(max(abs(a - b) for a, b in zip(one, other, strict=False)) for one, other in combinations(alone, 2))
    assert least > 1e-3, "the images make no difference that could be seen"
    engine.close()


@pytest.mark.slow
def test_a_model_that_cannot_mask_padding(world: ChatWorld, tmp_path: Path) -> None:
    """Fails when requests of such a model share a batch, wait for each other's end, or read each other's state."""
    from transformers import AutoTokenizer, MambaConfig, MambaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(world.world.folder / "lm")
    tokenizer.save_pretrained(tmp_path / "lm")
    torch.manual_seed(0)
    sizes = MambaConfig(
        vocab_size=len(tokenizer), hidden_size=20, num_hidden_layers=2, state_size=4, initializer_range=0.4,
        bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    MambaForCausalLM(sizes).save_pretrained(tmp_path / "lm")
    model = world.world.model()
    model["language"]["weights"] = str(tmp_path / "lm")
    engine = ChatEngine.from_config(world.write("mamba.yaml", model=model))
    assert not engine.model.language.new_cache().store.paddable
    shown = color_question(engine, world, "image")
    sampled = GenerateOptions(max_new_tokens=12, sample=True, seed=3)
    assert_same_together(engine, [(TEXT, SHORT), (shown, SHORT), (shown, sampled), ((user("red green ?"),), sampled)])
    second = (*shown, engine.answer(shown, SHORT).message, user("why ?"))
    kept = engine.answer(second, SHORT)
    engine.forget()
    assert engine.answer(second, SHORT).text == kept.text
    engine.close()


@pytest.fixture(scope="module")
def sketching(world: ChatWorld) -> Iterator[ChatEngine]:
    for _ in with_toy_lab():
        model = world.world.model() | {"generator": {"name": "plain_color"}}
        path = world.write("draw_together.yaml", plugins=["toy_lab"], model=model, evaluation={"template": "sketch"})
        engine = ChatEngine.from_config(path)
        yield engine
        engine.close()


def test_answers_with_images(sketching: ChatEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails when an answer waits for ever for its image, or gets that of another request."""
    opening, closing = sketching.layout.template.drawing_ids or (0, 0)
    real = sketching.model.language.logits

    def logits(hidden: torch.Tensor) -> torch.Tensor:  # answers that draw often
        found = real(hidden)
        found[:, [opening, closing]] = found.amax(1, keepdim=True) + 4.0
        return found

    monkeypatch.setattr(sketching.model.language, "logits", logits)
    options = GenerateOptions(max_new_tokens=12, sample=True, temperature=1.5)
    asked = [((user(text),), replace(options, seed=seed)) for seed, text in enumerate(("draw", "a red circle", "it ?"))]
    assert any(map(captions, assert_same_together(sketching, asked)))


@pytest.mark.slow
def test_a_program_may_end_while_an_answer_grows(world: ChatWorld, repository: Path) -> None:
    """Fails when a program that does not close its engine hangs at its end, or crashes there."""
    code = f"""
        from chatbridge.conversation.messages import user
        from chatbridge.models.language import GenerateOptions
        from chatbridge.serve.engine import ChatEngine
        engine = ChatEngine.from_config({str(world.config)!r})
        stream = engine.stream((user("what ?"),), GenerateOptions(max_new_tokens=400, min_new_tokens=400))
        print(next(stream).is_done)
    """
    made = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=repository, capture_output=True, timeout=120
    )
    assert made.returncode == 0 and made.stdout.split()[-1] == b"False", made.stderr.decode()
