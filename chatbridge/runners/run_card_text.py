"""run_card.md: the card of a run as a page."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import yaml

from chatbridge.common.revision import revision_text


def time_text(hours: float) -> str:
    """0.025 -> 1:30 (m:ss); an hour and more -> 1.50 hours"""
    minutes, seconds = divmod(round(hours * 3600), 60)
    return f"{minutes}:{seconds:02d} (m:ss)" if minutes < 60 else f"{hours:,.2f} hours"


def memory_text(size: float) -> str:
    """1234567890 -> 1.23 GB; below 1 GB in MB"""
    return f"{size / 1e9:,.2f} GB" if size >= 1e9 else f"{size / 1e6:,.0f} MB"


FIGURES: dict[
    str, tuple[str, str | Callable[[Any], str]]
] = {  # name in the card -> (words, format or function of the value)
    "step": ("steps", "{:,}"),
    "loss": ("loss of the last line", "{:.4f}"),
    "hours": ("time", time_text),
    "samples": ("conversations", "{:,}"),
    "tokens": ("tokens", "{:,}"),
    "supervised": ("supervised tokens", "{:,}"),
    "samples_per_s": ("conversations per second", "{:,.1f}"),
    "tokens_per_s": ("tokens per second", "{:,.0f}"),
    "mfu": ("MFU", "{:.1%}"),
    "padding_share": ("padding", "{:.1%} of the positions"),
    "wait_share": ("waiting for data", "{:.1%} of the time"),
    "memory_bytes": ("peak memory of a rank", memory_text),
    "failures": ("samples that could not be read", "{:,}"),
    "cut": ("conversations that lost turns", "{:,}"),
    "empty_answers": ("answers without text", "{:,}"),
    "without_sound": ("videos without a sound track", "{:,}"),
}


def card_text(card: Mapping[str, Any]) -> str:
    """The page of a card."""
    parts = {
        "Figures": _table(_figures(card["figures"])),
        "Scores": _table(_scores(card)),
        "Data": _table(_data(card["data"] or {})),
        "First losses": _losses(card["first_losses"]),
        "Environment": _table((name, str(value)) for name, value in card["environment"].items() if value is not None),
        "Settings": f"```yaml\n{yaml.safe_dump(_plain(card['settings']), sort_keys=False, allow_unicode=True)}```",
    }
    sections = [f"## {title}\n\n{text}" for title, text in parts.items() if text]
    head = f"# {card['name']}\n\n{card['state']}; ChatBridge {revision_text(card['code'])}"
    return "\n\n".join([head, *sections]) + "\n"


def _figures(figures: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, (words, form) in FIGURES.items():
        if figures.get(name) is not None:
            yield words, form.format(figures[name]) if isinstance(form, str) else form(figures[name])


def _scores(card: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield from ((name, f"{value:.4f}") for name, value in card["scores"].items())
    if best := card["best"]:
        yield f"best {best['metric']}", f"{best['value']:.4f} after step {best['step']}"


def _data(data: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, size in data.get("sizes", {}).items():
        held = data["held_out"].get(name)
        yield name, f"{size:,} samples" + (f", {held:,} more held out" if held else "")
    if "sha256" in data:
        yield "order", data["sha256"]


def _losses(first: Mapping[str, Any]) -> str:
    if not first["losses"]:
        return ""
    return f"{', '.join(f'{loss:.4f}' for loss in first['losses'])}\n\nsha256 {first['sha256']}"


def _table(rows: Iterator[tuple[str, str]]) -> str:
    lines = [f"| {name} | {value} |" for name, value in rows]
    return "\n".join(["| | |", "|---|---|", *lines]) if lines else ""


def _plain(value: Any) -> Any:
    """Settings without the subclasses of text that mark references to the environment."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, str) else value
