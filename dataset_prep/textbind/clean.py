"""Keep the usable ones of the conversations that a language model wrote, by nine filters in order.

    python -m dataset_prep.textbind clean data/textbind/raw.jsonl

writes raw.clean.json with the conversations that pass, and raw.dropped.jsonl with the reason for each of the others.
A record counts for the first filter that applies:

    malformed        it is not a record of `ask`: {"response", "image", "image_idx", "url"}
    repeat_image     an image is shown twice
    unseen_image     an image is shown that was not given
    no_image         no image is shown
    repeat_response  an earlier record has the same response
    wrong_role       no line begins a turn with `Human:`
    invalid_turns    the turns do not alternate, or one contains both roles
    too_short        fewer than --min-turns turns
    changed_caption  a shown caption differs from the given one by more than --max-change of its length

Before the last filter, opening tags without a closing one and doubled commas are removed from the conversation.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from chatbridge.common.extras import need
from dataset_prep.common import arguments
from dataset_prep.common.manifest import write_json
from dataset_prep.textbind.image_tags import (
    ASSISTANT,
    HUMAN,
    OPENING,
    RawRecord,
    pairs,
    turns,
    without_unpaired,
    without_unpaired_closing,
)
from dataset_prep.textbind.record_files import Record, read_records, write_lines

MIN_TURNS, MAX_CHANGE = 3, 0.1  # of the released data
KEPT = "kept"
FILTERS = ("malformed", "repeat_image", "unseen_image", "no_image", "repeat_response", "wrong_role", "invalid_turns",
           "too_short", "changed_caption")  # fmt: skip


@dataclass
class Cleaning:
    """The conversations that pass, and the verdict for every record.

    min_turns       single messages of a conversation, at least
    max_change      edits per character of the given caption, at most
    remove_closing  also remove closing tags without an opening one; the released data keeps them as text
    """

    min_turns: int = MIN_TURNS
    max_change: float = MAX_CHANGE
    remove_closing: bool = False
    kept: list[Record] = field(default_factory=list)
    verdicts: list[str] = field(default_factory=list)
    details: list[str] = field(default_factory=list)
    num_closing: int = 0  # conversations that are kept with such a tag
    _seen: set[str] = field(default_factory=set)

    def add(self, record: Record) -> str:
        """The verdict for a record: KEPT or the name of a filter."""
        verdict, detail, text = self._verdict(record)
        self.verdicts.append(verdict)
        self.details.append(detail)
        if verdict == KEPT:
            self.kept.append({**record, "response": text})
            self.num_closing += without_unpaired_closing(text) != text
        return verdict

    def counts(self) -> dict[str, int]:
        """filter -> dropped records, in the order of the filters."""
        found = Counter(self.verdicts)
        return {name: found[name] for name in FILTERS if found[name]}

    def _verdict(self, record: Record) -> tuple[str, str, str]:
        """(verdict, detail, cleaned response)"""
        try:
            raw = RawRecord.of(record)
        except ValueError as error:
            return "malformed", str(error), ""
        shown = Counter(int(number) for number in OPENING.findall(raw.response))
        given = range(len(raw.captions))
        if repeated := [number for number in given if shown[number] > 1]:
            return "repeat_image", f"<img{repeated[0]}>", ""
        if unseen := [number for number in shown if number not in given]:
            return "unseen_image", f"<img{unseen[0]}>, {len(raw.captions)} were given", ""
        if not any(pairs(raw.response)):
            return "no_image", "", ""
        if raw.response in self._seen:
            return "repeat_response", "", ""
        self._seen.add(raw.response)
        return self._turns_verdict(raw)

    def _turns_verdict(self, raw: RawRecord) -> tuple[str, str, str]:
        found = turns(raw.response)
        if not found:
            return "wrong_role", "", ""
        for number, turn in enumerate(found):
            if not turn.startswith((HUMAN, ASSISTANT)[number % 2]) or (HUMAN in turn and ASSISTANT in turn):
                return "invalid_turns", f"turn {number + 1}: {turn[:60]!r}", ""
        if len(found) < self.min_turns:
            return "too_short", f"{len(found)} turns", ""
        text = self._mended("\n\n".join(found))
        for number, caption in pairs(text):
            change = self._change(caption, raw.captions[number])
            if change > self.max_change:
                return (
                    "changed_caption",
                    f"<img{number}> by {change:.2f}: {caption!r}, not {raw.captions[number]!r}",
                    "",
                )
        return KEPT, "", text

    def _mended(self, text: str) -> str:
        text = without_unpaired(text).replace(",,", "")
        return without_unpaired_closing(text) if self.remove_closing else text

    def _change(self, caption: str, given: str) -> float:
        distance = need("rapidfuzz.distance", "comparing captions").Levenshtein.distance
        return distance(caption, given) / len(given)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("raw", type=arguments.existing_file, metavar="FILE", help="of `ask`, or a list of such records")
    add("--out", type=Path, metavar="FOLDER", help="of the two files (default: that of the raw file)")
    add("--min-turns", type=arguments.positive, default=MIN_TURNS, metavar="N",
        help=f"single messages of a conversation, an unanswered last one included (default: {MIN_TURNS})")  # fmt: skip
    add("--max-change", type=share, default=MAX_CHANGE, metavar="SHARE",
        help=f"edits of a caption, in parts of its length (default: {MAX_CHANGE})")  # fmt: skip
    add("--remove-closing-tags", action="store_true",
        help="also remove closing tags without an opening one; the released data keeps them as text")  # fmt: skip


def share(text: str) -> float:
    """The type of an argument: a number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, got {text!r}")
    return value


def run(asked: argparse.Namespace) -> int:
    """1 when no record passes."""
    folder, name = asked.out or asked.raw.parent, asked.raw.name.partition(".")[0]
    paths = [folder / f"{name}.{kind}" for kind in ("clean.json", "dropped.jsonl")]
    for path in paths:
        arguments.refuse_own_input(path, asked.raw)
    records = read_records(asked.raw)
    cleaning = Cleaning(asked.min_turns, asked.max_change, asked.remove_closing_tags)
    for record in records:
        cleaning.add(record)
    cleaned = write_json(paths[0], cleaning.kept)
    dropped = _write_dropped(paths[1], records, cleaning)
    print(f"{cleaned}: {len(cleaning.kept):,} of {len(records):,} records")
    for verdict, number in cleaning.counts().items():
        print(f"  dropped {number:,}: {verdict}")
    if cleaning.num_closing:
        print(f"  {cleaning.num_closing:,} conversations keep a closing tag without an opening one as text; "
              "--remove-closing-tags removes it")  # fmt: skip
    print(f"  each dropped record with its reason: {dropped}")
    return 0 if cleaning.kept else 1


def _write_dropped(path: Path, records: Iterable[Record], cleaning: Cleaning) -> Path:
    verdicts = zip(records, cleaning.verdicts, cleaning.details, strict=True)
    return write_lines(
        path,
        (
            {"number": number, "verdict": verdict, "detail": detail, "record": record}
            for number, (record, verdict, detail) in enumerate(verdicts)
            if verdict != KEPT
        ),
    )
