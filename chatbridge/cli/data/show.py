"""`chatbridge data show CFG N`: one sample as the model gets it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from chatbridge.common.environment import hidden
from chatbridge.common.errors import ConfigError, Problem
from chatbridge.common.safe_files import replace_text
from chatbridge.cli.data.media_png import original, picture
from chatbridge.cli.data.sample import Shown, fill, of_run, of_source
from chatbridge.experiment.media_plan import plan_media
from chatbridge.cli.data.show_page import page
from chatbridge.cli.data.show_text import text
from chatbridge.cli.data.terminal import Paint
from chatbridge.experiment.tokens import Tokens, read_tokens
from chatbridge.cli.arguments import add_config, whole
from chatbridge.experiment.partial_data import OpenedData, read_data
from chatbridge.runners.config import ranks_planned


def main(arguments: Sequence[str] | None = None) -> int:
    """One sample with its conversation, the template's exact string, its media as the encoders get them, and its token
    ids with the learned ones in colour: on the terminal, as sample.html, and a PNG per medium."""
    parser = argparse.ArgumentParser(prog="chatbridge data show", description=main.__doc__)
    add_config(parser)
    parser.add_argument("number", type=whole(0), metavar="N",
                        help="conversation of the run in the order of its training, from 0; with --source, the sample "
                        "of that source in the order of its files")  # fmt: skip
    parser.add_argument("--source", metavar="NAME", help="a source of the training, or a task of the evaluation")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: runs/shown/CFG/N")
    parser.add_argument("--ranks", type=whole(1), default=ranks_planned(), metavar="N",
                        help="processes of the run, which its order depends on (default: %(default)s)")  # fmt: skip
    given = parser.parse_intermixed_args(arguments)
    found = read_data(given.config, given.options)
    shown, tokens = look(found, given.number, given.source, given.ranks)
    folder = given.out or Path("runs/shown", given.config.stem, "-".join([*([given.source] if given.source else []),
                                                                          str(given.number)]))  # fmt: skip
    files = write(shown, tokens, folder)
    print(text(shown, tokens, Paint()), end="\n\n")
    print("\n".join(f"wrote {path}" for path in files))
    return 1 if shown.problem else 0


def look(found: OpenedData, number: int, name: str | None, ranks: int = 1) -> tuple[Shown, Tokens]:
    """The sample, read as the run or the evaluation reads it. raises ConfigError when there is none"""
    senses, drawn = plan_media(found), None
    if name is None and found.is_training:
        shown, draw = of_run(found, number, ranks)
        drawn = draw.drawn
    else:
        if name is None and len(found.default) != 1:
            known = tuple(source.name for source in found.default)
            raise ConfigError([Problem("--source", "is missing: an evaluation has no order", allowed=known)])
        shown = of_source(found, found.find(name) if name else found.default[0], number)
    tokens = read_tokens(found, senses, evaluation=shown.source.task is not None)
    shown = fill(shown, senses, tokens, drawn)
    if len(found.problems):
        count = "1 problem" if len(found.problems) == 1 else f"{len(found.problems)} problems"
        shown.notes.append(f"the configuration has {count}: see chatbridge data check")
    shown.notes += senses.notes
    return shown, tokens


def write(shown: Shown, tokens: Tokens, folder: Path) -> list[Path]:
    """sample.html and the pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    pngs, originals, written = {}, {}, []
    for number, medium in enumerate(shown.media):
        png, file = picture(medium), original(medium, folder, f"file_{number}")
        if png is not None:
            pngs[number] = png
            written.append(folder / f"{medium.modality}_{number}.png")
            written[-1].write_bytes(png)
        if file is not None:
            originals[number] = file
    written.insert(0, folder / "sample.html")
    replace_text(written[0], hidden(page(shown, tokens, pngs, originals)))
    return written
