"""Let people rate conversations in a spreadsheet, and take the good ones as examples for the next round of `ask`.

    python -m dataset_prep.textbind rate export data/textbind/raw.clean.json --number 50 --out ratings.csv
    python -m dataset_prep.textbind rate import ratings.csv --conversations data/textbind/raw.clean.json \\
        --examples data/textbind/examples.jsonl
    python -m dataset_prep.textbind rate summary ratings.csv

An annotator fills three columns: quality (Excellent, Satisfactory or Poor), for a Poor one the errors, else the
characteristics that make it good; several are separated by semicolons. Rows without a quality are left out and counted.
`import` adds the conversations of at least --at-least to the pool of examples, each once; `summary` counts qualities,
errors and characteristics.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from chatbridge.common.errors import DataError, nearest, some
from chatbridge.common.safe_files import append_lines, replace_text
from dataset_prep.common import arguments
from dataset_prep.common.input_files import rows_of
from dataset_prep.textbind.clean import KEPT, Cleaning
from dataset_prep.textbind.record_files import Record, read_records
from dataset_prep.textbind.request_text import read_examples

QUALITIES = ("Excellent", "Satisfactory", "Poor")  # best first
COLUMNS = ("id", "conversation", "quality", "characteristics", "errors")
MOST_LINES = 1000  # of one row: a conversation has several


@dataclass(frozen=True)
class Rating:
    """One rated row.

    reasons   errors of a Poor conversation, characteristics of others
    """

    id: str
    quality: str
    reasons: tuple[str, ...]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="export | import | summary")
    one = actions.add_parser("export", help="write conversations into a table")
    one.add_argument("conversations", type=arguments.existing_file, metavar="FILE.clean.json", help="of `clean`")
    one.add_argument("--out", type=Path, required=True, metavar="RATINGS.csv")
    one.add_argument("--number", type=arguments.positive, default=50, metavar="N", help="rows (default: 50)")
    one.add_argument("--seed", type=int, default=0, help="of the choice (default: 0)")
    one.add_argument("--besides", type=arguments.existing_file, nargs="+", default=[], metavar="CSV",
                     help="tables of earlier rounds, whose rows are not exported again")  # fmt: skip
    two = actions.add_parser("import", help="add good conversations to the examples")
    two.add_argument("ratings", type=arguments.existing_file, nargs="+", metavar="RATINGS.csv")
    two.add_argument(
        "--conversations", type=arguments.existing_file, nargs="+", required=True, metavar="FILE.clean.json"
    )
    two.add_argument("--examples", type=Path, required=True, metavar="FILE.jsonl", help="the pool; made if absent")
    two.add_argument("--at-least", choices=QUALITIES[:2], default=QUALITIES[0], help="default: Excellent")
    three = actions.add_parser("summary", help="count qualities, errors and characteristics")
    three.add_argument("ratings", type=arguments.existing_file, nargs="+", metavar="RATINGS.csv")


def run(asked: argparse.Namespace) -> int:
    return {"export": _export, "import": _import, "summary": _summary}[asked.action](asked)


def _export(asked: argparse.Namespace) -> int:
    if asked.out.exists():
        raise DataError(f"{asked.out} exists and may hold ratings; choose another --out, or remove it")
    earlier = {row["id"] for path in asked.besides for _, row in rows_of(path, ("id",), most_lines=MOST_LINES)}
    records = [record for record in _with_ids(asked.conversations) if str(record["id"]) not in earlier]
    if not records:
        raise DataError(f"{asked.conversations}: every conversation is in the tables of --besides")
    chosen = random.Random(asked.seed).sample(records, min(asked.number, len(records)))
    text = io.StringIO()
    table = csv.writer(text)
    table.writerow(COLUMNS)
    table.writerows([record["id"], record["response"], "", "", ""] for record in chosen)
    replace_text(asked.out, "\ufeff" + text.getvalue())  # with the mark by which spreadsheets recognise UTF-8
    print(f"{asked.out}: {len(chosen):,} conversations; fill quality with one of {', '.join(QUALITIES)}")
    return 0


def _with_ids(path: Path) -> list[Record]:
    records = read_records(path)
    without = [str(number) for number, record in enumerate(records) if not record.get("id") or "response" not in record]
    if without:
        raise DataError(f"{path}: record {some(without)} has no id or response; rate the files of `ask` and `clean`")
    return records


def _import(asked: argparse.Namespace) -> int:
    if asked.examples.exists() and any(asked.examples.samefile(path) for path in asked.conversations):
        raise DataError(f"--examples {asked.examples} is also in --conversations; name a file of its own")
    ratings, num_open = read_ratings(asked.ratings)
    good = QUALITIES[: QUALITIES.index(asked.at_least) + 1]
    records = {str(record["id"]): record for path in asked.conversations for record in _with_ids(path)}
    if absent := [one.id for one in ratings if one.id not in records]:
        raise DataError(f"the conversation {some(absent)} is not in --conversations; name the file that was exported")
    present = {one.id for one in read_examples([asked.examples])} if asked.examples.exists() else set()
    wanted = [one for one in ratings if one.quality in good and one.id not in present]
    unusable = [one.id for one in wanted if Cleaning().add(records[one.id]) != KEPT]
    lines = [_example(one, records[one.id]) for one in wanted if one.id not in unusable]
    append_lines(asked.examples, lines)
    rated_good = sum(one.quality in good for one in ratings)
    print(f"{asked.examples}: {len(lines):,} examples added; {rated_good:,} of {len(ratings):,} ratings are at least "
          f"{asked.at_least}, {rated_good - len(wanted):,} of them were there before")  # fmt: skip
    if unusable:
        print(f"  {len(unusable):,} are not added, because `clean` would drop them: {some(unusable)}")
    if num_open:
        print(f"  {num_open:,} rows have no quality yet")
    return 0


def _example(rating: Rating, record: Record) -> str:
    keys = ("id", "image", "image_idx", "url", "response")
    about = {"quality": rating.quality, "characteristics": list(rating.reasons)}
    return json.dumps({**{key: record[key] for key in keys}, **about}, ensure_ascii=False)


def read_ratings(paths: Sequence[Path]) -> tuple[list[Rating], int]:
    """The rated rows of all tables, and the number of rows without a quality.

    raises   DataError with every row whose quality is something else, or that rates a conversation differently again
    """
    found: dict[str, Rating] = {}
    problems, num_open = [], 0
    for path in paths:
        for line, row in rows_of(path, COLUMNS, most_lines=MOST_LINES):
            given = row["quality"].strip()
            quality = next((one for one in QUALITIES if one.lower() == given.lower()), None)
            if not given:
                num_open += 1
            elif quality is None:
                close = nearest(given, QUALITIES)
                problems.append(f"{path}, line {line}: quality is {given!r}, expected {', '.join(QUALITIES)}"
                                + (f"; did you mean {close}?" if close else ""))  # fmt: skip
            else:
                name, cell = row["id"].strip(), row["errors" if quality == "Poor" else "characteristics"]
                rating = Rating(name, quality, tuple(filter(None, map(str.strip, cell.split(";")))))
                if found.setdefault(name, rating).quality != quality:
                    problems.append(f"{path}, line {line}: {name} is rated {quality}, but {found[name].quality} before")
    if problems:
        raise DataError("\n".join(problems))
    return list(found.values()), num_open


def _summary(asked: argparse.Namespace) -> int:
    ratings, num_open = read_ratings(asked.ratings)
    print(f"{len(ratings):,} rated, {num_open:,} not yet")
    for quality in QUALITIES:
        print(f"  {_share(sum(one.quality == quality for one in ratings), len(ratings))}  {quality}")
    poor = [one for one in ratings if one.quality == "Poor"]
    for title, group in (("errors", poor), ("characteristics", [one for one in ratings if one.quality != "Poor"])):
        print(f"{title} of {len(group):,} conversations")
        for reason, number in Counter(_reasons(group)).most_common():
            print(f"  {_share(number, len(group))}  {reason}")
    return 0


def _reasons(ratings: Iterable[Rating]) -> Iterable[str]:
    return (reason.lower() for one in ratings for reason in dict.fromkeys(one.reasons))


def _share(number: int, total: int) -> str:
    return f"{number:>6,} {100 * number / max(total, 1):>5.1f} %"
