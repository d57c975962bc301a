"""How far an output may be from the recorded one, as its sidecar says."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

_NUMBER = r"([\d.]+(?:e-?\d+)?)"
_OF_RMS = {
    "single": rf"<=\s*{_NUMBER}\s*\*\s*output_rms",
    "half": rf"float16 outputs\s*{_NUMBER}\s*\*",
    "log_mel": rf"fbank of a waveform\s*{_NUMBER}\s*\*",
}
_ABSOLUTE = {
    "atol": rf"atol {_NUMBER}(?:, rtol|\s*$)",
    "rtol": rf"rtol {_NUMBER}",
    "features": rf"atol {_NUMBER} for encoder",
    "most": rf"max abs <= {_NUMBER}|<= {_NUMBER} max abs",
    "mean": rf"mean abs <= {_NUMBER}",
}


@dataclass(frozen=True)
class Tolerance:
    """The allowed error of an output: relative to its root mean square, or absolute where the sidecar says so.
    Integers must be equal."""

    single: float = 1e-4  # of the root mean square: fp32
    half: float = 2e-3  # fp16 and bf16
    log_mel: float = 1e-3  # for log-mel features of waveforms, whose tiny powers amplify rounding
    atol: float | None = None  # each value may be off by atol + rtol * its size
    rtol: float = 0.0
    features: float | None = None  # instead of atol and rtol, for outputs of encoders and resamplers
    most: float | None = None  # the largest difference of an output, and the mean one
    mean: float | None = None

    @property
    def is_absolute(self) -> bool:
        return any(bound is not None for bound in (self.atol, self.most, self.mean))

    def problem(self, apart: Tensor, want: Tensor, features: bool) -> str | None:
        """What is wrong with absolute differences apart float[...] from want float[...]; None when nothing is."""
        largest, mean = float(apart.max()), float(apart.mean())
        if features and self.features is not None:
            return None if largest <= self.features else f"{largest:.2e} off, allowed {self.features:.0e}"
        if self.atol is not None and not bool((apart <= self.atol + self.rtol * want.double().abs()).all()):
            return f"{largest:.2e} off, allowed {self.atol:.0e} and {self.rtol:.0e} of each value"
        if self.most is not None and not largest <= self.most:
            return f"{largest:.2e} off, allowed {self.most:.0e}"
        if self.mean is not None and not mean <= self.mean:
            return f"{mean:.2e} off on average, allowed {self.mean:.0e}"
        return None

    @classmethod
    def of(cls, about: dict[str, Any]) -> Tolerance:
        """Return the tolerance of the sidecar: the numbers in its sentences (others: defaults), or one number for all.

        raises   ValueError when it says something else, which must not pass for the numbers above
        """
        said = about.get("suggested_tolerance", about.get("tolerance"))
        if said is None:
            return cls()
        if isinstance(said, str) and said.startswith("bitwise"):
            return cls(0.0, 0.0, 0.0)
        text = _sentences(said)
        numbers = {**_found(_OF_RMS, text), **_found(_ABSOLUTE, text)}
        if numbers:
            return cls(**numbers)
        try:
            return cls(*[float(said)] * 3)
        except (TypeError, ValueError):
            raise ValueError(
                f"its tolerance {short(said)} is neither a number (in parts of an output's root mean square) nor the "
                "usual sentence (max|got - want| <= 1e-4 * output_rms)"
            ) from None


def _sentences(said: Any) -> str:
    """The sentences that apply to us: the recommended ones; of two for a clean and an exact copy of a side effect of
    the reference, those for the clean one."""
    if not isinstance(said, Mapping):
        return str(said)
    ours = [str(text) for key, text in said.items() if str(key).startswith(("recommended", "clean"))]
    return "; ".join(ours)


def _found(patterns: Mapping[str, str], text: str) -> dict[str, float]:
    hits = {name: re.search(pattern, text) for name, pattern in patterns.items()}
    return {name: float(next(filter(None, hit.groups()))) for name, hit in hits.items() if hit}


def short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 300 else f"{text[:200]} ... {text[-90:]}"
