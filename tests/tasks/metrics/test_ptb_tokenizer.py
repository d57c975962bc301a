"""The tokens of captions equal those of the official tools: a golden of 700 odd lines, and thousands more with Java."""

from __future__ import annotations

import json
import time

import pytest

from chatbridge.tasks.metrics._ptb_tokenizer import tokenize
from tests.tasks.metrics.caption_goldens import FOLDER, has_oracle, odd_lines, official_tokens


def test_odd_lines_as_recorded() -> None:
    """Fails when any rule, spelling or dropped token differs from Stanford's PTBTokenizer with pycocoevalcap's list."""
    golden = json.loads((FOLDER / "tokens.json").read_text(encoding="utf-8"))
    found = tokenize([line for line, _ in golden])
    assert len(golden) == 700 and sum(len(tokens.split()) for _, tokens in golden) > 2500
    assert found == [tokens for _, tokens in golden]


@pytest.mark.parametrize(
    ("caption", "tokens"),
    [
        ("A man's hat, red.", "a man 's hat red"),
        ("a dog <end_of_text>", "a dog <end_of_text>"),
        ('</a> and </a b="1">', "</a> and < / a b = 1 >"),
        ("J'Sgc and J'x", "j'sgc and j' x"),
        ("x\u2044y of 3\u20444", "x \u2044 y of 3\u20444"),
        ("It isn't a T-shirt!", "it is n't a t-shirt"),
        ("I cannot (ever) go", "i can not -lrb- ever -rrb- go"),  # brackets stay, as in the official scores
        ("", ""),
        ("... ? --", ""),
        ("?! ..", "?!"),
        ("one\ntwo\r\nthree\u2028four", "one two three four"),
        ("a \U0001f600 face", "a face"),
        ("a.k.a.x.-", "a.k.a.x."),
    ],
)
def test_examples(caption: str, tokens: str) -> None:
    """Fails when a caption with line breaks becomes several, or punctuation stays."""
    assert tokenize([caption, "next"]) == [tokens, "next"]


def test_the_next_caption_is_context() -> None:
    """Fails when captions are read one by one: "C." keeps its full stop unless a sentence follows."""
    assert tokenize(["vitamin C.", "A dog"])[0] == "vitamin c" and tokenize(["vitamin C.", "dogs"])[0] == "vitamin c."
    assert tokenize([]) == []


@pytest.mark.slow
@pytest.mark.skipif(not has_oracle(), reason="needs pycocoevalcap and Java")
def test_equal_to_java() -> None:
    """Fails when one of 20000 odd lines has other tokens than Java's."""
    lines = odd_lines(7, 20000)
    pairs = zip(lines, tokenize(lines), official_tokens(lines), strict=True)
    different = [(line, ours, theirs) for line, ours, theirs in pairs if ours != theirs]
    assert not different, different[:5]


@pytest.mark.parametrize("piece", ["   /", "a.1.", "a, a,", "<a /", "1-", "a@", "' a="])
def test_repeated_text_takes_no_time(piece: str) -> None:
    """Fails when a degenerate answer, the same piece over and over, makes a rule try exponentially many ways."""
    start = time.process_time()
    tokenize(["<a" + piece * 100])
    assert time.process_time() - start < 1
