"""Generation settings, shared by the decode loop, the tasks and the serving code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from numbers import Integral, Real
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from chatbridge.common.errors import nearest
from chatbridge.config.constraints import Range

# Ranges shared by GenerateOptions and the tasks' YAML; outside of them torch and transformers fail, or memory runs out
NumBeams = Annotated[int, Range(low=1, high=64)]
Temperature = Annotated[float, Range(low=0.01, high=100)]
Penalty = Annotated[float, Range(low=0.01, high=100)]
LengthPenalty = Annotated[float, Range(low=-100, high=100)]
MOST_SEED = 2**63 - 1


@dataclass(frozen=True, kw_only=True)
class GenerateOptions:
    """Settings for the generation of an answer.

    raises   TypeError for an unknown setting or a value of the wrong type; ValueError for a value out of range
    """

    max_new_tokens: Annotated[int, Range(low=1)] = 64
    min_new_tokens: Annotated[int, Range(low=0)] = 0
    num_beams: NumBeams = 1
    sample: bool = False  # sample from the distribution; false: the most likely token (or beam)
    temperature: Temperature = 1.0  # only with sample
    top_p: Annotated[float, Range(above=0, high=1)] = 1.0  # only with sample: smallest set of tokens with this mass
    top_k: Annotated[int, Range(low=0)] = 0  # only with sample: the k most likely tokens; 0: all
    repetition_penalty: Penalty = 1.0
    length_penalty: LengthPenalty = 1.0  # only with beams; above 1 favours long answers
    # of the samples and of drawn images; None: torch's global state
    seed: Annotated[int | None, Range(low=0, high=MOST_SEED)] = None
    # most images that an answer draws, for templates that draw; None: no limit
    max_drawings: Annotated[int | None, Range(low=0)] = None

    def __new__(cls, **settings: Any) -> GenerateOptions:
        checked_names(settings)
        return super().__new__(cls)

    def __post_init__(self) -> None:
        for name, hint in _hints(type(self)).items():
            _check_setting(name, getattr(self, name), hint)
        if self.min_new_tokens > self.max_new_tokens:
            found = f"min_new_tokens is {self.min_new_tokens}, above max_new_tokens, which is {self.max_new_tokens}"
            raise ValueError(f"GenerateOptions: {found}")


@cache
def _hints(kind: type[GenerateOptions]) -> Mapping[str, Any]:
    """Setting -> its type with its range; finding them takes longer than a step of a small model."""
    return get_type_hints(kind, include_extras=True)


def checked_names(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """The same settings, checked. raises TypeError with the nearest match for an unknown one"""
    known = tuple(GenerateOptions.__dataclass_fields__)
    for name in settings:
        if name not in known:
            meant = nearest(name, known)
            advice = f"did you mean {meant}? " if meant else ""
            raise TypeError(f"GenerateOptions has no setting {name!r}; {advice}settings: {', '.join(known)}")
    return settings


def _check_setting(name: str, value: Any, hint: Any) -> None:
    markers = hint.__metadata__ if get_origin(hint) is Annotated else ()
    kind = get_args(hint)[0] if markers else hint
    words = {int: "a whole number", float: "a number", bool: "True or False"}
    if kind == int | None:
        if value is None:
            return
        kind = int
    is_number = isinstance(value, Real) and not isinstance(value, bool)  # including those of NumPy
    fits = isinstance(value, bool) if kind is bool else is_number and (kind is float or isinstance(value, Integral))
    if not fits:
        raise TypeError(f"GenerateOptions: {name} is {value!r}, expected {words[kind]}")
    if kind is not bool and value != value:
        raise ValueError(f"GenerateOptions: {name} is not a number")
    number: Any = value  # Range compares any real number
    for marker in markers:
        if isinstance(marker, Range) and (reason := marker.check(number)):
            advice = "; for greedy decoding set sample=False" if name == "temperature" else ""
            raise ValueError(f"GenerateOptions: {name} {reason}{advice}")
