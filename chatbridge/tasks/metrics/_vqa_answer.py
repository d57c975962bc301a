"""The normal form of an answer by which the official VQA script compares answers, with its oddities.

Source: PythonEvaluationTools/vqaEvaluation/vqaEval.py of GT-Vision-Lab/VQA, and what it does rather than what it means:
- a mark of punctuation is removed where it touches a blank anywhere in the answer, and becomes a blank elsewhere; but
  one comma between two digits anywhere makes it remove every mark, so "1,000-2,000" is "10002000"
- a full stop before a digit stays; of the others, only the first 32 go, since `re.UNICODE` is passed as the count
- "none" is the number 0; some contractions have capitals and never match; "somebody'd" loses its apostrophe
"""

from __future__ import annotations

import re
from functools import lru_cache

MARKS = ';/[]"{}()=+\\_-><@`,?!'
COMMA_IN_NUMBER = re.compile(r"\d,\d")
FULL_STOP = re.compile(r"\.(?!\d)")
MOST_FULL_STOPS = 32
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
WORDS = {"none": "0", **{word: str(number) for number, word in enumerate(NUMBERS)}}
ARTICLES = frozenset({"a", "an", "the"})

# written without its apostrophe, a word gets it back
SINGLE = """ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't he'd he's how'd how'll how's
isn't it'd it'll ma'am mightn't might've mustn't must've needn't not've o'clock oughtn't shan't should've shouldn't
somebody'll somebody's someone'd someone'll someone's something'd something'll that's there'd there're there's they'd
they'll they're they've 'twas wasn't we've weren't what'll what're what's what've when's where'd where's where've who'd
who'll who's who've why'll why're why's won't would've wouldn't y'all you'd you'll you're you've"""
# with two apostrophes, of which one is missing
DOUBLE = """couldn't've hadn't've he'd've it'd've mightn't've she'd've shouldn't've somebody'd've someone'd've
something'd've there'd've they'd've we'd've who'd've wouldn't've y'all'll you'd've"""
IRREGULAR = {
    "ow's'at": "'ow's'at",
    "'ows'at": "'ow's'at",
    "'ow'sat": "'ow's'at",
    "yall'd've": "y'all'd've",
    "y'alld've": "y'all'd've",
    "y'all'dve": "y'all'd've",
    "somebody'd": "somebodyd",
}


def _contractions() -> dict[str, str]:
    """A contraction without an apostrophe -> with all of them."""
    found = {word.replace("'", ""): word for word in SINGLE.split()}
    for word in DOUBLE.split():
        first, second, third = word.split("'")
        found |= {f"{first}'{second}{third}": word, f"{first}{second}'{third}": word}
    return found | IRREGULAR


CONTRACTIONS = _contractions()


def one_line(answer: str) -> str:
    """The answer with blanks for line breaks and tabs, without blanks around it."""
    return answer.replace("\n", " ").replace("\t", " ").strip()


def without_punctuation(answer: str) -> str:
    """The answer without the marks that the script knows; apostrophes and colons stay."""
    found = answer
    has_comma_in_number = COMMA_IN_NUMBER.search(answer) is not None
    for mark in MARKS:
        is_removed = has_comma_in_number or f"{mark} " in answer or f" {mark}" in answer
        found = found.replace(mark, "" if is_removed else " ")
    return FULL_STOP.sub("", found, count=MOST_FULL_STOPS)


def usual_words(answer: str) -> str:
    """The answer in lower case, with digits for numbers up to ten, without articles, with usual contractions."""
    words = (WORDS.get(word, word) for word in answer.lower().split())
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


@lru_cache(maxsize=1 << 16)  # the same few thousand answers are given again and again
def normal_form(answer: str) -> str:
    """The answer as the script compares it: "The 2 dogs." -> "2 dogs"."""
    return usual_words(without_punctuation(answer))
