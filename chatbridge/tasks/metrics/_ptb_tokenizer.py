"""Captions as the published scores count their words: Penn Treebank tokens in lower case, without punctuation."""

from __future__ import annotations

import re
from collections.abc import Sequence

from chatbridge.tasks.metrics._ptb_rules import BEFORE_LOWER_CASE, BEFORE_NAMES, BEFORE_NUMBERS, RULES

# Dropped after the tokenizer. Its brackets come in lower case, so "-lrb-" stays a word: an oversight of the official
# code that is part of every published score.
_DROPPED = frozenset(["''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", *".?!,:;-", "--", "..."])

_PARTED = "(?i:cannot|gonna|gotta|lemme|gimme|wanna)"  # words of two tokens
_ABBREVIATED = rf"(?:{BEFORE_LOWER_CASE}|{BEFORE_NAMES}|{BEFORE_NUMBERS}|[A-Za-z])"
# What no rule treats otherwise: a word, or a mark, at the end of what stands between spaces
_WORD = re.compile(rf"(?!{_PARTED}\b)(?:[A-Za-z]+(?=[,;:?!]?[ \n])|(?!{_ABBREVIATED}\.)[A-Za-z]+(?=\.[ \n]))")
_MARK = re.compile(r"[,;:?!.](?=\n| (?!\.))")
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
        elif word := _WORD.match(text, position):
            tokens.append(word[0].lower())
            position = word.end()
        elif _MARK.match(text, position):
            position += 1
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
