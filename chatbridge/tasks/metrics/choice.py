"""Which option a generated answer chooses, by rules alone: no judge is asked, and what they cannot read is counted.

The first rule that finds exactly one option decides:
    letter   the answer, or its first line, is a letter: "B", "(b)", "B.", "**B**"
    phrase   it says so: "The answer is B", "Option (C)", "answer: A"; a small letter counts at the end of a sentence
    letters  exactly one letter of an option stands alone in it: "I would choose B because ..."; an "A" before a word is
             an article, unless the word is "is", "or", "and" or "because"
    text     it contains the text of exactly one option, as whole words; an option inside a longer one that is there
             too ("red" in "dark red") does not count
    none     nothing, or several options: the answer is incorrect
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from chatbridge.tasks.metrics.text import named, normalise

RULES = ("letter", "phrase", "letters", "text", "none")
BARE = re.compile(r"[\W_]*([A-Za-z])[\W_]*")
PHRASE = re.compile(r"\b(?:answer|option|choice)\b(?:\s+is)?[\s:=(\"'*]*([A-Z])(?![\w'’]|-\w)", re.IGNORECASE)
ALONE = re.compile(r"(?<![\w'’-])([A-Z])(?![\w'’]|-\w)")
ARTICLE = re.compile(r"\s+(?!(?:is|or|and|because)\b)[^\W\d_]")  # what follows an article
MARKS = tuple(":=(\"'*")  # before a small "a" that is no article
ENDS = re.compile(r"[)\]\"'*]*\s*(?:[.!,;]|\n|$)")  # what follows the last word of a part of a sentence


class Choice(NamedTuple):
    """letter: of the chosen option, None if there is none. rule: which of RULES decided"""

    letter: str | None
    rule: str


def chosen_option(answer: str, options: Mapping[str, str]) -> Choice:
    """The option that an answer chooses. options: letter -> text, letters in capitals"""
    found = BARE.fullmatch(answer.strip().partition("\n")[0])
    if found and found[1].upper() in options:
        return Choice(found[1].upper(), "letter")
    named_letters = (("phrase", _letters(PHRASE, answer)), ("letters", _letters(ALONE, answer)))
    for rule, chosen in (*named_letters, ("text", _with_text(answer, options))):
        if len(chosen := chosen & options.keys()) == 1:
            return Choice(chosen.pop(), rule)
    return Choice(None, "none")


def _letters(pattern: re.Pattern[str], answer: str) -> set[str]:
    """Letters that a pattern finds, as capitals, without the article "a"."""
    return {one[1].upper() for one in pattern.finditer(answer) if _is_option(one[1], one, answer)}


def _is_option(letter: str, found: re.Match[str], answer: str) -> bool:
    """Whether a letter in an answer is that of an option, and no article; a small one must end its sentence."""
    if letter.isupper():
        return letter != "A" or not ARTICLE.match(answer, found.end())
    is_marked = answer[: found.start(1)].rstrip()[-1:] in MARKS  # "answer: a"; "the answer is a" may have been cut
    return bool(ENDS.match(answer, found.end())) and (letter != "a" or is_marked)


def _with_text(answer: str, options: Mapping[str, str]) -> set[str]:
    """Letters of the options whose text the answer contains, without those inside a longer one that it contains."""
    texts = {letter: text for letter, text in options.items() if normalise(text)}
    hits = [letter for letter, hit in zip(texts, named(answer, texts.values()), strict=True) if hit]
    inside = {
        one
        for one in hits
        for other in hits
        if normalise(texts[one]) != normalise(texts[other]) and named(texts[other], [texts[one]])[0]
    }
    return set(hits) - inside
