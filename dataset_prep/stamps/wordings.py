"""The words of the instruction conversations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

Choice = TypeVar("Choice")

# (request, answer); {it} is the name with its article
NAME_SEEN = (
    ("What is this?", "This is {it}."),
    ("What is in the picture?", "{It}."),
    ("Name the thing in the picture.", "{It}."),
    ("What do you see?", "I see {it}."),
    ("Please tell me what the picture shows.", "The picture shows {it}."),
    ("Can you name this?", "{It}."),
    ("What am I looking at?", "You are looking at {it}."),
    ("In a few words, what is shown?", "{It}."),
    ("A child asks what this is. What do you answer?", "It is {it}."),
    ("Identify the thing.", "{It}."),
    ("What would you call this?", "I would call it {it}."),
    ("Answer with the name only: what is this?", "{It}."),
)
NAME_HEARD = (
    ("What do you hear?", "{It}."),
    ("What makes this sound?", "{It} makes this sound."),
    ("Name the source of the sound.", "{It}."),
    ("What is this sound?", "This is the sound of {it}."),
    ("Listen. What is it?", "It is {it}."),
    ("Please tell me what you hear.", "I hear {it}."),
    ("Which sound is this?", "The sound of {it}."),
    ("Can you name what you hear?", "{It}."),
    ("In a few words, what can be heard?", "{It}."),
    ("Answer with the name only: what makes this sound?", "{It}."),
)
NAME_HEARD_OF = {
    "animal": (("Which animal do you hear?", "{It}."), ("Which animal makes this sound?", "{It} makes this sound.")),
    "instrument": (("Which instrument do you hear?", "{It}."), ("Which instrument is played?", "{It}.")),
    "thing": (("Which thing do you hear?", "{It}."),),
}
IS_SEEN = ("Is this {it}?", "Does the picture show {it}?", "Do you see {it}?", "Is it {it}?", "Is {it} in the picture?")
IS_HEARD = ("Is this {it}?", "Do you hear {it}?", "Is this the sound of {it}?", "Does {it} make this sound?")
YES = ("Yes.", "Yes, it is {right}.", "Yes.")
NO = ("No.", "No, it is {right}.", "No.")
KIND_SEEN = (
    "What kind of thing is in the picture?",
    "To which group does this belong?",
    "Is this {options}?",
    "Choose one: is it {options}?",
)
KIND_HEARD = ("What kind of thing do you hear?", "Do you hear {options}?", "Choose one: is it {options}?")
BOTH = (
    "Name the thing in the picture and the thing you hear.",
    "What do you see, and what do you hear?",
    "What is in the picture, and what makes the sound?",
    "First name what you see, then what you hear.",
)
BOTH_ANSWER = "{Seen} and {heard}."
SAME = (
    "Does the thing in the picture make this sound?",
    "Do the picture and the sound belong together?",
    "Is the thing that you see also the one that you hear?",
    "Does this sound come from what the picture shows?",
)


def pick(choices: Sequence[Choice], rng: np.random.Generator) -> Choice:
    """One of the choices."""
    return choices[int(rng.integers(len(choices)))]


def fill(words: str, **names: str) -> str:
    """The words with names in place; {It} is {it} with a capital first letter."""
    return words.format(**names, **{key.capitalize(): capital(name) for key, name in names.items()})


def capital(words: str) -> str:
    return words[:1].upper() + words[1:]


def with_article(noun: str) -> str:
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"


def either(options: Sequence[str]) -> str:
    """ "a bird, a bug or a mammal"."""
    return " or ".join(filter(None, (", ".join(options[:-1]), options[-1])))
