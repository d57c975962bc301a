"""What the files have, and how far the texts alone tell the answers."""

from __future__ import annotations

from dataset_prep.stamps.material import Material
from dataset_prep.stamps.records import Record
from dataset_prep.stamps.splits import TRAIN
from dataset_prep.stamps.text_baseline import text_baseline, word_prior


def statistics(material: Material, training: dict[str, list[Record]], test: dict[str, list[Record]]) -> Record:
    """Counts, and the share of the questions with options that a text-only classifier answers correctly."""
    told = [one for made in training.values() for one in made]
    guessed = {
        f"{name.removesuffix('.jsonl')} {kind}": {
            "text_only": right,
            "word_prior": priors[kind],
            "chance": chance,
            "questions": count,
        }
        for name, made in test.items()
        if "choices" in name and (priors := word_prior(told, made))
        for kind, (right, chance, count) in text_baseline(told, made).items()
    }
    return {
        "conversations": {name: len(made) for name, made in (training | test).items()},
        "pictures": {TRAIN: len(material.train), **{split: len(made) for split, made in material.unseen.items()}},
        "things": {
            TRAIN: len({one.thing for one in material.train}),
            **{split: len({one.thing for one in made}) for split, made in material.unseen.items()},
        },
        "sounds": {
            "classes": len({one.name for one in material.heard}),
            TRAIN: len(material.heard),
            "held out": len(material.held_out),
        },
        "things_seen_and_heard": len(set(material.mirrored) & {one.name for one, _ in material.held_out}),
        "text_only": guessed,
        "notes": material.notes,
    }


def show(found: Record) -> str:
    """The statistics as lines."""
    lines = [f"{count:6}  {name}" for name, count in found["conversations"].items()]
    for what in ("pictures", "things", "sounds"):
        lines.append(f"{what}: " + ", ".join(f"{count} {name}" for name, count in found[what].items()))
    lines.append(f"things with a picture and a sound: {found['things_seen_and_heard']}")
    lines.append("questions with options, answered from the texts alone (chance; number):")
    lines += [
        f"  {name:36} {one['text_only']:.1%}, by frequent words {one['word_prior']:.1%} "
        f"({one['chance']:.1%}; {one['questions']})"
        for name, one in found["text_only"].items()
    ]
    return "\n".join([*lines, *found["notes"]])
