"""Tables for a terminal, by rich; plain text in files and pipes."""

from __future__ import annotations

from collections.abc import Sequence

UNLIMITED = 10_000  # columns: a long line is better in a log than a wrapped table


def text_table(head: Sequence[str], rows: Sequence[Sequence[str]], has_color: bool = False) -> str:
    """Return a table without borders, its first column left-aligned, the others right-aligned.

    has_color   dim the header with ANSI codes
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for number, name in enumerate(head):
        table.add_column(Text(name), justify="right" if number else "left", no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))
    console = Console(width=UNLIMITED, color_system="standard" if has_color else None, force_terminal=has_color)
    with console.capture() as captured:
        console.print(table)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())
