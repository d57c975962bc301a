"""The decoding controls of the page: sliders, and the generation options that they stand for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from chatbridge.models.language import GenerateOptions

TOP_P = 0.9  # of a model whose configuration is greedy, once a user turns the temperature up
LONGEST = 1024  # tokens; the end of the sliders, unless the configuration has longer answers
MOST_BEAMS = 8
ANY_SEED = -1  # of the field: none is given


@dataclass(frozen=True)
class Control:
    """A slider, or a field for a number where it has no range.

    name   its argument in the API
    """

    name: str
    label: str
    info: str
    value: float | None
    low: float | None = None
    high: float | None = None
    step: float = 1


def controls_of(default: GenerateOptions, can_beam: bool = True) -> tuple[Control, ...]:
    """The controls in the order of the API, set to a configuration's options.

    can_beam  False for a model that draws within its answers
    """
    longest = max(LONGEST, default.max_new_tokens)
    top_p = default.top_p if default.sample else TOP_P
    beams = (
        (Control("beams", "Beams", "above 1: the answer comes whole, not word by word", default.num_beams, 1,
                 max(MOST_BEAMS, default.num_beams)),) if can_beam else ()
    )  # fmt: skip
    return (
        Control("temperature", "Temperature", "0: greedy", default.temperature if default.sample else 0, 0, 2, 0.05),
        Control("max_tokens", "Longest answer", "tokens", default.max_new_tokens, 1, longest),
        Control("top_p", "Top-p", "samples only: tokens that have this probability together", top_p, 0.05, 1, 0.01),
        Control("top_k", "Top-k", "samples only: the k most likely tokens; 0: all", default.top_k, 0, 200),
        Control("min_tokens", "Shortest answer", "tokens", default.min_new_tokens, 0, longest),
        *beams,
        Control("repetition_penalty", "Repetition penalty", "above 1: fewer repeated words",
                default.repetition_penalty, 0.5, 3, 0.05),
        Control("length_penalty", "Length penalty", "beams only; above 1: longer answers",
                default.length_penalty, -2, 4, 0.1),
        Control("seed", "Seed", "of samples; -1: a new one for each answer",
                ANY_SEED if default.seed is None else default.seed),
    )  # fmt: skip


def options_of(values: Mapping[str, Any], default: GenerateOptions | None = None) -> GenerateOptions:
    """Generation options of the controls' values; what has no control or no value stays as in `default`.

    A temperature of 0 is greedy, and the settings of samples then have no effect.
    raises   TypeError or ValueError for a value out of its range, which only the API can send
    """
    default = default or GenerateOptions()
    given = {name: value for name, value in values.items() if value is not None}
    seed = given.get("seed", default.seed)
    made = replace(
        default,
        max_new_tokens=_whole("max_tokens", given.get("max_tokens", default.max_new_tokens)),
        min_new_tokens=0,
        num_beams=_whole("beams", given.get("beams", default.num_beams)),
        repetition_penalty=given.get("repetition_penalty", default.repetition_penalty),
        length_penalty=given.get("length_penalty", default.length_penalty),
        seed=None if seed in (None, ANY_SEED) else _whole("seed", seed),
    )
    shortest = _whole("min_tokens", given.get("min_tokens", min(default.min_new_tokens, made.max_new_tokens)))
    if shortest > made.max_new_tokens:
        raise ValueError(f"the shortest answer ({shortest} tokens) is above the longest one ({made.max_new_tokens})")
    made = replace(made, min_new_tokens=shortest)
    temperature = given.get("temperature", default.temperature if default.sample else 0)
    if not isinstance(temperature, (int, float)) or temperature != temperature or temperature < 0:
        raise ValueError(f"temperature is {temperature!r}, expected a number from 0")
    if temperature == 0:
        return replace(made, sample=False, temperature=1.0, top_p=1.0, top_k=0)
    top_p = given.get("top_p", default.top_p if default.sample else TOP_P)
    top_k = _whole("top_k", given.get("top_k", default.top_k))
    return replace(made, sample=True, temperature=temperature, top_p=top_p, top_k=top_k)


def _whole(name: str, value: Any) -> int:
    """A slider's value as an int: browsers send 5 and 5.0. raises ValueError for a fraction"""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value % 1:
        raise ValueError(f"{name} is {value!r}, expected a whole number")
    return int(value)


__all__ = ["Control", "controls_of", "options_of"]
