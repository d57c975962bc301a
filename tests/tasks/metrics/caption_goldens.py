"""Makes golden/captions.json and golden/tokens.json: inputs, and what the official tools print for them.

    python -m tests.tasks.metrics.caption_goldens ../shared/reference/data/caps_boxes_coco2014_val_80.jsonl

The oracle is pycocoevalcap, with its PTB tokenizer and METEOR 1.5 in Java. The references are captions of MS COCO 2014
val (CC BY 4.0); each prediction is the caption left out, often worded differently by `worded`. The odd items are ours.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "golden"
ODD = [  # prediction, references
    ("", ["A dog runs."]),
    ("...", ["A dog runs.", "The dog is running"]),
    ("a", ["a"]),
    ("a a a a a a a", ["a man a plan a canal", "a a"]),
    ("A dog runs.", ["A dog runs."]),
    ("Dog A RUNS !!!", ["a dog runs", "runs dog a"]),
    ("the man's hat isn't red", ["The man's hat is not red.", "a man’s hat isn’t red"]),
    ('a (very) old "house" [blue] {x}', ["a very old house", 'an old (blue) "house"']),
    ("two dogs, three cats; one bird: all happy", ["Two dogs , three cats , and a bird", "animals"]),
    ("a black-and-white photo of a T-shirt", ["black and white photo of a t-shirt", "A black-and-white t - shirt."]),
    ("at 5:30 p.m. the U.S. flag costs $5.00", ["The US flag costs 5 dollars at 5:30 PM", "a flag"]),
    ("1 1/2 cups and 3/4 of a pie", ["one and a half cups", "1 1/2 cup and 3/4 pie"]),
    ("a café in São Paulo — très joli", ["a cafe in Sao Paulo", "a café in São Paulo"]),
    ("a smiling face 😀 👍", ["a face 😀", "smiling face"]),
    ("cannot gonna 'tis", ["can not going to it is", "I cannot"]),
    ("one\ntwo  three\tfour", ["one two three four", "one two"]),
    ("runs running ran runner", ["run", "the runner is running"]),
    ("a very long caption " * 12, ["a short one", "a very long caption of many words"]),
    ("short", ["a very long caption of many words that goes on and on and never really ends at all"]),
    ("man sits couch", ["a person is seated on a sofa", "a guy sitting on a couch"]),
    ("@user #tag http://a.com/b x@y.com", ["see http://a.com/b #tag", "x@y.com"]),
    ("it's a dogs' life, o'clock y'all", ["it is a dog's life", "o'clock"]),
    ("a & b &amp; c < d > e", ["a and b and c", "a & b & c"]),
    ("中文 描述 русский текст", ["中文 描述", "русский текст"]),
    ("1990s cars '90s music rock 'n' roll", ["cars of the 1990s", "rock and roll"]),
    ("a man riding a wave on top of a surfboard", ["?!", "a man on a surfboard riding a wave"]),
]
PIECES = ["\u00ad", "\u00a0", "\u200b"]  # and the words here
PIECES += """a A the The dog man's dogs' isn't ISN'T can't cannot gonna 'tis more'n I I'm he'll o'clock O'Neil ma'am
y'all
cont'd. don'ts black-and-white T-shirt x-ray 3-D '90s '55 1990s 5 5.5 .5 -5 +5 1,000 12:55 p.m. U.S. U.S.A.
J.R.R. Mr. St. Inc. Jan. Mass. ill. No. no. fig. vs. e.g. etc. Ph.D. and/or w/ 24/7 1/2 a/b/c 12/31/99 555-1234
(202) $5 US$5 £5 5¢ 50% #1 #tag @me x@y.com http://a.com/b www.a.com/b.html a.com AT&T S&P-500 &amp;
&quot;x&quot; &lt; &nbsp; &mdash; <b> </b> <br/> <3 :) :-( ;) =P ^_^ ... .. .... . , ; : ? ! ?! -- --- ----
----- - ' " `` '' ` “x” ‘x’ ’s n’t it’s «x» — – … ½ ² ° 10°C × café É ß İ 中文 русский हिन्दी 😀 ☺ ★ ™ € ( ) [ ] {
} / \\ * ** & % ^ ~ | _ + = < > << @ # ## $ foo.jpg 1a.png c++ c# -LRB- pro- Cap'n c'est non-U.S. x!y it.The '''
'a 'em o' so\u00adft 6'2" (x) [x] Z After It""".split()  # noqa: SIM905


def worded(caption: str, number: random.Random, words: Sequence[str]) -> str:
    """A caption with words left out, replaced or repeated; sometimes as it is."""
    kept = [one for one in caption.split() if number.random() > 0.15]
    changed = [number.choice(words) if number.random() < 0.15 else one for one in kept]
    return caption if number.random() < 0.1 else " ".join(changed + changed[:2] * (number.random() < 0.2))


def inputs(coco: Path) -> list[dict[str, Any]]:
    """Items: id, prediction, references."""
    number = random.Random(20150401)
    captions = [json.loads(line)["captions"] for line in coco.read_text("utf-8").splitlines()]
    words = sorted({word for group in captions for caption in group for word in caption.split()})
    items = [(worded(group[0], number, words), group[1:]) for group in captions] + ODD
    return [{"id": f"{k:03d}", "prediction": one, "references": found} for k, (one, found) in enumerate(items)]


def odd_lines(seed: int, count: int) -> list[str]:
    """Lines that test a tokenizer: pieces with spaces, without, and single characters in any order."""
    number = random.Random(seed)
    characters = (
        "abcxyzABCISTnts0159.,;:?!'\"`-_/\\()[]{}<>@#$%^&*+=~| \u2019\u2018\u201c\u201d\u00e9\u00ad\u00a0\u2013\u2026"
    )
    lines: list[str] = []
    for _ in range(count):
        kind = number.random()
        if kind < 0.5:
            line = " ".join(number.choice(PIECES) for _ in range(number.randint(1, 9)))
        elif kind < 0.75:
            line = "".join(number.choice(PIECES) + number.choice(["", "", " ", ".", ",", "-"]) for _ in range(5))
        else:
            line = "".join(number.choice(characters) for _ in range(number.randint(1, 14)))
        lines.append(line.replace("\n", " "))
    return lines


@contextmanager
def utf8_java() -> Iterator[None]:
    """Java reads and writes UTF-8 as pycocoevalcap expects, whatever the locale is."""
    before = os.environ.get("JAVA_TOOL_OPTIONS")
    os.environ["JAVA_TOOL_OPTIONS"] = "-Dfile.encoding=UTF-8 -Dstdout.encoding=UTF-8"
    try:
        yield
    finally:
        os.environ.pop("JAVA_TOOL_OPTIONS") if before is None else os.environ.update(JAVA_TOOL_OPTIONS=before)


def has_oracle() -> bool:
    """Whether the official tools are installed, and Java."""
    try:
        import pycocoevalcap.tokenizer.ptbtokenizer  # noqa: F401
    except ImportError:
        return False
    return shutil.which("java") is not None


def official_tokens(lines: Sequence[str]) -> list[str]:
    """Each line through PTBTokenizer of pycocoevalcap; lines without line breaks."""
    from pycocoevalcap.tokenizer import ptbtokenizer as official

    jar = Path(official.__file__).with_name(official.STANFORD_CORENLP_3_4_1_JAR)
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder, "lines.txt")
        text.write_text("\n".join(lines), encoding="utf-8")
        command = ["java", "-cp", str(jar), "edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase"]
        with utf8_java():
            done = subprocess.run([*command, str(text)], capture_output=True, check=True)
    found = done.stdout.decode("utf-8").split("\n")[: len(lines)]
    kept = ([one for one in line.rstrip().split(" ") if one not in official.PUNCTUATIONS] for line in found)
    return [" ".join(one) for one in kept]


def official_scores(items: Sequence[dict[str, Any]], meteor: bool = True) -> dict[str, Any]:
    """{"scores": {name: value}, "per_item": {name: [value]}} of pycocoevalcap."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.meteor.meteor import Meteor
    from pycocoevalcap.rouge.rouge import Rouge
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    with utf8_java():
        tokenizer = PTBTokenizer()
        truth = tokenizer.tokenize({one["id"]: [{"caption": text} for text in one["references"]] for one in items})
        answers = tokenizer.tokenize({one["id"]: [{"caption": one["prediction"]}] for one in items})
        bleu, bleu_items = Bleu(4).compute_score(truth, answers, verbose=0)
        scores = {f"bleu_{k + 1}": value for k, value in enumerate(bleu)}
        per_item = {f"bleu_{k + 1}": list(values) for k, values in enumerate(bleu_items)}
        scorers = {"rouge_l": Rouge(), "cider": Cider()} | ({"meteor": Meteor()} if meteor else {})
        for name, scorer in scorers.items():
            value, values = scorer.compute_score(truth, answers)
            scores[name], per_item[name] = float(value), [float(one) for one in values]
    return {"scores": scores, "per_item": per_item}


def main(coco: str) -> None:
    FOLDER.mkdir(exist_ok=True)
    items = inputs(Path(coco))
    golden = {"items": items, **official_scores(items)}
    (FOLDER / "captions.json").write_text(json.dumps(golden, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")
    lines = odd_lines(1, 700)
    tokens = [[line, found] for line, found in zip(lines, official_tokens(lines), strict=True)]
    (FOLDER / "tokens.json").write_text(json.dumps(tokens, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
