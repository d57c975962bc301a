"""A griffe extension for the API pages: docstrings and comments of fields are shown as they are written.

Docstrings of the package describe tensors in aligned columns ("x   float[M, N, W]   features"). Markdown would join
those lines into one paragraph and drop `<image>` as an unknown HTML tag. Settings are explained by a comment on their
line, which griffe does not read.
"""

from __future__ import annotations

import re
from typing import Any

from griffe import Docstring, Extension

COLUMNS = re.compile(r"\S+(?: \S+)* {2,}\S")  # a name, at least two blanks, its description
COMMENT = re.compile(r"\s#\s(.+)$")
TAG = re.compile(r"<(?=[\w/|])")


class AlignedDocstrings(Extension):
    """Applies `as_markdown` to every docstring, and gives a field without one the comment of its line."""

    def on_object(self, *, obj: Any, **_: Any) -> None:
        if obj.docstring is None and obj.is_attribute:
            comments = [found[1] for line in obj.lines if (found := COMMENT.search(line))]
            obj.docstring = Docstring(comments[0], parent=obj) if comments else None
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)


def as_markdown(docstring: str) -> str:
    """The docstring with aligned paragraphs as code blocks and tags outside of backticks escaped."""
    return "\n\n".join(_paragraph(text) for text in re.split(r"\n\s*\n", docstring))


def _paragraph(text: str) -> str:
    lines = text.splitlines()
    if COLUMNS.match(lines[0] if lines else "") or (len(lines) > 1 and all(line.startswith("    ") for line in lines)):
        return f"```text\n{text}\n```"
    pieces = re.split(r"(`[^`]*`)", text)
    return "".join(piece if piece.startswith("`") else TAG.sub("&lt;", piece) for piece in pieces)
