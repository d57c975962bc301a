"""TextBind's data construction: raw conversations to verdicts, cleaned and reformatted records."""

from __future__ import annotations

import re

from dataset_prep.textbind.clean import Cleaning
from dataset_prep.textbind.image_tags import RawRecord
from dataset_prep.textbind.reformat import conversation, image_captions
from tests.parity.golden import Check


def clean(check: Check) -> None:
    """Verdict and counts of every filter; the cleaned records; the records of training; the list of images."""
    about = check.golden.about
    settings = re.search(r"mim_edit_dist=([\d.]+), *min_turn_num=(\d+)", about.get("source", ""))
    cleaning = Cleaning(int(settings[2]), float(settings[1])) if settings else Cleaning()
    for number, (record, verdict) in enumerate(zip(about["raw"], about["verdict_per_example"], strict=True)):
        check.equal(f"verdict of record {number}", cleaning.add(record), verdict)
    counts = {name: count for name, count in about["drop_counts"].items() if count}
    check.equal("drop counts", cleaning.counts(), counts)
    check.equal("cleaned records", cleaning.kept, about["cleaned"])
    raws = [RawRecord.of(record) for record in cleaning.kept]
    for number, (raw, expected) in enumerate(zip(raws, about["reformatted"], strict=True)):
        check.equal(f"conversation {number}", conversation(raw), expected["conversation"])
    check.equal("images", image_captions(raws)[0], about["img_cap"])
