"""Write the record files of the stamps run (format `records`, docs/your_own_data.md).

    captions_{train,validation,test}.jsonl   pictures with their caption; no thing is in two of the files
    sounds_train.jsonl                       sounds with their name
    talk_train.jsonl                         questions about one picture or one sound, some of several turns
    pairs_train.jsonl                        a picture and a sound in one conversation, of half of the things
    picture_choices_{validation,test}.jsonl  questions with options about pictures of things that were never seen
    sound_choices_test.jsonl                 ... about held-out sounds of known things
    sounds_test.jsonl                        the same sounds, to be named freely
    pair_choices_test.jsonl                  ... about a held-out picture and a held-out sound
    media/                                   copies that were made here: rendered drawings, altered pictures, clips
    statistics.json                          counts, and how far the texts alone tell the answers

Pictures of the packages stay where they are; the files name them by their absolute paths.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from chatbridge.common.safe_files import replace_text
from dataset_prep.common import arguments
from dataset_prep.stamps import captions, debian, pairs, questions, records, talk
from dataset_prep.stamps.material import Material, by_name, collect
from dataset_prep.stamps.records import Record, audio, record, text
from dataset_prep.stamps.statistics import show, statistics
from dataset_prep.stamps.talk import Known

SEED = 7


def training_files(material: Material, seed: int) -> dict[str, list[Record]]:
    """File name -> conversations for training."""
    heard = by_name(material.heard)
    pictures = talk.seen(material.train)
    return {
        "captions_train.jsonl": list(captions.captions(material.train, seed=seed)),
        "sounds_train.jsonl": [_named_sound(one) for one in material.heard],
        "talk_train.jsonl": [
            *talk.single(pictures, seed),
            *talk.single(material.heard, seed),
        ],
        "pairs_train.jsonl": list(pairs.training(material.paired, heard, seed)),
    }


def _named_sound(one: Known, details: Record | None = None) -> Record:
    answer = f"{one.name[0].upper()}{one.name[1:]}."
    return record(one.id, [audio(one.path), text("What do you hear?")], answer, details=details)


def test_files(material: Material, seed: int) -> dict[str, list[Record]]:
    """File name -> conversations of the evaluation."""
    made: dict[str, list[Record]] = {}
    for split, stamps in material.unseen.items():
        shown = [stamp for stamp in stamps if stamp.name]
        details = {
            one.id: {"category": stamp.category or "other"} for one, stamp in zip(talk.seen(shown), shown, strict=True)
        }
        made[f"captions_{split}.jsonl"] = list(captions.captions(stamps, seed=seed, held_out=True))
        made[f"picture_choices_{split}.jsonl"] = [
            *questions.naming(talk.seen(shown), details, seed),
            *questions.kinds(talk.seen(shown), details, seed),
        ]
    heard = [one for one, _ in material.held_out]
    details = {
        one.id: {"group": recording.group, "held_out": recording.held_out} for one, recording in material.held_out
    }
    named = {one.id: {**details[one.id], "must_name": [one.name.split()[-1]]} for one in heard}
    made["sounds_test.jsonl"] = [_named_sound(one, named[one.id]) for one in heard]
    made["sound_choices_test.jsonl"] = list(questions.naming(heard, details, seed))
    made["pair_choices_test.jsonl"] = list(pairs.test(material.mirrored, by_name(heard), seed))
    return made


def write_all(stamps_folder: Path, samples: Path | None, out: Path, seed: int = SEED) -> Record:
    """Write every file below `out`; returns the statistics. raises DataError without stamps"""
    material = collect(stamps_folder, samples, out)
    training, test = training_files(material, seed), test_files(material, seed)
    for name, made in (training | test).items():
        records.write(out / name, made)
    found = statistics(material, training, test)
    replace_text(out / "statistics.json", json.dumps(found, indent=1) + "\n")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    where = "the installed one, or the one that dataset_prep.stamps.fetch unpacked"
    parser.add_argument("--stamps", type=Path, help=f"folder of the stamps (default: {where})")
    parser.add_argument("--samples", type=Path, help=f"folder of sonic-pi's samples (default: {where})")
    parser.add_argument("--out", type=Path, default=Path("data/stamps"), help="folder to write to")
    parser.add_argument("--seed", type=int, default=SEED)
    given = parser.parse_args()
    started = time.monotonic()
    unpacked = given.out / "debian"
    stamps = given.stamps or debian.package_folder(debian.STAMPS, unpacked) or unpacked / debian.STAMPS.name
    samples = given.samples or debian.package_folder(debian.SAMPLES, unpacked) or unpacked / debian.SAMPLES.name
    print(show(write_all(stamps, samples, given.out, given.seed)))
    print(f"{given.out}: {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    arguments.run(main)
