"""What questions cost that have something in common with earlier ones.

`python benchmarks/serving_cost.py [--json FILE] [--rounds 7]` prints two tables, in under a minute on a 2-core machine:

    first token   of a question about media that are new, of the next question of that conversation, and of another
                  conversation about the same media; from the files on disk, as a server gets them in every request,
                  and from media that are decoded already
    turns         each turn of a conversation of ten, with the positions of its prompt and how many of them were cached

The model is the random one of the tests, in fp32 on the processor. A time is the median over rounds, each with empty
caches at its beginning; a ratio is the median of the rounds' ratios. Times are by the wall clock: run it on a machine
that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # the tests' model

from chatbridge.common.safe_files import replace_text
from chatbridge.conversation.messages import Conversation, user
from chatbridge.models.language import GenerateOptions
from chatbridge.serve.answer import Answer
from chatbridge.serve.engine import ChatEngine
from tests.helpers.serve_parts import ChatWorld

OPTIONS = GenerateOptions(max_new_tokens=16, min_new_tokens=16)
NUM_TURNS = 10
WANTED = {"first / second question": 5.0, "last / second turn": 1.5}


def first_tokens(engine: ChatEngine, files: Sequence[Path], rounds: int) -> list[dict[str, float]]:
    """Seconds to the first token in each round, of four questions: see the module; the file's reading is in
    `<name>, files` only."""
    found = []
    for number in range(rounds):
        engine.forget()
        began = time.perf_counter()
        first = (_question(engine, files, f"what color is it {number} ?"),)
        read_s = time.perf_counter() - began
        answer = engine.answer(first, OPTIONS)
        began = time.perf_counter()
        again = (_question(engine, files, f"what color is it {number} ?"),)
        read_again_s = time.perf_counter() - began
        second = engine.answer((*again, answer.message, user("why ?")), OPTIONS)
        other = engine.answer((user(*first[0].media, "is it red ?"),), OPTIONS)
        row = {"first": _seconds(answer), "second": _seconds(second), "other": _seconds(other)}
        found.append(row | {"first, files": read_s + row["first"], "second, files": read_again_s + row["second"]})
    return found


def turns(engine: ChatEngine, files: Sequence[Path], rounds: int) -> list[list[dict[str, float]]]:
    """For each round and turn of a conversation: seconds of the whole answer, positions of the prompt, cached ones."""
    found = []
    for number in range(rounds):
        engine.forget()
        conversation: Conversation = ()
        rows: list[dict[str, float]] = []
        for turn in range(NUM_TURNS):
            asked = _question(engine, files, f"{number} ?") if turn == 0 else user("red ?")
            began = time.perf_counter()
            answer = engine.answer((*conversation, asked), OPTIONS)
            seconds = time.perf_counter() - began
            conversation = (*conversation, asked, answer.message)
            rows.append({"seconds": seconds, "prompt": answer.usage.prompt, "cached": answer.usage.cached})
        found.append(rows)
    return found


def measured(rounds: int) -> dict[str, Any]:
    """Both tables, and the ratios of WANTED."""
    with tempfile.TemporaryDirectory() as folder:
        world = ChatWorld(Path(folder))
        engine = world.engine()
        try:
            files = [world.files["image"], world.files["video"]]
            engine.answer((_question(engine, files, "?"),), OPTIONS)  # what happens once in a process
            starts, dialogues = first_tokens(engine, files, rounds), turns(engine, files, rounds)
        finally:
            engine.close()
    ratios = {
        "first / second question": statistics.median(one["first, files"] / one["second, files"] for one in starts),
        "first / second question, decoded": statistics.median(one["first"] / one["second"] for one in starts),
        "last / second turn": statistics.median(one[-1]["seconds"] / one[1]["seconds"] for one in dialogues),
    }
    table = {name: statistics.median(one[name] for one in starts) for name in starts[0]}
    rows = [
        {name: statistics.median(one[turn][name] for one in dialogues) for name in dialogues[0][turn]}
        for turn in range(NUM_TURNS)
    ]
    return {"first token": table, "turns": rows, "ratios": ratios}


def _question(engine: ChatEngine, files: Sequence[Path], text: str) -> Any:
    return user(*(item for file in files for item in engine.attach(file).media), text)


def _seconds(answer: Answer) -> float:
    assert answer.timing.first_token_s is not None
    return answer.timing.first_token_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the numbers there too")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = measured(args.rounds)
    for name, seconds in found["first token"].items():
        print(f"first token, {name:<16}{1000 * seconds:9.1f} ms")
    for number, row in enumerate(found["turns"], 1):
        read = f"{row['prompt']:5.0f} positions, {row['cached']:5.0f} cached"
        print(f"turn {number:>2}  {read}  {1000 * row['seconds']:7.1f} ms")
    for name, ratio in found["ratios"].items():
        print(f"{name}: {ratio:.2f}" + (f" (wanted: {WANTED[name]})" if name in WANTED else ""))
    if args.json is not None:
        replace_text(args.json, json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
