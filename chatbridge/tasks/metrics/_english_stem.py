"""English stems by the Porter 2 algorithm (snowballstem.org), as METEOR 1.5 takes them: "running" -> "run".

The stemmer of nltk differs from METEOR's for words such as "realization" and "ionization".
"""

from __future__ import annotations

import re

_WHOLE = {  # words with a stem of their own
    "skis": "ski", "skies": "sky", "dying": "die", "lying": "lie", "tying": "tie", "idly": "idl", "gently": "gentl",
    "ugly": "ugli", "early": "earli", "only": "onli", "singly": "singl",
    **{word: word for word in ("sky", "news", "howe", "atlas", "cosmos", "bias", "andes")},
}  # fmt: skip
_ENOUGH = frozenset(["inning", "outing", "canning", "herring", "earring", "proceed", "exceed", "succeed"])
_LONG = {  # endings after the first syllable
    "ational": "ate", "tional": "tion", "enci": "ence", "anci": "ance", "abli": "able", "entli": "ent", "izer": "ize",
    "ization": "ize", "ation": "ate", "ator": "ate", "alism": "al", "aliti": "al", "alli": "al", "fulness": "ful",
    "ousli": "ous", "ousness": "ous", "iveness": "ive", "iviti": "ive", "biliti": "ble", "bli": "ble", "ogi": "og",
    "fulli": "ful", "lessli": "less", "li": "",
}  # fmt: skip
_MIDDLE = {
    "ational": "ate", "tional": "tion", "alize": "al", "icate": "ic", "iciti": "ic", "ical": "ic", "ful": "",
    "ness": "", "ative": "",
}  # fmt: skip
_LAST = (
    "al", "ance", "ence", "er", "ic", "able", "ible", "ant", "ement", "ment", "ent", "ism", "ate", "iti", "ous", "ive",
    "ize", "ion",
)  # fmt: skip
_REGION = re.compile("[aeiouy][^aeiouy]")
_PREFIX = re.compile("gener|commun|arsen")
_VOWEL = re.compile("[aeiouy]")
_SHORT = re.compile("(?:^[aeiouy][^aeiouy]|[^aeiouy][aeiouy][^aeiouywxY])$")  # syllable at the end


def stem(word: str) -> str:
    """The stem of a word in lower case; words of one or two letters are their own."""
    if len(word) <= 2:
        return word
    if word in _WHOLE:
        return _WHOLE[word]
    word = re.sub("(?<=[aeiouy])y|^y", "Y", word.removeprefix("'"))
    first = _after(word, 0) if (prefix := _PREFIX.match(word)) is None else prefix.end()
    second = _after(word, first)
    word = _without_s(_without_possessive(word))
    if word not in _ENOUGH:
        word = _without_past(word, first)
        if len(word) > 2 and word[-1] in "yY" and not _VOWEL.match(word[-2]):
            word = word[:-1] + "i"
        word = _last(_middle(_long(word, first), first, second), second)
        word = _without_e(word, first, second)
    return word.replace("Y", "y")


def _after(word: str, start: int) -> int:
    """The position after the first consonant that follows a vowel; the end of the word if there is none."""
    found = _REGION.search(word, start)
    return found.end() if found else len(word)


def _ending(word: str, endings: object) -> str:
    """The longest of the endings that the word has; "" without one."""
    return max((one for one in endings if word.endswith(one)), key=len, default="")  # type: ignore[attr-defined]


def _without_possessive(word: str) -> str:
    return word[: len(word) - len(_ending(word, ("'s'", "'s", "'")))]


def _without_s(word: str) -> str:
    if word.endswith("sses"):
        return word[:-2]
    if word.endswith(("ied", "ies")):
        return word[:-2] if len(word) > 4 else word[:-1]
    if word.endswith(("us", "ss")) or not word.endswith("s"):
        return word
    return word[:-1] if _VOWEL.search(word[:-2]) else word


def _without_past(word: str, first: int) -> str:
    """Without ed and ing."""
    ending = _ending(word, ("eed", "eedly", "ed", "edly", "ing", "ingly"))
    base = word[: len(word) - len(ending)]
    if ending.startswith("eed"):
        return base + "ee" if len(base) >= first else word
    if not ending or not _VOWEL.search(base):
        return word
    if base.endswith(("at", "bl", "iz")):
        return base + "e"
    if base.endswith(("bb", "dd", "ff", "gg", "mm", "nn", "pp", "rr", "tt")):
        return base[:-1]
    return base + "e" if len(base) <= first and _SHORT.search(base) else base


def _long(word: str, first: int) -> str:
    ending = _ending(word, _LONG)
    base = word[: len(word) - len(ending)]
    if not ending or len(base) < first:
        return word
    if (ending == "ogi" and not base.endswith("l")) or (ending == "li" and base[-1:] not in tuple("cdeghkmnrt")):
        return word
    return base + _LONG[ending]


def _middle(word: str, first: int, second: int) -> str:
    ending = _ending(word, _MIDDLE)
    base = word[: len(word) - len(ending)]
    if not ending or len(base) < (second if ending == "ative" else first):
        return word
    return base + _MIDDLE[ending]


def _last(word: str, second: int) -> str:
    ending = _ending(word, _LAST)
    base = word[: len(word) - len(ending)]
    if not ending or len(base) < second or (ending == "ion" and not base.endswith(("s", "t"))):
        return word
    return base


def _without_e(word: str, first: int, second: int) -> str:
    base = word[:-1]
    if word.endswith("e") and (len(base) >= second or (len(base) >= first and not _SHORT.search(base))):
        return base
    return base if word.endswith("ll") and len(base) >= second else word
