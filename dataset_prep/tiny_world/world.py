"""The scenes of the tiny world, and the captions, questions and answers about them.

A scene is the content of one image, video or audio file: a value for every attribute of its modality. Some combinations
of values are held out: only the media of the evaluation show them, not those of the encoders' training and of both
stages. The text for the language model describes all combinations.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np

COLORS = ("red", "green", "blue", "yellow", "purple", "white")
SHAPES = ("circle", "square", "triangle", "star", "cross")
PLACES = ("left", "right", "top", "bottom", "middle")
SIZES = ("big", "small")
MOTIONS = ("up", "down", "left", "right")
CHANGES = ("grows", "shrinks", "blinks")
SOUNDS = ("rising tone", "falling tone", "steady tone", "siren", "noise", "one beat", "fast beats")
PITCHES = ("high", "medium", "low")
VOLUMES = ("loud", "quiet")
BACKGROUNDS = ("clear", "hissing", "humming")

ATTRIBUTES: dict[str, dict[str, tuple[str, ...]]] = {
    "image": {"size": SIZES, "color": COLORS, "shape": SHAPES, "place": PLACES},
    "video": {"color": COLORS, "shape": SHAPES, "motion": MOTIONS, "change": CHANGES},
    "audio": {"sound": SOUNDS, "pitch": PITCHES, "volume": VOLUMES, "background": BACKGROUNDS},
}
MODALITIES = tuple(ATTRIBUTES)
# weights, modulus and remainder: a scene is held out if the weighted sum of its values' indices leaves the remainder
HELD_OUT = {"image": ((1, 2, 1, 3), 5, 1), "video": ((1, 2, 1, 3), 5, 1), "audio": ((1, 1, 3, 2), 6, 0)}

CAPTIONS: dict[str, tuple[str, ...]] = {
    "image": (
        "a {size} {color} {shape} at the {place}",
        "at the {place} there is a {size} {color} {shape}",
        "the {shape} at the {place} is {color} and {size}",
        "a {color} {shape}, {size}, at the {place}",
    ),
    "video": (
        "a {color} {shape} moves {motion} and {change}",
        "a {color} {shape} {change} and moves {motion}",
        "moving {motion}, the {color} {shape} {change}",
        "the {shape} that moves {motion} is {color} and {change}",
    ),
    "audio": (
        "a {volume} {background} {pitch} sound: {sound}",
        "the {background} sound is {sound}, {pitch} and {volume}",
        "{sound}, {volume}, {background} and {pitch}",
        "a {pitch} sound of {sound}, {volume} and {background}",
    ),
}

QUESTIONS: dict[str, dict[str, tuple[str, ...]]] = {
    "image": {
        "size": ("How big is the shape?", "Is the shape big or small?"),
        "color": ("What color is the shape?", "Which color does it have?"),
        "shape": ("Which shape is it?", "What shape do you see?"),
        "place": ("Where is the shape?", "At which place is it?"),
    },
    "video": {
        "color": ("What color is the shape?", "Which color does it have?"),
        "shape": ("Which shape is it?", "What shape do you see?"),
        "motion": ("Which way does it move?", "Where does the shape go?"),
        "change": ("How does the shape change?", "What does the shape do while it moves?"),
    },
    "audio": {
        "sound": ("What sound is it?", "Which sound do you hear?"),
        "pitch": ("What pitch does the sound have?", "How high is the sound?"),
        "volume": ("Is the sound loud or quiet?", "How loud is the sound?"),
        "background": ("What is in the background?", "Is the sound clear, hissing or humming?"),
    },
}
DESCRIBE: dict[str, tuple[str, ...]] = {
    "image": ("Describe the image.", "What does the image show?"),
    "video": ("Describe the video.", "What happens in the video?"),
    "audio": ("Describe the sound.", "What do you hear?"),
}
JOINT_QUESTIONS: dict[str, tuple[str, ...]] = {
    "shape and sound": ("Name the shape and the sound.",),
    "color and sound": ("Name the color and the sound.",),
    "motion and pitch": ("Name the motion and the pitch.",),
    "follows": ("Does the tone go the way the shape moves?",),
}
FOLLOWED = {"rising tone": "up", "falling tone": "down"}


@dataclass(frozen=True)
class Scene:
    """The content of one media item: its modality and a value per attribute, in the order of ATTRIBUTES."""

    modality: str
    values: tuple[str, ...]

    def __getitem__(self, attribute: str) -> str:
        return self.values[list(ATTRIBUTES[self.modality]).index(attribute)]

    @property
    def named(self) -> dict[str, str]:
        return dict(zip(ATTRIBUTES[self.modality], self.values, strict=True))

    @property
    def is_held_out(self) -> bool:
        """True for one combination of values in five (audio: in six); every pair of values remains in training."""
        ranks = [options.index(self[name]) for name, options in ATTRIBUTES[self.modality].items()]
        weights, modulus, remainder = HELD_OUT[self.modality]
        return sum(w * r for w, r in zip(weights, ranks, strict=True)) % modulus == remainder


def all_scenes(modality: str, *, held_out: bool) -> tuple[Scene, ...]:
    scenes = (Scene(modality, values) for values in product(*ATTRIBUTES[modality].values()))
    return tuple(scene for scene in scenes if scene.is_held_out == held_out)


def pick(options: tuple[str, ...], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """A sentence that names every attribute."""
    return pick(CAPTIONS[scene.modality], rng).format(**scene.named)


def question(scene: Scene, attribute: str, rng: np.random.Generator) -> tuple[str, str]:
    """A question about one attribute, and its answer."""
    return pick(QUESTIONS[scene.modality][attribute], rng), scene[attribute]


def joint_kinds(video: Scene, audio: Scene) -> tuple[str, ...]:
    """The kinds of questions for this pair; "follows" needs a rising or falling tone and a vertical motion."""
    tone_and_vertical = audio["sound"] in FOLLOWED and video["motion"] in ("up", "down")
    return tuple(kind for kind in JOINT_QUESTIONS if kind != "follows" or tone_and_vertical)


def joint_question(kind: str, video: Scene, audio: Scene, rng: np.random.Generator) -> tuple[str, str]:
    """A question that needs both the video and the audio, and its answer."""
    text = pick(JOINT_QUESTIONS[kind], rng)
    if kind == "follows":
        return text, agreement(audio["sound"], video["motion"])
    visual, audible = kind.split(" and ")
    return text, f"{video[visual]} and {audio[audible]}"


def agreement(tone: str, motion: str) -> str:
    """The answer to "follows": motion and tone, then whether they agree; a model decides after it named both."""
    return f"{motion} and {tone}, {'yes' if FOLLOWED[tone] == motion else 'no'}"
