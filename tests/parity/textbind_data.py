"""TextBind's second stage: records of other data sets, to those of its blend."""

from __future__ import annotations

from chatbridge.datasets.formats.json_fields import Fields
from dataset_prep.textbind.blend_sources import SOURCES
from tests.parity.golden import Check

OWN_NAMES = {"alpaca": "alpaca_gpt4"}  # of the recording -> ours


def converters(check: Check) -> None:
    """Every record of every source, with the errors of the released conversion."""
    about = check.golden.about
    check.equal("sources", {OWN_NAMES.get(name, name) for name in about["inputs"]}, set(SOURCES))
    for name, records in about["inputs"].items():
        source, expected = SOURCES[OWN_NAMES.get(name, name)], about["outputs"][name]
        check.equal(f"{name}: number of records", len(records), len(expected))
        for number, (record, wanted) in enumerate(zip(records, expected, strict=True)):
            made = source.record(Fields(record), wanted.get("image_dir"), released=True)
            check.equal(f"{name}, record {number}", made, wanted)
