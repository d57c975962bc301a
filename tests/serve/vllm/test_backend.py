"""Answers through vLLM's prompt embeddings: equal to this process's own, errors as they are, places freed."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from chatbridge.common.errors import ConfigError
from chatbridge.conversation.messages import Conversation, assistant, user
from chatbridge.models.language import GenerateOptions
from chatbridge.serve.backend import Backend, Busy, Unavailable
from chatbridge.serve.context_length import NoAnswer
from chatbridge.serve.request import RequestSettings
from chatbridge.serve.vllm.backend import VllmEngine, VllmSettings, open_backend
from chatbridge.serve.vllm.front_folder import open_front
from chatbridge.serve.vllm.servers import Servers
from tests.helpers.adapter_runs import AdapterWorld
from tests.helpers.exported_runs import ExportedRun
from tests.helpers.vllm_stub import Vllm, serving

pytest.importorskip("httpx")
SHORT = GenerateOptions(max_new_tokens=12)
FAST = VllmSettings(connect_s=5.0, silent_s=20.0, check_s=0.05)


@pytest.fixture(scope="module")
def world(exported_run: ExportedRun) -> AdapterWorld:
    return exported_run.world


@pytest.fixture(scope="module")
def folder(exported_run: ExportedRun) -> Path:
    return exported_run.out


@pytest.fixture(scope="module")
def ours(exported_run: ExportedRun) -> Any:
    return exported_run.ours


@pytest.fixture(scope="module")
def language_model(folder: Path) -> Vllm:
    return Vllm(folder / "language_model")


@pytest.fixture(scope="module")
def url(language_model: Vllm) -> Iterator[str]:
    with serving(language_model) as address:
        yield address


@pytest.fixture(scope="module")
def front(folder: Path) -> Any:
    return open_front(folder, ["run.device=cpu"])


@pytest.fixture(scope="module")
def opened(front: Any, url: str) -> Iterator[VllmEngine]:
    made = VllmEngine(front, Servers([f"{url}/v1"]), FAST)
    yield made
    made.close()


@pytest.fixture
def vllm(language_model: Vllm) -> Vllm:
    """The stub without faults."""
    for name in ("delay_s", "status", "drop_after", "silent", "without_ids", "key", "max_model_len", "message"):
        setattr(language_model, name, Vllm.__dataclass_fields__[name].default)
    language_model.requests.clear()
    return language_model


@pytest.fixture
def engine(opened: VllmEngine, vllm: Vllm) -> VllmEngine:
    """The engine in front of that stub, which answers."""
    _until(lambda: opened.problem() is None)
    return opened


def questions(ours: Any, world: AdapterWorld) -> list[Conversation]:
    image, video = (next((world.folder / kind).iterdir()) for kind in ("images", "videos"))
    picture, film = ours.attach(image).media, ours.attach(video).media
    first = (user(*picture, "what color is it ?"),)
    return [first, (*first, assistant("red"), user(*film, "and the tone ?")), (user("describe"),)]


def test_answers_equal_those_of_this_process(engine, ours, world):
    """fails when a prompt, an end, a stop string or a penalty means something else on the other side"""
    assert isinstance(engine, Backend)
    for question in questions(ours, world):
        for options, settings in (
            (SHORT, RequestSettings(top_logprobs=2)),
            (GenerateOptions(max_new_tokens=12, repetition_penalty=1.3, min_new_tokens=3), RequestSettings()),
        ):
            whole = ours.answer(question, options)
            found = list(engine.stream(question, options, settings=settings))
            assert found[-1].text == whole.text and found[-1].num_tokens == whole.num_tokens
            assert found[-1].is_done and found[-1].finish in ("stop", "length") and len(found) > 1
            assert found[-1].usage.prompt == len(ours.layout.prompt(question)) and found[-1].usage.cached == 3
            text = whole.text
            if len(text) > 4:  # a stop string of the request: cut in the middle of the answer
                stop = RequestSettings(stop=(text[2:4],))
                assert engine.answer(question, options, stop).text == ours.answer(question, options, stop).text
    assert engine.stats()["running"] == 0


@pytest.mark.slow
def test_logprobs_are_those_of_the_model(engine, ours, world):
    """fails when a log-probability belongs to another token, or the alternatives are not the most likely ones"""
    question = questions(ours, world)[0]
    answer = engine.answer(question, SHORT, RequestSettings(top_logprobs=3))
    ids = [one.id for one in answer.logprobs]
    assert len(ids) == answer.num_tokens > 0
    batch = ours.prompts([question])
    with torch.no_grad():
        embeds = ours.model.prompts(batch).embeds
        more = ours.model.language.embed(torch.tensor([ids]))
        language = ours.model.language
        logits = language.logits(language(torch.cat([embeds, more], 1)))[0, embeds.shape[1] - 1 : -1]
    wanted = logits.log_softmax(-1)
    for at, one in enumerate(answer.logprobs):
        assert one.logprob == pytest.approx(float(wanted[at, one.id]), abs=1e-4)
        assert [other[0] for other in one.top] == wanted[at].topk(3).indices.tolist()


@pytest.mark.slow
def test_what_vllm_is_asked_for(engine, vllm, ours, world):
    """fails when sampling, a seed or a limit is not passed on, or beams are answered by something else"""
    question = questions(ours, world)[2]
    sampled = GenerateOptions(max_new_tokens=5, sample=True, temperature=0.7, top_p=0.9, top_k=4, seed=7)
    assert engine.answer(question, sampled).text == engine.answer(question, sampled).text
    asked = vllm.requests[-1]
    assert (asked["temperature"], asked["top_p"], asked["top_k"], asked["seed"]) == (0.7, 0.9, 4, 7)
    assert asked["max_tokens"] == 5 and asked["model"] == "language_model" and asked["return_token_ids"]
    with pytest.raises(ValueError, match="vLLM has no beam search over prompt embeddings, set num_beams to 1"):
        engine.stream(question, GenerateOptions(num_beams=3))
    with pytest.raises(NoAnswer):
        engine.stream(())


@pytest.mark.slow
def test_stopping_frees_the_place_at_once(engine, vllm, ours, world):
    """fails when vLLM goes on with an answer that nobody waits for, or a time limit does not end one"""
    vllm.delay_s, before, told = 0.05, vllm.num_broken, engine.stats()["requests_total"]
    question, long = questions(ours, world)[2], GenerateOptions(max_new_tokens=100, min_new_tokens=100)
    stream = engine.stream(question, long)
    next(stream)
    stream.close()
    stopped = threading.Event()
    waiting = engine.stream(question, long, stopped.is_set)
    next(waiting)
    stopped.set()
    assert not any(answer.is_done for answer in waiting)
    late = engine.answer(question, long, RequestSettings(time_limit_s=1.0))
    assert late.finish == "time" and late.is_cut and late.num_tokens < 100
    _until(lambda: vllm.num_broken >= before + 3)
    assert engine.stats()["vllm_running"] == {engine.servers.urls[0]: 0}
    now = engine.stats()["requests_total"]
    assert now["cancelled"] == told["cancelled"] + 2 and now["time"] == told["time"] + 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "error", "status", "said"),
    [
        ({"status": 400, "message": "You must set `--enable-prompt-embeds`"}, Unavailable, 502, "enable-prompt-embeds"),
        ({"status": 500}, Unavailable, 502, "HTTP status 500"),
        ({"status": 503}, Unavailable, 503, "no"),
        ({"status": 429}, Busy, None, "all vLLM servers are busy"),
        ({"silent": True}, Unavailable, 504, "did not answer in time"),
        ({"drop_after": 1}, Unavailable, 503, "after 1 tokens of the answer"),
        ({"without_ids": True}, Unavailable, 502, "this needs vLLM 0.11 or later"),
    ],
    ids=lambda one: next(iter(one)) if isinstance(one, dict) else "",
)  # fmt: skip
def test_errors_of_the_other_side(engine, vllm, ours, world, monkeypatch, fault, error, status, said):
    """fails when an error of vLLM becomes an empty answer, another status, or hangs"""
    monkeypatch.setattr(engine, "settings", replace(FAST, silent_s=0.4 if "silent" in fault else 20.0))
    for name, value in fault.items():
        setattr(vllm, name, value)
    kind = "busy" if error is Busy else "error"
    before = engine.stats()["requests_total"][kind]
    options = GenerateOptions(max_new_tokens=5, min_new_tokens=5)
    with pytest.raises(error, match=said) as raised:
        list(engine.stream(questions(ours, world)[2], options))
    if status is not None:
        assert raised.value.status == status
    assert engine.stats()["requests_total"][kind] == before + 1 and engine.stats()["running"] == 0


@pytest.mark.slow
def test_another_server_answers(front, vllm, url, ours, world, folder):
    """fails when a server that fails costs an answer, is asked again and again, or does not come back"""
    question = questions(ours, world)[2]
    broken = Vllm(folder / "language_model", status=500)
    with serving(broken) as other:
        engine = VllmEngine(front, Servers([other, url]), FAST)
        answers = {engine.answer(question, SHORT).text for _ in range(4)}
        assert answers == {ours.answer(question, SHORT).text}
        assert 0 < len(broken.requests) < 5 and len(vllm.requests) == 4
        both = engine.stats()["vllm_up"]
        assert both == {other: 1.0, url: 1.0}
    _until(lambda: engine.stats()["vllm_up"][other] == 0.0)
    assert engine.problem() is None and engine.answer(question, SHORT).text in answers
    engine.close()
    assert engine.problem() == "this server is closing"
    with pytest.raises(Unavailable, match="closing"):
        engine.answer(question, SHORT)


@pytest.mark.slow
def test_the_start(folder, vllm, world, tmp_path):
    """fails when an engine waits for vLLM instead of saying that it is not there, or a key is not asked for"""
    with pytest.raises(ConfigError, match=r"(?s)is not an http or https address: ftp.*has a password in it"):
        open_backend(folder, ["ftp://x", "http://me:secret@x"])
    with pytest.raises(ValueError, match="add --options evaluation.generation.num_beams=1"):
        open_backend(folder, ["http://127.0.0.1:9"], ["evaluation.generation.num_beams=4", "run.device=cpu"])
    vllm.key = "right"
    with serving(vllm) as url:
        engine = open_backend(folder, [url], ["run.device=cpu"], key="wrong", settings=FAST)
        assert "wants a key; set CHATBRIDGE_VLLM_KEY" in str(engine.problem())
        with pytest.raises(Unavailable, match="none of 1 vLLM servers answers") as raised:
            engine.answer((user("describe"),), SHORT)
        assert raised.value.status == 503
        engine.close()
        engine = open_backend(folder, [url], ["run.device=cpu"], key="right", settings=FAST)
        assert engine.answer((user("describe"),), SHORT).is_done
        vllm.max_model_len = 30
        _until(lambda: engine.servers.context == 30)
        assert engine.answer((user("describe"),), GenerateOptions(max_new_tokens=5)).num_tokens <= 5
        with pytest.raises(NoAnswer, match="the model's context length is 30"):
            engine.answer((user("describe"),), GenerateOptions(max_new_tokens=50))
    _until(lambda: engine.problem() is not None)
    assert "none of 1 vLLM servers answers: it " in str(engine.problem()) and url not in str(engine.problem())
    engine.close()


def _until(holds: Any, most_s: float = 30.0) -> None:
    end = time.monotonic() + most_s
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.slow
def test_many_threads_and_random_ends(engine, vllm, ours, world):
    """fails when an answer is lost, belongs to another question, or a request that was given up keeps its place"""
    asked = questions(ours, world)
    wanted = [ours.answer(question, SHORT).text for question in asked]
    told, faults = engine.stats(), []

    def work(seed: int) -> None:
        choose = random.Random(seed)
        for _ in range(8):
            which, is_given_up = choose.randrange(len(asked)), choose.random() < 0.3
            stream = engine.stream(asked[which], SHORT)
            if is_given_up:
                next(stream, None)
                stream.close()
                continue
            *_, last = stream
            if last.text != wanted[which] or not last.is_done:
                faults.append((which, last))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    now = engine.stats()
    assert not faults and now["running"] == 0 and not any(now["vllm_running"].values())
    ended = {kind: number - told["requests_total"][kind] for kind, number in now["requests_total"].items()}
    assert sum(ended.values()) == 64 and ended["error"] == 0 and ended["cancelled"] > 5
