"""Ask the tiny TextBind for images, judge what it draws from the pixels, and ask it about its own images.

    python -m dataset_prep.tiny_world.examine_drawings --cfg-path eval_configs/textbind_tiny_eval.yaml

The questions are those of heldout/textbind.jsonl (`write_textbind`), each the beginning of a chat. Every image is
judged by `seen_scene`, never by its caption. Then the chat goes on with a question about the image that the model has
just drawn; the right answer is what the image shows, whatever was asked for.

    shown, placed, met, told, drawn, right    as in metrics/drawn_scenes.py
    met_chance    share of the images of other requests of that kind that would do as well
    open, named   share of right answers to second questions about what the request left open, and what it named
    open_chance   the mean of one over the number of possible answers of `open`
    swapped       share of the same answers that name what another image shows, when that one is in the chat
    swapped_own   share of those that still name what the chat's own image showed, which the model cannot see then

The results are written to drawings.json in --out, the drawn images to its folder `drawn`, with their captions
as text fields of the PNG files.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from chatbridge.common.errors import DataError, reported_at
from chatbridge.common.safe_files import replace_text
from chatbridge.common.seeds import stream
from chatbridge.conversation.messages import Conversation, Drawing, Media, Message, Text, user
from chatbridge.serve.answer import Answer
from chatbridge.serve.engine import ChatEngine
from dataset_prep.common import arguments
from dataset_prep.tiny_world import world
from dataset_prep.tiny_world.drawing_talk import ATTRIBUTES, Wish
from dataset_prep.tiny_world.metrics.drawn_scenes import met, scenes_of, scores_of
from dataset_prep.tiny_world.world import Scene
from dataset_prep.tiny_world.write_textbind import wanted_of

OUT = Path("runs/tiny/textbind_eval")
CONFIG, QUESTIONS = Path("eval_configs/textbind_tiny_eval.yaml"), Path("data/tiny/heldout/textbind.jsonl")
HINT = "write it with: python -m dataset_prep.tiny_world.write_textbind"
Scores = dict[str, dict[str, list[float]]]  # kind -> name -> one number per case


@dataclass(frozen=True)
class Asked:
    """A question of the evaluation with its answer.

    scenes   what the images of the answer show, in order
    """

    id: str
    details: dict[str, Any]
    question: Message
    answers: tuple[str, ...]
    reply: Answer
    scenes: tuple[Scene | None, ...]

    @property
    def kind(self) -> str:
        return self.details["kind"]

    @property
    def drawings(self) -> list[Drawing]:
        return [part for part in self.reply.parts if isinstance(part, Drawing)]

    @property
    def wishes(self) -> list[Wish]:
        return wanted_of(self.details["wanted"])


def asked_of(engine: ChatEngine, path: Path) -> Iterator[Asked]:
    """The questions of a file, each answered by itself. raises DataError for other files"""
    for record, question in questions_of(path):
        reply = engine.answer((question,))
        answers = tuple(record.get("answers", ()))
        yield Asked(record["id"], record["details"], question, answers, reply, scenes_of(reply.parts))


def questions_of(path: Path) -> list[tuple[dict[str, Any], Message]]:
    """The records of a file of questions, with their questions as messages. raises DataError"""
    if not path.is_file():
        raise DataError(f"there is no file {path}; {HINT}")
    found = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            record = json.loads(line)
            found.append((record, user(*(_part(part, path.parent) for part in record["messages"][-1]["content"]))))
            _ = record["id"], record["details"]["kind"], wanted_of(record["details"]["wanted"])
        except (ValueError, LookupError, TypeError) as error:
            kind = type(error).__name__
            raise DataError(
                f"{path}, line {number}: not a question of write_textbind ({kind}: {error}); {HINT}"
            ) from error
    return found


def _part(part: dict[str, Any], folder: Path) -> Text | Media:
    return Text(part["text"]) if part["type"] == "text" else Media(part["type"], folder / part["path"])


# ---------------------------------------------------------------- first answers


def judged(asked: Sequence[Asked]) -> Scores:
    """The scores of first answers."""
    scores: Scores = defaultdict(lambda: defaultdict(list))
    for one in asked:
        for name, score in scores_of(one.reply.parts, one.reply.text, one.answers, one.details).items():
            scores[one.kind][name].append(score)
        others = (other.scenes for other in asked if other.kind == one.kind and other.id != one.id)
        if one.wishes:
            scores[one.kind]["met_chance"] += [float(hit) for scenes in others for hit in met(one.wishes, scenes)]
    return scores


# ---------------------------------------------------------------- questions about drawn images


def asked_again(engine: ChatEngine, asked: Sequence[Asked], seed: int) -> Scores:
    """The scores of questions about images the model has drawn: each attribute that the request left open, and one that
    it named.

    Only answers with one image in which a scene can be seen count.
    """
    scores: Scores = defaultdict(lambda: defaultdict(list))
    known = [one for one in asked if len(one.scenes) == 1 and one.scenes[0] is not None and one.wishes]
    rng = stream(seed, "second questions")
    for number, one in enumerate(known):
        (scene,), (wish,) = one.scenes, one.wishes
        assert scene is not None
        other = known[(number + 1) % len(known)]
        named = world.pick(tuple(wish.named), rng)
        for name in (*(name for name in ATTRIBUTES if name not in wish.named), named):
            question, right = world.question(scene, name, rng)
            kind = "named" if name == named else "open"
            scores[one.kind][kind].append(_said(engine, one, one.drawings[0].ref, question) == right)
            if kind == "open" and (shown := other.scenes[0]) is not None:
                scores[one.kind]["open_chance"].append(1 / len(world.ATTRIBUTES["image"][name]))
                swapped = _said(engine, one, other.drawings[0].ref, question)
                scores[one.kind]["swapped"].append(swapped == shown[name])
                scores[one.kind]["swapped_own"].append(swapped == right)
    return scores


def _said(engine: ChatEngine, one: Asked, image: Tensor | Any, question: str) -> str:
    """The answer to a question after an answer whose drawing shows this image."""
    parts = tuple(replace(part, ref=image) if isinstance(part, Drawing) else part for part in one.reply.parts)
    chat: Conversation = (one.question, Message("assistant", parts), Message("user", (Text(question),)))
    return engine.answer(chat).text.strip()


# ---------------------------------------------------------------- results


def summary(*scores: Scores) -> dict[str, dict[str, float]]:
    """Kind -> name -> mean, with the number of cases of every name as `name_of`."""
    found: dict[str, dict[str, float]] = {}
    for part in scores:
        for kind, names in part.items():
            for name, cases in names.items():
                of_kind = found.setdefault(kind, {})
                of_kind[name] = round(float(np.mean(cases)), 4)
                of_kind[f"{name}_of"] = len(cases)
    return found


def save_images(folder: Path, asked: Sequence[Asked]) -> None:
    """Every drawn image as PNG, with its caption as a text field of the file."""
    folder.mkdir(parents=True, exist_ok=True)
    for one in asked:
        for number, drawing in enumerate(one.drawings):
            if isinstance(drawing.ref, Tensor):
                note = PngInfo()
                note.add_itxt("caption", drawing.caption)
                picture = Image.fromarray(drawing.ref.permute(1, 2, 0).numpy())
                picture.save(folder / f"{one.id}-{number}.png", pnginfo=note)


def examine(engine: ChatEngine, questions: Path, folder: Path, seed: int = 0) -> dict[str, dict[str, float]]:
    """Ask, judge, ask again, and write drawings.json and the images into `folder`."""
    asked = list(asked_of(engine, questions))
    results = summary(judged(asked), asked_again(engine, asked, seed))
    save_images(folder / "drawn", asked)
    replace_text(folder / "drawings.json", json.dumps(results, indent=1))
    return results


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m dataset_prep.tiny_world.examine_drawings",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--cfg-path", type=Path, default=CONFIG, help=f"evaluation of a model that draws ({CONFIG})")
    parser.add_argument("--options", nargs="*", default=[], help="settings that replace those of the file: key=value")
    parser.add_argument("--questions", type=Path, default=QUESTIONS, help=f"what is asked ({QUESTIONS})")
    parser.add_argument("--out", type=Path, default=OUT, help=f"folder of the results ({OUT})")
    asked_for = parser.parse_args(given)
    with reported_at("examine_drawings"):
        engine = ChatEngine.from_config(asked_for.cfg_path, asked_for.options)
        if engine.generator is None:
            raise ValueError(
                f"{asked_for.cfg_path} has no model.generator: nothing would be drawn, so nothing is judged"
            )
    for kind, scores in examine(engine, asked_for.questions, asked_for.out).items():
        shown = "  ".join(f"{name} {100 * value:.1f} %" for name, value in scores.items() if not name.endswith("_of"))
        print(f"{kind:8} {shown}")
    print(f"results: {asked_for.out / 'drawings.json'}, images: {asked_for.out / 'drawn'}; --help explains the names")
    return 0


if __name__ == "__main__":
    arguments.run(main)
