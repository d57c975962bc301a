"""Write conversations of the tiny world in which the assistant draws images.

    python -m dataset_prep.tiny_world.write_textbind

    instruct/textbind.json, instruct/drawn/     for training, in the layout of TextBind's train.json: requests for one
                                                or two images that name all attributes or some, questions about drawn
                                                and given images, changes of given images, conversations without images
    heldout/textbind.jsonl, heldout/given/      questions of the evaluation, for the builder `records`. What must be
                                                drawn are combinations that no media file in training shows

`details` of the evaluation: kind (full, partial, two, changed: an image is asked for; seen, text: it is not), and in
`wanted` the values that each asked image must show, as in "size=big color=red". No other file of the tiny world is
needed; it takes seconds.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from chatbridge.common.safe_files import replace_text
from chatbridge.common.seeds import stream
from chatbridge.conversation.messages import Drawing, Message, Text
from dataset_prep.common import arguments
from dataset_prep.tiny_world import drawing_talk, render_visual, world
from dataset_prep.tiny_world.drawing_talk import KINDS, PLACEMENTS, Wish
from dataset_prep.tiny_world.world import Scene

NUM_DIALOGUES, NUM_PER_KIND = 4000, 60
IMAGE = "<image>"
Record = dict[str, Any]


def write_conversations(root: Path, seed: int, count: int = NUM_DIALOGUES) -> None:
    """The conversations of training: `count` of them, with the shares of KINDS."""
    rng = stream(seed, "textbind")
    shown = _image_writer(root / "instruct", "drawn", rng)
    scenes = world.all_scenes("image", held_out=False)
    kinds = rng.choice(list(KINDS), size=count, p=list(KINDS.values()))
    records = [
        {"image_dir": "drawn", "conversation": [_turn(message) for message in conversation]}
        for kind in kinds
        for conversation in [drawing_talk.conversation(kind, _any_of(scenes, rng), shown, rng)]
    ]
    replace_text(root / "instruct" / "textbind.json", json.dumps(records, indent=0))


def write_questions(root: Path, seed: int, count: int = NUM_PER_KIND) -> None:
    """The questions of the evaluation: `count` of every kind of KINDS."""
    rng = stream(seed, "held-out textbind")
    shown = _image_writer(root / "heldout", "given", rng)
    draw = _any_of(world.all_scenes("image", held_out=True), rng)
    records = [
        {"id": f"{kind}-{number:03}"} | _question(kind, number, draw, shown, rng)
        for kind in KINDS
        for number in range(count)
    ]
    lines = (json.dumps(record) + "\n" for record in records)
    replace_text(root / "heldout" / "textbind.jsonl", "".join(lines))


def wanted_text(wishes: Sequence[Wish]) -> list[str]:
    """The wishes as text of `details`, which `wanted_of` reads."""
    return [" ".join(f"{name}={value}" for name, value in wish.named.items()) for wish in wishes]


def wanted_of(texts: Sequence[str]) -> list[Wish]:
    return [Wish(dict(item.split("=", 1) for item in text.split())) for text in texts]


def _question(
    kind: str, number: int, draw: Callable[[], Scene], shown: drawing_talk.ShownAs, rng: np.random.Generator
) -> Record:
    """A conversation up to the request or question that is asked, and what is wanted."""
    scene = draw()
    if kind in ("seen", "text"):
        question, answer = drawing_talk.conversation(kind, lambda: scene, shown, rng)[:2]
        details: Record = {"kind": kind, "wanted": []}
        return {"messages": [_plain(question)], "answers": [answer.text], "details": details}
    if kind == "changed":
        question, _ = drawing_talk.changed(scene, shown, rng)
        return _wanted(kind, "last", question, [Wish(scene.named)])
    if kind == "two":
        wishes = [Wish(scene.named), Wish(draw().named)]
        asked = drawing_talk.ASKING_TWO.format(wish=wishes[0].phrase(rng), other=wishes[1].phrase(rng))
        return _wanted(kind, "two", drawing_talk.user(asked), wishes)
    placement = PLACEMENTS[number % len(PLACEMENTS)]
    wish = drawing_talk.wish_for(scene, kind, rng)
    asked = drawing_talk.ASKING[placement].format(wish=wish.phrase(rng))
    return _wanted(kind, placement, drawing_talk.user(asked), [wish])


def _wanted(kind: str, placement: str, question: Message, wishes: Sequence[Wish]) -> Record:
    details = {"kind": kind, "placement": placement, "wanted": wanted_text(wishes)}
    return {"messages": [_plain(question)], "details": details}


def _turn(message: Message) -> Record:
    """A message as a turn of train.json: images are `<image>` in the text, and names of files in `image_dir`."""
    content = "".join(part.text if isinstance(part, Text) else IMAGE for part in message.parts)
    turn: Record = {"role": message.role, "content": content}
    turn["image_list"] = [Path(str(item.ref)).name for item in message.media]
    captions = [part.caption for part in message.parts if isinstance(part, Drawing)]
    return turn | ({"caption_list": captions} if captions else {})


def _plain(message: Message) -> Record:
    """A question as the builder `records` reads it."""
    parts: list[Record] = [
        {"type": "text", "text": part.text} if isinstance(part, Text) else {"type": "image", "path": str(part.ref)}
        for part in message.parts
        if not isinstance(part, Drawing)
    ]
    return {"role": message.role, "content": parts}


def _any_of(scenes: Sequence[Scene], rng: np.random.Generator) -> Callable[[], Scene]:
    return lambda: scenes[int(rng.integers(len(scenes)))]


def _image_writer(root: Path, folder: str, rng: np.random.Generator) -> drawing_talk.ShownAs:
    """Writes each scene it is called with as the next JPEG of a folder; its name, relative to `root`."""
    (root / folder).mkdir(parents=True, exist_ok=True)
    numbers = iter(range(10**6))

    def shown(scene: Scene) -> str:
        name = f"{folder}/{next(numbers):06d}.jpg"
        (root / name).write_bytes(render_visual.jpeg(scene, rng))
        return name

    return shown


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m dataset_prep.tiny_world.write_textbind",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--root", type=Path, default=Path("data/tiny"), help="folder of the tiny world")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--count", type=arguments.positive, default=NUM_DIALOGUES, help="conversations for training")
    asked_for = parser.parse_args(given)
    write_conversations(asked_for.root, asked_for.seed, asked_for.count)
    write_questions(asked_for.root, asked_for.seed)
    print(f"{asked_for.root / 'instruct/textbind.json'}: {asked_for.count:,} conversations")
    print(f"{asked_for.root / 'heldout/textbind.jsonl'}: questions of the evaluation, {NUM_PER_KIND} per kind")
    return 0


if __name__ == "__main__":
    arguments.run(main)
