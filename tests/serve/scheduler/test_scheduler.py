"""Requests of many threads in one running batch: their answers, their places, their errors."""

from __future__ import annotations

import os
import random
import select
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from chatbridge.conversation.messages import Conversation, assistant, user
from chatbridge.models.language import GenerateOptions
from chatbridge.serve.answer import Answer
from chatbridge.serve.backend import Busy, Unavailable
from chatbridge.serve.engine import ChatEngine
from chatbridge.serve.request import RequestSettings
from tests.helpers.serve_parts import SHORT, ChatWorld, color_question
from tests.serve.scheduler.conftest import Limited

TEXT: Conversation = (user("what color is it ?"),)
LONG = GenerateOptions(max_new_tokens=300, min_new_tokens=300)
PLAIN = RequestSettings()
Asked = tuple[Conversation, GenerateOptions, RequestSettings]


@pytest.fixture
def slowly(engine: ChatEngine, monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """slowly(seconds) lets every step take so long."""
    real = engine.model.language.logits

    def begin(seconds: float) -> None:
        def logits(hidden: Tensor) -> Tensor:
            time.sleep(seconds)
            return real(hidden)

        monkeypatch.setattr(engine.model.language, "logits", logits)

    return begin


def asked_of(engine: ChatEngine, world: ChatWorld) -> list[Asked]:
    """Requests of different lengths, media, options and stop strings."""
    image, audio = color_question(engine, world, "image"), color_question(engine, world, "audio")
    sampled = GenerateOptions(max_new_tokens=14, sample=True, temperature=1.5, seed=7)
    return [
        (TEXT, SHORT, PLAIN),
        (image, SHORT, PLAIN),
        (image, replace(sampled, seed=8), PLAIN),
        ((*image, assistant("red"), user("what is left of the ball ?")), sampled, PLAIN),
        (audio, replace(SHORT, max_new_tokens=25, repetition_penalty=1.4), PLAIN),
        ((*audio, assistant("a tone"), *image), SHORT, RequestSettings(stop=("e",))),
        ((user("how many balls are there in all of these pictures together ? " * 3),), SHORT, PLAIN),
        (TEXT, replace(SHORT, num_beams=3), PLAIN),
    ]


def seen(answer: Answer) -> tuple[Any, ...]:
    return answer.text, answer.num_tokens, answer.finish, answer.notes


def alone(engine: ChatEngine, asked: list[Asked]) -> list[tuple[Any, ...]]:
    found = []
    for one in asked:
        engine.forget()
        found.append(seen(engine.answer(*one)))
    return found


def ask_some(engine: ChatEngine, asked: list[Asked], wanted: list[tuple[Any, ...]], seed: int, count: int) -> int:
    """Ask `count` of them one after the other; some are given up after a few items. Returns how many were complete."""
    rng, num_complete = random.Random(seed), 0
    for _ in range(count):
        number = rng.randrange(len(asked))
        conversation, options, settings = asked[number]
        most = rng.choice((0, 1, 3, None, None))
        text, last = "", None
        with closing(engine.stream(conversation, options, settings=settings)) as answers:
            for at, answer in enumerate(answers):
                assert answer.text.startswith(text), "an answer lost or changed what was shown"
                text, last = answer.text, answer
                if most is not None and at >= most:
                    break
        if last is not None and last.is_done:
            assert seen(last) == wanted[number]
            num_complete += 1
        elif last is not None:
            assert wanted[number][0].startswith(text)
    return num_complete


@pytest.mark.parametrize("count", [2, pytest.param(40, marks=pytest.mark.slow)])
def test_answers_of_many_threads_are_those_of_each_alone(engine, world, limited: Limited, count):
    """fails when a request that joins, leaves or is given up changes, loses, crosses or repeats another one's answer,
    or keeps its place"""
    own = limited(max_batch=5)
    asked = asked_of(own, world)
    wanted = alone(own, asked)
    own.forget()
    before: Any = own.stats()["requests_total"]
    with ThreadPoolExecutor(8) as pool:
        num_complete = sum(pool.map(lambda seed: ask_some(own, asked, wanted, seed, count), range(8)))
    stats: Any = own.stats()
    assert (stats["running"], stats["waiting"]) == (0, 0) and num_complete > count
    ends = {end: number - before[end] for end, number in stats["requests_total"].items()}
    assert sum(ends.values()) == 8 * count and not ends["error"] and ends["stop"] + ends["length"] >= num_complete
    assert stats["steps_total"]["rows"] > 1.5 * stats["steps_total"]["steps"], "requests have not shared steps"


def test_a_request_that_is_given_up_frees_its_place_within_a_token(limited: Limited, slowly):
    """fails when a closed, dropped or stopped answer goes on, or the one that waits for its place does not begin"""
    own, stopped = limited(max_batch=1), threading.Event()
    slowly(0.01)
    streams = [own.stream(TEXT, LONG), own.stream(TEXT, LONG, stopped.is_set)]
    assert not next(streams[0]).is_done and own.stats()["waiting"] == 1
    steps: Any = own.stats()["steps_total"]
    streams.pop(0)  # dropped, not closed
    assert not next(streams[0]).is_done
    stopped.set()
    assert not list(streams[0]) and own.stats()["running"] == 0
    own.answer(TEXT, SHORT)
    stats: Any = own.stats()
    assert stats["requests_total"]["cancelled"] == 2 and stats["steps_total"]["steps"] - steps["steps"] < 100


def test_a_time_limit_ends_running_and_waiting_requests(limited: Limited, slowly):
    """fails when an answer goes on after its time limit, loses what it has, or a waiting question waits for ever"""
    own = limited(max_batch=1)
    slowly(0.02)
    first = own.stream(TEXT, LONG, settings=RequestSettings(time_limit_s=1.0))
    next(first)
    second = own.answer(TEXT, LONG, RequestSettings(time_limit_s=0.1))
    *_, cut = first
    assert cut.finish == "time" and 0 < cut.num_tokens < 200 and cut.is_cut and cut.is_done and cut.text
    assert cut.notes == ("the answer ended at the time limit of 1 s",)
    assert second.finish == "time" and second.num_tokens == 0
    assert second.notes == ("the question was not answered within the time limit of 0.1 s",)


def test_too_many_requests_are_refused_at_once(limited: Limited, slowly):
    """fails when the waiting queue has no end, or a request is refused while there is room"""
    own = limited(max_batch=1, max_waiting=1)
    slowly(0.005)
    first, second = own.stream(TEXT, LONG), own.stream(TEXT, SHORT)
    next(first)
    with pytest.raises(Busy, match="1 requests wait and 1 are being answered.*evaluation.chat.max_waiting") as error:
        own.stream(TEXT, SHORT)
    assert error.value.retry_s >= 1
    first.close()
    assert [*second][-1].is_done and own.answer(TEXT, SHORT).is_done


def test_a_step_that_fails_ends_only_the_request_that_is_the_reason(engine, world, limited: Limited, monkeypatch):
    """fails when an error in a shared step ends the other requests, changes or repeats their answers, or is lost"""
    own = limited()
    asked = [one for one in asked_of(own, world)[:5] if one[1].num_beams == 1]
    wanted = alone(own, asked)
    real, faults = engine.model.language.logits, []

    def fault(module: Any, given: tuple[Any, ...]) -> None:
        if len(given[0]) > 2 or (len(given[0]) == 2 and not faults):
            faults.append(len(given[0]))
            raise RuntimeError("a bad step") if len(faults) % 2 else torch.OutOfMemoryError("no memory")

    hook = engine.model.language.register_forward_pre_hook(fault)
    with ThreadPoolExecutor(len(asked)) as pool:
        found = list(pool.map(lambda one: seen(own.answer(*one)), asked))
    hook.remove()
    assert faults and found == wanted and own.stats()["requests_total"]["error"] == 0  # pyright: ignore
    monkeypatch.setattr(engine.model.language, "logits", lambda hidden: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        own.answer(TEXT, SHORT)
    monkeypatch.setattr(engine.model.language, "logits", real)
    assert seen(own.answer(*asked[0])) == wanted[0] and own.problem() is None


def test_a_request_for_which_memory_is_short_is_tried_again_without_the_caches(engine, limited: Limited, monkeypatch):
    """fails when a prompt without memory ends other requests, or the caches are not given up for it"""
    own = limited()
    text = own.answer(TEXT, SHORT).text
    real, short = engine.model.embedded, [1]

    def embedded(batch: Any, *given: Any) -> Any:
        if short and own.prompt_cache.counts().num_entries:
            raise torch.OutOfMemoryError("no memory")
        if not short and batch.ids.shape[1] > 60:
            raise torch.OutOfMemoryError("no memory")
        return real(batch, *given)

    monkeypatch.setattr(engine.model, "embedded", embedded)
    own.answer((user("and ?"),), SHORT)
    assert own.answer(TEXT, SHORT).text == text
    short.clear()
    with closing(own.stream(TEXT, LONG)) as running:
        next(running)
        with pytest.raises(torch.OutOfMemoryError):
            own.answer((user("red " * 100),), SHORT)
        assert own.answer(TEXT, SHORT).text == text and not next(running).is_done


def test_closing_the_engine_ends_everything(limited: Limited):
    """fails when a caller waits for ever after the engine is closed, or its thread goes on"""
    own = limited(max_batch=1)
    first, second = own.stream(TEXT, LONG), own.stream(TEXT, LONG)
    next(first)
    thread = own.scheduler._thread
    own.close()
    assert thread is not None and not thread.is_alive()
    for stream in (first, second):
        with pytest.raises(Unavailable, match="the engine is closed"):
            list(stream)
    with pytest.raises(Unavailable, match="the engine is closed"):
        own.stream(TEXT, SHORT)
    assert "closed" in str(own.problem())


def test_an_idle_engine_has_no_thread(limited: Limited, monkeypatch):
    """fails when the thread of an engine that nobody uses holds its model, or the next question gets no thread"""
    monkeypatch.setattr("chatbridge.serve.scheduler.scheduler.IDLE_S", 0.02)
    own = limited()
    for _ in range(2):
        assert own.answer(TEXT, SHORT).is_done
        thread = own.scheduler._thread
        if thread is not None:
            thread.join(5)
            assert not thread.is_alive() and own.scheduler._thread is None


def test_a_long_prompt_is_read_in_pieces_beside_a_running_answer(engine, limited: Limited, monkeypatch):
    """fails when a running answer waits for a whole long prompt, or the pieces give another answer"""
    own = limited()
    long = (user("red green blue " * 25),)
    wanted = own.answer(long, SHORT).text
    own.forget()
    monkeypatch.setattr("chatbridge.serve.scheduler.running_requests.READ_AHEAD", 16)
    passes: list[int] = []
    hook = engine.model.language.register_forward_pre_hook(lambda module, given: passes.append(given[0].shape[1]))
    with closing(own.stream(TEXT, LONG)) as running:
        next(running)
        assert own.answer(long, SHORT).text == wanted
    hook.remove()
    pieces = [at for at, number in enumerate(passes) if number == 16]
    assert len(pieces) >= 4 and all(1 in passes[one:other] for one, other in zip(pieces, pieces[1:], strict=False))


def test_an_answer_tells_what_it_has_cost(engine, world, limited: Limited):
    """fails when usage, timing or log-probabilities are missing, or belong to other tokens than those of the answer"""
    own = limited()
    first = color_question(own, world, "image")
    answer = own.answer(first, SHORT, RequestSettings(top_logprobs=2))
    assert answer.usage.prompt == len(own.layout.prompt(first)) and answer.usage.answer == answer.num_tokens == 10
    assert (answer.usage.cached, answer.usage.media, answer.usage.encoded) == (0, own.layout.media_lengths["image"], 1)
    assert [len(one.top) for one in answer.logprobs] == [2] * 10 and all(one.logprob <= 0 for one in answer.logprobs)
    assert all(one.top[0][:2] == (one.id, one.text) for one in answer.logprobs), "a greedy token is the most likely one"
    assert "".join(one.text for one in answer.logprobs).strip() == answer.text
    assert answer.timing.first_token_s and 0 <= answer.timing.waited_s <= answer.timing.first_token_s
    second = own.answer((*first, answer.message, user("why ?")), SHORT)
    assert second.usage.cached >= answer.usage.prompt and second.usage.encoded == 0 and not second.logprobs
    stats: Any = own.stats()
    assert stats["tokens_total"] == {
        "prompt": answer.usage.prompt + second.usage.prompt, "cached": second.usage.cached,
        "media": 2 * answer.usage.media, "answer": 20,
    }  # fmt: skip
    with pytest.raises(ValueError, match="set num_beams to 1"):
        own.stream(first, replace(SHORT, num_beams=2), settings=RequestSettings(top_logprobs=0))


def test_others_are_answered_while_beams_are_searched(engine, world, limited: Limited):
    """fails when a beam search holds up other requests, changes their answers or gets another answer itself, or does
    not end where it is given up or its time is over"""
    own, image = limited(), color_question(engine, world, "image")
    beams = GenerateOptions(max_new_tokens=10, num_beams=3, sample=True, seed=5)
    asked = [(image, beams, PLAIN), (TEXT, replace(beams, seed=6), PLAIN), (image, SHORT, PLAIN), (TEXT, SHORT, PLAIN)]
    wanted = alone(own, asked)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda one: seen(own.answer(*one)), asked)) == wanted
    slow = replace(beams, max_new_tokens=300, min_new_tokens=300)
    searches = [own.stream(image, slow), own.stream(TEXT, slow)]
    assert [seen(own.answer(*one)) for one in asked[2:]] == wanted[2:] and own.stats()["running"] == 2
    for search in searches:
        search.close()
        assert search.is_over(10)
    late = own.answer(TEXT, slow, RequestSettings(time_limit_s=0.1))
    assert late.finish == "time" and late.is_done and late.num_tokens < 290
    stopped = own.stream(TEXT, slow)
    stopped.close()
    assert stopped.is_over(10)
    stats: Any = own.stats()
    assert stats["running"] == 0 and stats["requests_total"]["cancelled"] == 3 and stats["requests_total"]["time"] == 1


def test_a_request_that_joins_does_not_end_one_that_runs(engine, limited: Limited):
    """fails when a running answer ends because memory is short for another request, or an answer ends although the
    caches, which are given up then, had that memory"""
    own = limited(max_batch=4)
    asked: list[Asked] = [(TEXT, replace(SHORT, max_new_tokens=40), PLAIN), ((user("and why ?"),), SHORT, PLAIN)]
    wanted = alone(own, asked)
    faults: list[str] = []

    def fault(module: Any, given: tuple[Any, ...]) -> None:
        running = [len(lane.requests) for lane in own.scheduler._running._lanes]
        reads_another = (
            own.scheduler._running._beginning is None and not len(own.scheduler._waiting) and given[0].shape[1] == 1
        )
        if not faults and running == [1] and reads_another and own.stats()["tokens_total"]["prompt"] > first:  # pyright: ignore
            faults.append("joining")
            raise torch.OutOfMemoryError("no memory")

    own.forget()
    with closing(own.stream(*asked[0][:2])) as running:
        next(running)
        first = own.stats()["tokens_total"]["prompt"]  # pyright: ignore
        hook = engine.model.language.register_forward_pre_hook(fault)
        assert seen(own.answer(*asked[1])) == wanted[1]
        *_, whole = running
    hook.remove()
    assert faults and seen(whole) == wanted[0]
    faults.clear()

    def once(module: Any, given: tuple[Any, ...]) -> None:
        if own.prompt_cache.counts().num_entries and given[0].shape[1] == 1 and own.scheduler._running._lanes:
            faults.append("alone")
            raise torch.OutOfMemoryError("no memory")

    hook = engine.model.language.register_forward_pre_hook(once)
    assert seen(own.answer(*asked[0])) == wanted[0] and faults == ["alone"]
    hook.remove()
    assert own.scheduler._running._num_places < 4
    for _ in range(12):
        own.answer(TEXT, replace(SHORT, max_new_tokens=1))
    assert own.scheduler._running._num_places == 4, "the places are given back once memory suffices"


def test_a_forked_child_has_an_engine_of_its_own(engine, world, limited: Limited):
    """fails when an engine hangs in a child process that was forked while it answered, or they share a file reader"""
    own = limited()
    image = color_question(own, world, "image")
    wanted = own.answer(image, SHORT).text
    end, start = os.pipe()
    with closing(own.stream(TEXT, LONG)) as running:
        next(running)
        with own.scheduler._changed, own.prompt_cache._lock:
            pid = os.fork()
        if pid == 0:  # no test of this one goes on there
            with suppress(BaseException):
                own.forget()
                own.reader.attach(world.files["image"])
                os.write(start, own.answer(image, SHORT).text.encode())
            os._exit(0)
        assert not next(running).is_done
    os.close(start)
    found = b""
    while select.select([end], [], [], 20)[0] and (more := os.read(end, 4096)):
        found += more
    os.close(end)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert found.decode() == wanted


def test_an_answer_stays_close_to_its_reader(engine, limited: Limited):
    """fails when the model goes on while the only reader of an answer has no time, so that Ctrl-C comes late; or waits
    for ever for one that does not read, or for one reader while others have asked"""
    own = limited()
    with closing(own.stream(TEXT, LONG)) as stream:
        time.sleep(0.15)
        assert next(stream).num_tokens <= 4
        assert stream._request.events.qsize() <= 6
        others = own.answer(TEXT, SHORT)
        assert others.is_done and stream._request.events.qsize() >= 8, "nobody waits for a reader who is not alone"
    assert own.stream(TEXT, replace(LONG, max_new_tokens=40, min_new_tokens=40)).is_over(20)
