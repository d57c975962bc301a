"""The server under load, with a tiny random model on the CPU.

`python -m benchmarks.serving_load [--json FILE]` starts `chatbridge serve` in a process of its own and measures from
here, in about two minutes on a quiet 2-core machine:

    conversations  20 sessions of 10 turns at once, half of them streamed, with images, sounds and videos; each answer
                   is compared with that of another server of the same model that gets one request at a time
    throughput     tokens per second of 8 requests at once against one at a time, in turns; the ratio is the median
                   over rounds
    disconnects    seconds from a client's leaving until its place is free
    memory         of the server process over 2,000 requests, with its threads and open descriptors

The clients share the two cores with the server.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks.server_client import Message, Reply, RunningServer, ask, clients, gauges, running_server, until_idle
from chatbridge.common.safe_files import replace_text
from tests.helpers.serve_parts import ChatWorld
from tests.helpers.tiny_media import mp4, wav

NAME = "tiny"
GREEDY: dict[str, Any] = {"model": NAME, "temperature": 0}
WANTED_RATIO, WANTED_LEAVE_S = 4.0, 1.0
Key = tuple[int, int]  # session, turn


def make_world(folder: Path, **chat: Any) -> Path:
    """The configuration of a tiny model with room for conversations of ten turns; keywords are evaluation.chat."""
    world = ChatWorld(folder)
    file = folder / "world" / "lm" / "config.json"
    replace_text(file, json.dumps({**json.loads(file.read_text()), "max_position_embeddings": 8192}))
    return world.write("load.yaml", evaluation={"chat": {**chat}})


# ---- conversations


def question(session: int, turn: int) -> Message:
    """What a session asks; every third turn brings an image, a sound or a video that no other session has."""
    text = {"type": "text", "text": f"session {session} turn {turn} : what color is it ?"}
    media = {0: _image, 3: _sound, 6: _video if session % 4 == 0 else _image}.get(turn)
    return {"role": "user", "content": [*([media(100 * session + turn)] if media else []), text]}


async def conversation(client: httpx.AsyncClient, session: int, num_turns: int, **options: Any) -> dict[Key, Reply]:
    """The answers of one session; each question comes with all that was said before, as clients send it."""
    messages: list[Message] = []
    found = {}
    for turn in range(num_turns):
        messages.append(question(session, turn))
        found[session, turn] = reply = await ask(client, messages, stream=session % 2 == 1, **options)
        messages.append({"role": "assistant", "content": reply.text})
    return found


def options_of(session: int) -> dict[str, Any]:
    """Two sessions of three are greedy, the others sample with a seed: their answers do not depend on others either."""
    return {**GREEDY, "temperature": 1.0, "seed": session} if session % 3 == 2 else GREEDY


async def conversations(
    client: httpx.AsyncClient, num_sessions: int, num_turns: int, max_tokens: int, at_once: bool
) -> dict[Key, Reply]:
    """All sessions, at once or one after the other."""
    asked = [
        conversation(client, session, num_turns, max_tokens=max_tokens, **options_of(session))
        for session in range(num_sessions)
    ]
    found = await asyncio.gather(*asked) if at_once else [await one for one in asked]
    return {key: reply for one in found for key, reply in one.items()}


@dataclass(frozen=True)
class Compared:
    """Answers of sessions at once against those of one request at a time.

    crossed   other answers than alone
    repeated  ids that two answers share
    distinct  different answers among those alone: a crossed one would show
    """

    answers: int
    crossed: tuple[Key, ...]
    repeated: int
    distinct: int


def compared(found: dict[Key, Reply], alone: dict[Key, Reply]) -> Compared:
    """raises KeyError for a lost answer"""
    crossed = tuple(key for key, one in alone.items() if (found[key].text, found[key].finish) != (one.text, one.finish))
    ids = [one.id for one in found.values()]
    return Compared(len(found), crossed, len(ids) - len(set(ids)), len({one.text for one in alone.values()}))


# ---- throughput


async def tokens_per_s(client: httpx.AsyncClient, at_once: int, texts: Sequence[str], **options: Any) -> float:
    """The rate of one request per text, so many at once."""
    left, replies = list(texts), []

    async def one_client() -> None:
        while left:
            message = {"role": "user", "content": left.pop()}
            replies.append(await ask(client, [message], **options))

    begun = time.perf_counter()
    await asyncio.gather(*(one_client() for _ in range(at_once)))
    return sum(one.num_tokens for one in replies) / (time.perf_counter() - begun)


async def throughput(client: httpx.AsyncClient, rounds: int, count: int, num_tokens: int) -> list[tuple[float, float]]:
    """Tokens per second one at a time and 8 at once, per round. Every answer has exactly num_tokens."""
    options = {**GREEDY, "max_tokens": num_tokens, "min_tokens": num_tokens}
    found = []
    for number in range(-1, rounds):  # the first round warms up
        alone, together = ([f"round {number} {kind} {at} ?" for at in range(count)] for kind in ("alone", "together"))
        rates = (await tokens_per_s(client, 1, alone, **options), await tokens_per_s(client, 8, together, **options))
        found += [rates] if number >= 0 else []
    return found


# ---- clients that leave


async def leave_seconds(client: httpx.AsyncClient, stream: bool, num_clients: int = 1) -> float:
    """Seconds from the leaving of clients, in the middle of their answers, until the engine has no request of them."""
    await until_idle(client)
    options = {**GREEDY, "max_tokens": 6000, "min_tokens": 6000}
    messages = [{"role": "user", "content": "describe the circle ."}]
    asked = [asyncio.ensure_future(ask(client, messages, stream, **options)) for _ in range(num_clients)]
    await _until(client, lambda found: found["chatbridge_engine_running"] >= min(num_clients, 4))
    for one in asked:
        one.cancel()
    begun = time.perf_counter()
    for one in asked:
        with suppress(asyncio.CancelledError):
            await one
    await until_idle(client)
    return time.perf_counter() - begun


async def _until(client: httpx.AsyncClient, holds: Callable[[dict[str, float]], bool], limit_s: float = 30.0) -> None:
    end = time.monotonic() + limit_s
    while not holds(await gauges(client)):
        if time.monotonic() > end:
            raise TimeoutError("the requests did not begin")
        await asyncio.sleep(0.01)


# ---- memory


@dataclass(frozen=True)
class Size:
    """The server process after so many requests."""

    requests: int
    rss_mb: float
    threads: int
    descriptors: int


async def sizes(client: httpx.AsyncClient, server: RunningServer, count: int, every: int) -> list[Size]:
    """The process while it answers requests, 8 at once: text, images, refused ones and clients that leave."""
    found = []
    for begin in range(0, count, every):
        numbers = iter(range(begin, begin + every))
        await asyncio.gather(*(_one_of_many(client, numbers) for _ in range(8)))
        await until_idle(client)
        found.append(Size(begin + every, server.rss_mb, server.num_threads, server.num_files))
    return found


async def _one_of_many(client: httpx.AsyncClient, numbers: Any) -> None:
    for number in numbers:
        content: list[Message] = [{"type": "text", "text": f"request {number} : what color ?"}]
        if number % 4 == 0:
            content.insert(0, _image(number))
        options = {**GREEDY, "max_tokens": 4}
        if number % 10 == 9:  # refused: not an image
            content.insert(0, {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}})
            with suppress(RuntimeError):
                await ask(client, [{"role": "user", "content": content}], **options)
                raise AssertionError("data that is no image was accepted")
        elif number % 50 == 25:  # leaves
            asked = ask(client, [{"role": "user", "content": content}], stream=True, **{**options, "max_tokens": 2000})
            with suppress(TimeoutError):
                await asyncio.wait_for(asked, 0.1)
        else:
            await ask(client, [{"role": "user", "content": content}], stream=number % 2 == 1, **options)


def growth_mb(found: Sequence[Size]) -> float:
    """How much larger the process is in the last quarter of the samples than in the second one, medians."""
    quarter = max(len(found) // 4, 1)
    early, late = found[quarter : 2 * quarter], found[-quarter:]
    return statistics.median(one.rss_mb for one in late) - statistics.median(one.rss_mb for one in early)


# ---- media of requests


def _data_url(type_: str, content: bytes) -> str:
    return f"data:{type_};base64,{base64.b64encode(content).decode()}"


def _image(seed: int) -> Message:
    from PIL import Image

    pixels = np.random.default_rng(seed).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return {"type": "image_url", "image_url": {"url": _data_url("image/png", file.getvalue())}}


def _sound(seed: int) -> Message:
    data = base64.b64encode(wav(200.0 + seed)).decode()
    return {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}


def _video(seed: int) -> Message:
    return {"type": "video_url", "video_url": {"url": _data_url("video/mp4", mp4(num_frames=3 + seed // 100))}}


# ---- the whole


async def measured(server: RunningServer, alone: RunningServer) -> dict[str, Any]:
    """Everything that the module's description names."""
    async with clients(server.url) as client, clients(alone.url) as other:
        begun = time.perf_counter()
        found = await conversations(client, 20, 10, 16, at_once=True)
        together_s = time.perf_counter() - begun
        same = compared(found, await conversations(other, 20, 10, 16, at_once=False))
        rates = await throughput(client, 5, 16, 128)
        leaves = [await leave_seconds(client, stream, number) for stream in (True, False) for number in (1, 1, 1, 8)]
        grown = await sizes(client, server, 2000, 100)
    firsts = sorted(one.first_s for (session, _), one in found.items() if session % 2)
    return {
        "conversations": asdict(same) | {"seconds": together_s, "median_first_text_s": firsts[len(firsts) // 2]},
        "throughput": {
            "alone": statistics.median(one for one, _ in rates),
            "eight": statistics.median(eight for _, eight in rates),
            "ratio": statistics.median(eight / one for one, eight in rates),
            "ratios": [eight / one for one, eight in rates],
        },
        "disconnects": {"longest_s": max(leaves), "all_s": leaves},
        "memory": {"growth_mb": growth_mb(grown), "sizes": [asdict(one) for one in grown]},
    }


def table(found: dict[str, Any]) -> str:
    """The figures as lines."""
    talk, rate, memory = found["conversations"], found["throughput"], found["memory"]
    last, first = memory["sizes"][-1], memory["sizes"][0]
    rounds = ", ".join(f"{one:.2f}" for one in rate["ratios"])
    return "\n".join(
        (
            f"conversations  {talk['answers']} answers in {talk['seconds']:.1f} s, {len(talk['crossed'])} differ from "
            f"those alone, {talk['repeated']} repeated; {talk['distinct']} are distinct; median first text "
            f"{talk['median_first_text_s']:.3f} s",
            f"throughput     {rate['alone']:.0f} tokens/s one at a time, {rate['eight']:.0f} eight at once: "
            f"{rate['ratio']:.2f} x (rounds {rounds}; wanted {WANTED_RATIO:g} x)",
            f"disconnects    the place is free after {found['disconnects']['longest_s']:.2f} s at most (wanted "
            f"{WANTED_LEAVE_S:g} s)",
            f"memory         {first['rss_mb']:.0f} MB after {first['requests']} requests, {last['rss_mb']:.0f} MB "
            f"after {last['requests']}; last against second quarter {memory['growth_mb']:+.1f} MB; threads "
            f"{first['threads']} -> {last['threads']}, descriptors {first['descriptors']} -> {last['descriptors']}",
        )
    )


def run(measure: Callable[[RunningServer, RunningServer], Awaitable[dict[str, Any]]]) -> dict[str, Any]:
    """The result of a measurement with two servers of one model."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = make_world(folder, prompt_cache_mb=8, media_cache_mb=2, upload_cache_mb=4)
        arguments = ("--model-name", NAME)
        with (
            running_server(config, folder / "server.log", arguments) as server,
            running_server(config, folder / "alone.log", arguments) as alone,
        ):
            return asyncio.run(measure(server, alone))  # type: ignore[arg-type]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    args = parser.parse_args()
    found = run(measured)
    print(table(found))
    if args.json:
        replace_text(args.json, json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
