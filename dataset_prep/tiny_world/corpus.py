"""Text about the tiny world, for the tiny language model.

A frozen model can only be taught to see if it *uses its context*: so a document first describes a scene and then says
what follows from the description. It restates the scene in other words, answers questions about it, or holds two
descriptions at once (what is seen and what is heard). The descriptions stand exactly where media will stand.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from chatbridge.conversation.messages import Conversation, Media, assistant, user
from dataset_prep.tiny_world import world
from dataset_prep.tiny_world.world import Scene

VERTICAL = tuple(world.FOLLOWED.values())
CAPTION, CHAT = "caption", "vicuna_v0"
Scenes = dict[str, list[Scene]]  # modality -> scenes
Document = tuple[str, Conversation]  # template name, conversation whose media refs are descriptions in words


def description(scene: Scene, rng: np.random.Generator) -> str:
    """The scene as a caption or as a heap of notes: every attribute at least once, in any order, some repeated."""
    if rng.random() < 0.3:
        return world.caption(scene, rng)
    notes = list(scene.values) + [world.pick(scene.values, rng) for _ in range(rng.integers(0, 5))]
    rng.shuffle(notes)
    return " ".join(notes)


def documents(scenes: Scenes, kind: str, turns: int, count: int, rng: np.random.Generator) -> list[Document]:
    """`count` documents of one kind ("restated", "one medium", "two media") with `turns` questions each.

    scenes   what may be spoken about
    """
    draw = _drawer(scenes, rng)
    if kind == "restated":
        return [_restated(draw, rng) for _ in range(count)]
    make = {"one medium": _one_medium, "two media": _two_media}[kind]
    return [make(draw, turns, rng) for _ in range(count)]


def one_question(scenes: Scenes, modality: str, rng: np.random.Generator) -> Document:
    """A single question about one attribute of one scene."""
    scene = _drawer(scenes, rng)(modality)
    attribute = world.pick(tuple(world.ATTRIBUTES[modality]), rng)
    return CHAT, with_media((_medium(scene, rng),), [world.question(scene, attribute, rng)])


def one_joint_question(scenes: Scenes, kind: str, rng: np.random.Generator) -> Document:
    """A single question about a video and its sound."""
    draw = _drawer(scenes, rng)
    video, sound = draw("video"), draw("audio")
    if kind == "follows":
        video, sound = _vertical(draw, "video"), _vertical(draw, "audio")
    media = (_medium(video, rng), _medium(sound, rng))
    return CHAT, with_media(media, [world.joint_question(kind, video, sound, rng)])


def _drawer(scenes: Scenes, rng: np.random.Generator) -> Callable[[str], Scene]:
    return lambda modality: scenes[modality][int(rng.integers(len(scenes[modality])))]


def _medium(scene: Scene, rng: np.random.Generator) -> Media:
    return Media(scene.modality, description(scene, rng))


def _restated(draw: Callable[[str], Scene], rng: np.random.Generator) -> Document:
    if rng.random() < 0.3:  # nothing is described here: a fact about tones and motions
        return CAPTION, (assistant(world.agreement(world.pick(tuple(world.FOLLOWED), rng), world.pick(VERTICAL, rng))),)
    scene = draw(world.pick(world.MODALITIES, rng))
    return CAPTION, (user(_medium(scene, rng)), assistant(world.caption(scene, rng)))


def _one_medium(draw: Callable[[str], Scene], turns: int, rng: np.random.Generator) -> Document:
    scene = draw(world.pick(world.MODALITIES, rng))
    return CHAT, with_media((_medium(scene, rng),), one_medium_turns(scene, turns, rng))


def _two_media(draw: Callable[[str], Scene], turns: int, rng: np.random.Generator) -> Document:
    video, sound = draw("video"), draw("audio")
    if rng.random() < 0.5:  # the tone and the motion often have to do with each other
        video, sound = _vertical(draw, "video"), _vertical(draw, "audio")
    media = (_medium(video, rng), _medium(sound, rng))
    return CHAT, with_media(media, two_media_turns(video, sound, turns, rng))


def _vertical(draw: Callable[[str], Scene], modality: str) -> Scene:
    while True:
        scene = draw(modality)
        if scene["motion" if modality == "video" else "sound"] in (*VERTICAL, *world.FOLLOWED):
            return scene


def one_medium_turns(scene: Scene, count: int, rng: np.random.Generator) -> list[tuple[str, str]]:
    """`count` questions with answers about one scene."""
    turns = []
    for _ in range(count):
        if rng.random() < 0.25:
            turns.append((world.pick(world.DESCRIBE[scene.modality], rng), world.caption(scene, rng)))
        else:
            turns.append(world.question(scene, world.pick(tuple(world.ATTRIBUTES[scene.modality]), rng), rng))
    return turns


def two_media_turns(video: Scene, sound: Scene, count: int, rng: np.random.Generator) -> list[tuple[str, str]]:
    """`count` questions with answers about a video and its sound, half of them about both together."""
    turns = []
    for _ in range(count):
        if rng.random() < 0.5:
            kinds = world.joint_kinds(video, sound)
            kind = "follows" if "follows" in kinds and rng.random() < 0.7 else world.pick(kinds, rng)
            turns.append(world.joint_question(kind, video, sound, rng))
        else:
            turns.extend(one_medium_turns(sound if rng.random() < 0.5 else video, 1, rng))
    return turns


def with_media(media: tuple[Media, ...], turns: list[tuple[str, str]]) -> Conversation:
    """A dialogue whose first user turn carries the media."""
    messages = []
    for index, (question, answer) in enumerate(turns):
        messages += [user(*(media if index == 0 else ()), question), assistant(answer)]
    return tuple(messages)
