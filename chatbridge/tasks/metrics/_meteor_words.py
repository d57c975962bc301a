"""The words of captions as METEOR 1.5 with `-l en -norm` compares them, and which of them are function words."""

from __future__ import annotations

import re

_LETTERS = r"A-Za-zÀ-ÖØ-öø-ž\u0400-\u0527\uA640-\uA66E\uA67E-\uA697\u1D00-\u1D7F"  # Latin and Cyrillic
_ALNUM = f"0-9{_LETTERS}"
_FOLLOWED_BY_LOWER = re.compile("[a-z]")
_BEFORE_NAMES = frozenset({"v", "vs", "rev"})  # abbreviations in lower case that keep their full stop anywhere

# English words of a frequency above 1/1000, as METEOR's authors counted them in newspapers, signs among them
FUNCTION_WORDS = frozenset(
    """the , . to of and a in that for " is on 's it with was as said at he by be from have has are his but an this not
    i will ’ they ) -rrb- ( -lrb- who their had we which were been more or s its would about new one after you : also up
    when there than $ all out her people she year two - can if last first “ over other ” into some what so -- no time
    years could ? 't — ' 'hood""".split()  # noqa: SIM905
)

_STEPS = tuple(
    (re.compile(pattern, re.ASCII), replacement)
    for pattern, replacement in (
        (rf"([^{_ALNUM}\s.'`,\-‘’])", r" \1 "),  # signs apart, without those with rules of their own
        (r"([^0-9]),([^0-9])", r"\1 , \2"),  # a comma inside a number stays
        (r"([0-9]),([^0-9])", r"\1 , \2"),
        (r"([^0-9]),([0-9])", r"\1 , \2"),
        ("[`‘’]", "'"),
        ("[“”]|''", ' " '),
        ("–|--", "-"),
        (rf"([{_ALNUM}.])-([{_ALNUM}])", r"\1 \2"),  # parts of a compound count by themselves
        (rf"([^{_LETTERS}])'([^{_LETTERS}])", r"\1 ' \2"),
        (rf"([^{_LETTERS}0-9])'([{_LETTERS}])", r"\1 ' \2"),
        (rf"([{_LETTERS}])'([^{_LETTERS}])", r"\1 ' \2"),
        (rf"([{_LETTERS}])'([{_LETTERS}])", r"\1 '\2"),
        ("([0-9])'(s)", r"\1 '\2"),
    )
)
_SPACES = re.compile(r"[ \t\n\r\f\u00A0\u2000-\u200A\u202F\u205F\u3000]+")
_DOTS = re.compile(r"(\.{2,})")


def words_of(caption: str) -> tuple[str, ...]:
    """The words of a tokenized caption: "a black-and-white t-shirt" -> a, black, and, white, t, shirt."""
    if caption.isascii() and caption.replace(" ", "").isalnum():
        return tuple(caption.split())
    line = _DOTS.sub(r" \1 ", _STEPS[0][0].sub(_STEPS[0][1], f" {_SPACES.sub(' ', caption)} "))
    for pattern, replacement in _STEPS[1:]:
        line = pattern.sub(replacement, line)
    parts = [part for part in line.split(" ") if part]
    words: list[str] = []
    for part, following in zip(parts, [*parts, ""][1:], strict=True):
        words += _without_full_stop(part, following)
    return tuple(word.lower() for word in words)


def _without_full_stop(word: str, following: str) -> list[str]:
    """A word with its full stop apart, unless it is an abbreviation; "u.s." -> "us"."""
    if len(word) < 2 or not word.endswith(".") or not word.strip("."):
        return [word]
    before = word[:-1]
    if "." in before and re.search(f"[{_LETTERS}]", before):
        return [word.replace(".", "")]
    if before in _BEFORE_NAMES or _FOLLOWED_BY_LOWER.match(following):
        return [word]
    if before == "pp" and re.match("[0-9]", following):
        return [word]
    return [before, "."]
