"""`chatbridge data show CFG N`: one sample as the model receives it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from chatbridge.cli.arguments import add_config, whole
from chatbridge.cli.data.original_file import original_file
from chatbridge.cli.data.sample import SampleView, fill, of_run, of_source
from chatbridge.cli.data.show_page import sample_page
from chatbridge.cli.data.show_text import sample_text
from chatbridge.cli.data.terminal import Paint
from chatbridge.common.environment import hidden
from chatbridge.common.errors import ConfigError, Problem
from chatbridge.common.safe_files import replace_text
from chatbridge.experiment.media_plan import plan_media
from chatbridge.experiment.partial_data import PartialData, read_data
from chatbridge.experiment.tokens import Tokens, read_tokens
from chatbridge.runners.config import ranks_planned
from chatbridge.serve.media_pictures.media_png import media_png


def main(arguments: Sequence[str] | None = None) -> int:
    """Show one sample: its conversation, the template's exact string, its media as the encoders receive them, and its
    token ids with supervised ones in color. Prints text, and writes sample.html and a PNG per media item."""
    parser = argparse.ArgumentParser(prog="chatbridge data show", description=main.__doc__)
    add_config(parser)
    parser.add_argument("number", type=whole(0), metavar="N",
                        help="number of the conversation in training order, from 0; with --source, of the sample "
                        "in file order")  # fmt: skip
    parser.add_argument("--source", metavar="NAME", help="a source of the training, or a task of the evaluation")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: runs/shown/CFG/N")
    parser.add_argument("--ranks", type=whole(1), default=ranks_planned(), metavar="N",
                        help="processes of the run, on which the order depends (default: %(default)s)")  # fmt: skip
    given = parser.parse_intermixed_args(arguments)
    found = read_data(given.config, given.options)
    view, tokens = read_view(found, given.number, given.source, given.ranks)
    folder = given.out or Path("runs/shown", given.config.stem, "-".join([*([given.source] if given.source else []),
                                                                          str(given.number)]))  # fmt: skip
    files = write(view, tokens, folder)
    print(sample_text(view, tokens, Paint()), end="\n\n")
    print("\n".join(f"wrote {path}" for path in files))
    return 1 if view.problem else 0


def read_view(found: PartialData, number: int, name: str | None, ranks: int = 1) -> tuple[SampleView, Tokens]:
    """Read the sample as the run or the evaluation does. Raises ConfigError if it does not exist."""
    media_plan, drawn = plan_media(found), None
    if name is None and found.is_training:
        view, draw = of_run(found, number, ranks)
        drawn = draw.drawn
    else:
        if name is None and len(found.default) != 1:
            known = tuple(source.name for source in found.default)
            raise ConfigError([Problem("--source", "is missing: an evaluation has no order", allowed=known)])
        view = of_source(found, found.find(name) if name else found.default[0], number)
    tokens = read_tokens(found, media_plan, evaluation=view.source.task is not None)
    view = fill(view, media_plan, tokens, drawn)
    if len(found.problems):
        count = "1 problem" if len(found.problems) == 1 else f"{len(found.problems)} problems"
        view.notes.append(f"the configuration has {count}: see chatbridge data check")
    view.notes += media_plan.notes
    return view, tokens


def write(view: SampleView, tokens: Tokens, folder: Path) -> list[Path]:
    """Write sample.html and the PNGs; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    pngs, originals, written = {}, {}, []
    for number, item in enumerate(view.media):
        png, file = media_png(item), original_file(item, folder, f"file_{number}")
        if png is not None:
            pngs[number] = png
            written.append(folder / f"{item.modality}_{number}.png")
            written[-1].write_bytes(png)
        if file is not None:
            originals[number] = file
    written.insert(0, folder / "sample.html")
    replace_text(written[0], hidden(sample_page(view, tokens, pngs, originals)))
    return written
