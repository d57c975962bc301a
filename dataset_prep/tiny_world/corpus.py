"""Training text of the tiny language model: documents about scenes of the tiny world.

A bridge can only inform a frozen language model that uses its context. A document therefore begins with one or two
descriptions and continues with text that follows from them: a restatement, or questions and answers. The descriptions
have the positions that media tokens will have.
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
Document = tuple[str, Conversation]  # template name, conversation whose media refs are descriptions as text
RESTATED, ONE_MEDIUM, TWO_MEDIA = KINDS = ("restated", "one medium", "two media")  # of documents


def description(scene: Scene, rng: np.random.Generator) -> str:
    """The scene as a caption or as a list of values: every value at least once, in any order, some repeated."""
    if rng.random() < 0.3:
        return world.caption(scene, rng)
    notes = list(scene.values) + [world.pick(scene.values, rng) for _ in range(rng.integers(0, 5))]
    rng.shuffle(notes)
    return " ".join(notes)


def documents(scenes: Scenes, kind: str, turns: int, count: int, rng: np.random.Generator) -> list[Document]:
    """`count` documents of one kind of KINDS, with `turns` questions each."""
    draw = _drawer(scenes, rng)
    if kind == RESTATED:
        return [_restated(draw, rng) for _ in range(count)]
    make = {ONE_MEDIUM: _one_medium, TWO_MEDIA: _two_media}[kind]
    return [make(draw, turns, rng) for _ in range(count)]


def one_question(scenes: Scenes, modality: str, rng: np.random.Generator) -> Document:
    """A single question about one attribute of one scene."""
    scene = _drawer(scenes, rng)(modality)
    attribute = world.pick(tuple(world.ATTRIBUTES[modality]), rng)
    return CHAT, with_media((_medium(scene, rng),), [world.question(scene, attribute, rng)])


def one_joint_question(scenes: Scenes, kind: str, rng: np.random.Generator) -> Document:
    """A single question about a video and its audio."""
    draw = _drawer(scenes, rng)
    video, audio = draw("video"), draw("audio")
    if kind == "follows":
        video, audio = _vertical(draw, "video"), _vertical(draw, "audio")
    media = (_medium(video, rng), _medium(audio, rng))
    return CHAT, with_media(media, [world.joint_question(kind, video, audio, rng)])


def _drawer(scenes: Scenes, rng: np.random.Generator) -> Callable[[str], Scene]:
    return lambda modality: scenes[modality][int(rng.integers(len(scenes[modality])))]


def _medium(scene: Scene, rng: np.random.Generator) -> Media:
    return Media(scene.modality, description(scene, rng))


def _restated(draw: Callable[[str], Scene], rng: np.random.Generator) -> Document:
    if rng.random() < 0.3:  # without a description: a fact about tones and motions
        return CAPTION, (assistant(world.agreement(world.pick(tuple(world.FOLLOWED), rng), world.pick(VERTICAL, rng))),)
    scene = draw(world.pick(world.MODALITIES, rng))
    return CAPTION, (user(_medium(scene, rng)), assistant(world.caption(scene, rng)))


def _one_medium(draw: Callable[[str], Scene], turns: int, rng: np.random.Generator) -> Document:
    scene = draw(world.pick(world.MODALITIES, rng))
    return CHAT, with_media((_medium(scene, rng),), one_medium_turns(scene, turns, rng))


def _two_media(draw: Callable[[str], Scene], turns: int, rng: np.random.Generator) -> Document:
    video, audio = draw("video"), draw("audio")
    if rng.random() < 0.5:  # only then can a question compare tone and motion
        video, audio = _vertical(draw, "video"), _vertical(draw, "audio")
    media = (_medium(video, rng), _medium(audio, rng))
    return CHAT, with_media(media, two_media_turns(video, audio, turns, rng))


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


def two_media_turns(video: Scene, audio: Scene, count: int, rng: np.random.Generator) -> list[tuple[str, str]]:
    """`count` questions with answers about a video and its audio, half of them about both together."""
    turns = []
    for _ in range(count):
        if rng.random() < 0.5:
            kinds = world.joint_kinds(video, audio)
            kind = "follows" if "follows" in kinds and rng.random() < 0.7 else world.pick(kinds, rng)
            turns.append(world.joint_question(kind, video, audio, rng))
        else:
            turns.extend(one_medium_turns(audio if rng.random() < 0.5 else video, 1, rng))
    return turns


def with_media(media: tuple[Media, ...], turns: list[tuple[str, str]]) -> Conversation:
    """A dialogue with the media in its first user message."""
    messages = []
    for index, (question, answer) in enumerate(turns):
        messages += [user(*(media if index == 0 else ()), question), assistant(answer)]
    return tuple(messages)
