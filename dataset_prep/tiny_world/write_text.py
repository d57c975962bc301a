"""Write the text-only questions of the tiny world: a description of a scene in words, a question, and its answer.

    python -m dataset_prep.tiny_world.write_text

    instruct/text.json      for training, in the layout of Alpaca: instruction, input (the description), output
    instruct/text_chat.json the same as dialogues of several turns, in the layout of Baize
    heldout/text.json       for the evaluation: scenes of combinations that are not in the other two

`category` is the modality that the description is about. No media are needed; the files take a second.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from chatbridge.common.safe_files import replace_text
from chatbridge.common.seeds import stream
from dataset_prep.common import arguments
from dataset_prep.tiny_world import corpus, world
from dataset_prep.tiny_world.world import Scene

NUM_QUESTIONS, NUM_CHATS, NUM_HELD_OUT = 3000, 1500, 300
CHAT_OPENING = "The conversation between human and AI assistant."
Record = dict[str, str]


def write_text(root: Path, seed: int, counts: tuple[int, int, int] = (NUM_QUESTIONS, NUM_CHATS, NUM_HELD_OUT)) -> None:
    """Write the three files below `root`.

    counts   questions, dialogues, and questions of the evaluation; each has the three modalities equally often
    """
    num_questions, num_chats, num_held_out = counts
    files = {
        "instruct/text.json": [asked(scene, rng) for scene, rng in scenes("text", num_questions, seed)],
        "instruct/text_chat.json": [chat(scene, rng) for scene, rng in scenes("text chat", num_chats, seed)],
        "heldout/text.json": [
            asked(scene, rng) for scene, rng in scenes("held-out text", num_held_out, seed, held_out=True)
        ],
    }
    for name, records in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        replace_text(root / name, json.dumps(records, indent=0))


def scenes(purpose: str, count: int, seed: int, *, held_out: bool = False) -> list[tuple[Scene, np.random.Generator]]:
    """`count` scenes, the modalities in turn, each with the random stream that describes it."""
    rng = stream(seed, purpose)
    known = [world.all_scenes(modality, held_out=held_out) for modality in world.MODALITIES]
    turns = (known[number % len(known)] for number in range(count))
    return [(options[int(rng.integers(len(options)))], rng) for options in turns]


def asked(scene: Scene, rng: np.random.Generator) -> Record:
    """One question about one attribute, in the layout of Alpaca."""
    attribute = world.pick(tuple(world.ATTRIBUTES[scene.modality]), rng)
    question, answer = world.question(scene, attribute, rng)
    given = {"instruction": question, "input": corpus.description(scene, rng)}
    return {**given, "output": answer, "category": scene.modality}


def chat(scene: Scene, rng: np.random.Generator) -> Record:
    """Two to four questions with answers, in the layout of Baize; the first one follows the description."""
    turns = corpus.one_medium_turns(scene, int(rng.integers(2, 5)), rng)
    first = f"{corpus.description(scene, rng)}. "
    lines = [f"[|Human|] {first * (number == 0)}{asked}\n[|AI|] {said}" for number, (asked, said) in enumerate(turns)]
    return {"topic": scene.modality, "input": "\n".join([CHAT_OPENING, *lines, "[|Human|] "])}


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m dataset_prep.tiny_world.write_text",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--root", type=Path, default=Path("data/tiny"), help="folder of the tiny world")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--count", type=arguments.positive, default=NUM_QUESTIONS, help="questions for training")
    asked_for = parser.parse_args(given)
    write_text(asked_for.root, asked_for.seed, (asked_for.count, NUM_CHATS, NUM_HELD_OUT))
    print(
        f"{asked_for.root}: text-only questions, {asked_for.count} and {NUM_CHATS} dialogues; held out {NUM_HELD_OUT}"
    )
    return 0


if __name__ == "__main__":
    arguments.run(main)
