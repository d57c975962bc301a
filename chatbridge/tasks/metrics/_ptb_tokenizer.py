"""Captions as the published scores count their words: Penn Treebank tokens in lower case, without punctuation."""

from __future__ import annotations

import re
from collections.abc import Sequence

from chatbridge.tasks.metrics._ptb_rules import BEFORE_LOWER_CASE, BEFORE_NAMES, BEFORE_NUMBERS, RULES

# Dropped after the tokenizer. Its brackets come in lower case, so "-lrb-" stays a word: an oversight of the official
# code that is part of every published score.
_DROPPED = frozenset(["''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", *".?!,:;-", "--", "..."])

_PARTED = "cannot|gonna|gotta|lemme|gimme|wanna"  # words of two tokens
_PLAIN = re.compile(rf"(?!(?i:{_PARTED})\b)[A-Za-z]+(?=[ \n])")  # a word that no rule would treat otherwise
_ABBREVIATED = rf"(?:{BEFORE_LOWER_CASE}|{BEFORE_NAMES}|{BEFORE_NUMBERS}|[A-Za-z])\b"
_AT_THE_END = re.compile(rf"(?!(?i:{_PARTED})\b)(?!{_ABBREVIATED})[A-Za-z]+(?=\.\n)")
_LINE_BREAKS = re.compile("[\r\n\u000b\u000c\u2028\u2029]")


def tokenize(captions: Sequence[str]) -> list[str]:
    """The tokens of each caption, between spaces: "A man's hat, red." -> "a man 's hat red".

    The captions are one text, as in the official scoring: whether "vitamin C." at the end of one keeps its full stop
    depends on how the next one starts. A line break inside a caption is a space.
    """
    text = "".join(f"{_LINE_BREAKS.sub(' ', caption)}\n" for caption in captions)
    found: list[str] = []
    tokens: list[str] = []
    position = 0
    while position < len(text):
        character = text[position]
        if character == "\n":
            found.append(" ".join(tokens).rstrip())
            tokens = []
            position += 1
        elif character == " ":
            position += 1
        elif plain := _PLAIN.match(text, position) or _AT_THE_END.match(text, position):
            tokens.append(plain[0].lower())
            position = plain.end()
        else:
            token, position = _next_token(text, position)
            if token and token not in _DROPPED:
                tokens.append(token)
    return found


def _next_token(text: str, start: int) -> tuple[str, int]:
    """The token at a position, "" for characters that are none, and where reading goes on."""
    longest, end, spelling = start, start + 1, None
    for rule in RULES:
        match = rule.pattern.match(text, start)
        if match and match.end() > longest:
            longest, spelling = match.end(), rule.spelling
            end = (match.end(1) if rule.pattern.groups else longest) + rule.keep
    return (spelling(text[start:end]).lower() if spelling else ""), end
