"""The colour behind transparent pixels and around padded images, as a setting."""

from __future__ import annotations

NONE = "none"  # transparency is dropped, as the reference does: hidden colors show, and padding is black
_FORM = "a name (white, black, gray ...), #rrggbb, or none"


class Background:
    """`Annotated[str, Background()]` is a color that Pillow knows, or none."""

    words = f"that is {_FORM}"

    def check(self, value: str) -> str | None:
        try:
            color_of(value)
        except ValueError:
            return f"is {value!r}, expected {_FORM}"
        return None


def color_of(background: str) -> tuple[int, int, int] | None:
    """Red, green and blue; None for none. raises ValueError for what is no color"""
    from PIL import ImageColor

    if background == NONE:
        return None
    red, green, blue, *_ = ImageColor.getrgb(background)
    return red, green, blue
