"""How the Penn Treebank tokenizer writes a token: quotes as `` and '', brackets as -LRB-, one kind of dash."""

from __future__ import annotations

import re

_BRACKETS = {"(": "-LRB-", ")": "-RRB-", "{": "-LCB-", "}": "-RCB-", "[": "-LSB-", "]": "-RSB-"}
_FRACTIONS = {"\u00bc": "1/4", "\u00bd": "1/2", "\u00be": "3/4", "\u2153": "1/3", "\u2154": "2/3"}
_CURRENCIES = {"\u00a2": "cents", "\u00a3": "#"} | dict.fromkeys("\u0080\u00a4\u20a0\u20ac", "$")  # £ is # there
_CURLY = {
    **dict.fromkeys("\u0091\u2018\u201b\u2039", "`"),
    **dict.fromkeys("\u0092\u2019\u203a", "'"),
    **dict.fromkeys("\u0093\u201c\u00ab", "``"),
    **dict.fromkeys("\u0094\u201d\u00bb", "''"),
}
_STRAIGHT = re.compile(r"(?i:&apos;)|'|\"|(?i:&quot;)")


def as_it_is(token: str) -> str:
    return token


def without_soft_hyphens(token: str) -> str:
    return token.replace("\u00ad", "") or "-"


def unbroken(token: str) -> str:
    """Its spaces as no-break spaces: "1 1/2" stays one token of the line."""
    return token.replace(" ", "\u00a0")


def without_entities(token: str) -> str:
    return re.sub("&amp;", "&", token, flags=re.IGNORECASE)


def without_brackets(token: str) -> str:
    """Brackets as names; those of a smiley or a telephone number only if they are round."""
    if len(token) == 1:
        return _BRACKETS[token]
    return unbroken(token).replace("(", "-LRB-").replace(")", "-RRB-")


def fraction(token: str) -> str:
    return _FRACTIONS.get(token, token)


def plain_currency(token: str) -> str:
    return _CURRENCIES.get(token, token)


def quotes(token: str) -> str:
    """Quotation marks as ' and '', curly ones by their side."""
    return _quotes(token, "'", "''")


def opening_quotes(token: str) -> str:
    """Quotation marks as ` and ``."""
    return _quotes(token, "`", "``")


def _quotes(token: str, single: str, double: str) -> str:
    straight = _STRAIGHT.sub(
        lambda found: single if found[0][0] == "'" or "apos" in found[0].lower() else double, token
    )
    return "".join(_CURLY.get(character, character) for character in straight)
