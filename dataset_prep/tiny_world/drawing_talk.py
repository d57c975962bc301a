"""Conversations in which the assistant draws: what a user asks for, and what an assistant answers.

A request names all four attributes of a scene or only some; what it leaves open the assistant chooses, so a later
question about that can only be answered from the drawn image. The wording of a request decides where in the answer the
image is: first, in the middle or last.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from chatbridge.conversation.messages import Conversation, Drawing, Media, Part, assistant, user
from dataset_prep.tiny_world import corpus, world
from dataset_prep.tiny_world.world import Scene

ATTRIBUTES = tuple(world.ATTRIBUTES["image"])
FULL = ("a {size} {color} {shape} at the {place}", "a {color} {shape}, {size}, at the {place}")
ASKING = {"last": "Show me {wish}.", "first": "Draw {wish}.", "middle": "Let me see {wish}."}
ASKING_TWO = "Show me {wish} and then {other}."
CHANGING = {
    "size": "Show me the same, but {value}.",
    "color": "Show me the same in {value}.",
    "shape": "Show me a {value} in its place.",
    "place": "Show me the same at the {value}.",
}
PLACEMENTS = tuple(ASKING)
OPEN, BETWEEN = "Here it is: ", " and then "
KINDS = {"full": 0.25, "partial": 0.25, "two": 0.1, "changed": 0.1, "seen": 0.2, "text": 0.1}  # shares of training
ShownAs = Callable[[Scene], str]  # draws a scene into a file; its name


@dataclass(frozen=True)
class Wish:
    """What a request names: values of attributes."""

    named: Mapping[str, str]

    def phrase(self, rng: np.random.Generator) -> str:
        """The wish in words: "a small red star at the top", "a red shape"."""
        if len(self.named) == len(ATTRIBUTES):
            return world.pick(FULL, rng).format(**self.named)
        words = ["a", *(self.named[name] for name in ("size", "color") if name in self.named)]
        words.append(self.named.get("shape", "shape"))
        return " ".join(words) + (f" at the {self.named['place']}" if "place" in self.named else "")

    def is_met_by(self, scene: Scene | None) -> bool:
        return scene is not None and all(scene[name] == value for name, value in self.named.items())


def wish_for(scene: Scene, kind: str, rng: np.random.Generator) -> Wish:
    """A wish that the scene meets: "full" names all attributes, "partial" one to three, and never all."""
    count = len(ATTRIBUTES) if kind == "full" else int(rng.integers(1, len(ATTRIBUTES)))
    names = {ATTRIBUTES[int(k)] for k in rng.permutation(len(ATTRIBUTES))[:count]}
    return Wish({name: scene[name] for name in ATTRIBUTES if name in names})


def drawing_answer(scene: Scene, placement: str, shown: ShownAs, rng: np.random.Generator) -> tuple[Part | str, ...]:
    """The parts of an answer with one drawing; text after the drawing says what it shows."""
    drawing = Drawing(world.caption(scene, rng), shown(scene))
    if placement == "first":
        return drawing, f" The shape is {scene['color']}."
    return (OPEN, drawing) if placement == "last" else (OPEN, drawing, f" It is {scene['size']}.")


def conversation(kind: str, draw: Callable[[], Scene], shown: ShownAs, rng: np.random.Generator) -> Conversation:
    """One conversation of a kind of KINDS.

    draw    a scene at random, among those that may be shown
    shown   draws a scene; the name of its file becomes the ref of the image
    """
    scene = draw()
    if kind == "text":
        asked, answer = world.question(scene, world.pick(ATTRIBUTES, rng), rng)
        return user(f"{corpus.description(scene, rng)}. {asked}"), assistant(answer)
    if kind == "seen":
        turns = corpus.one_medium_turns(scene, int(rng.integers(1, 3)), rng)
        return corpus.with_media((Media("image", shown(scene)),), turns)
    if kind == "two":
        other = draw()
        wishes = [wish_for(one, world.pick(("full", "partial"), rng), rng).phrase(rng) for one in (scene, other)]
        drawings = [Drawing(world.caption(one, rng), shown(one)) for one in (scene, other)]
        asked = user(ASKING_TWO.format(wish=wishes[0], other=wishes[1]))
        return asked, assistant(OPEN, drawings[0], BETWEEN, drawings[1])
    if kind == "changed":
        return changed(scene, shown, rng)
    placement = world.pick(PLACEMENTS, rng)
    wish = wish_for(scene, kind, rng)
    opening = user(ASKING[placement].format(wish=wish.phrase(rng)))
    answer = assistant(*drawing_answer(scene, placement, shown, rng))
    return opening, answer, *(follow_up(scene, wish, rng) if rng.random() < 0.75 else ())


def follow_up(scene: Scene, wish: Wish, rng: np.random.Generator) -> Conversation:
    """A question about the drawn image, more often about what the request left open, and its answer."""
    left_open = tuple(name for name in ATTRIBUTES if name not in wish.named)
    attribute = world.pick(left_open if left_open and rng.random() < 0.75 else ATTRIBUTES, rng)
    asked, answer = world.question(scene, attribute, rng)
    return user(asked), assistant(answer)


def changed(scene: Scene, shown: ShownAs, rng: np.random.Generator) -> Conversation:
    """A user shows an image and asks for it with one attribute changed; `scene` is what must be drawn."""
    attribute, source = change_source(scene, rng)
    asked = user(Media("image", shown(source)), CHANGING[attribute].format(value=scene[attribute]))
    return asked, assistant(*drawing_answer(scene, "last", shown, rng))


def change_source(scene: Scene, rng: np.random.Generator) -> tuple[str, Scene]:
    """An attribute, and a scene of training that differs from `scene` only in it."""
    found = [
        (name, other)
        for name in ATTRIBUTES
        for value in world.ATTRIBUTES["image"][name]
        for other in [Scene("image", tuple({**scene.named, name: value}.values()))]
        if value != scene[name] and not other.is_held_out
    ]
    return found[int(rng.integers(len(found)))]
