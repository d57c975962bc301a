"""One recorded case: a JSON file, and mostly a safetensors file with `in.*`, `w.*` and `out.*`."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from tests.parity.tolerance import Tolerance, short

SHARED = Path(__file__).parents[3] / "shared" / "reference"  # where the media of recordings lie


@dataclass(frozen=True)
class Golden:
    """Inputs, weights by released name, outputs, and the content of the JSON file, which lies in `folder`."""

    about: dict[str, Any]
    inputs: dict[str, Tensor] = field(default_factory=dict)
    weights: dict[str, Tensor] = field(default_factory=dict)
    outputs: dict[str, Tensor] = field(default_factory=dict)
    folder: Path | None = None

    @property
    def config(self) -> dict[str, Any]:
        return self.about["config"]

    def file(self, name: str) -> Path:
        """A file that the sidecar names, `data/dog_audio.wav`: in its folder, in the one above, or in the folder of
        recordings beside this checkout.

        raises   ValueError when it is in none
        """
        folders = (*((self.folder, self.folder.parent) if self.folder is not None else ()), SHARED)
        for folder in folders:
            if (folder / name).is_file():
                return folder / name
        raise ValueError(f"{name} lies neither beside the sidecar, nor in the folder above, nor in {SHARED}")


def read_golden(sidecar: Path) -> Golden:
    """raises   ValueError when one of the two files cannot be read"""
    tensors = sidecar.with_suffix(".safetensors")
    return golden_of(read_sidecar(sidecar), _read_tensors(tensors) if tensors.exists() else {}, sidecar.parent)


def golden_of(about: dict[str, Any], tensors: dict[str, Tensor], folder: Path | None = None) -> Golden:
    prefixes = ("in.", "w.", "out.")
    groups = [{key[len(p) :]: value for key, value in tensors.items() if key.startswith(p)} for p in prefixes]
    return Golden(about, *groups, folder=folder)


def read_sidecar(path: Path) -> dict[str, Any]:
    """raises   ValueError when it is no JSON mapping"""
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path.name} cannot be read as JSON: {error}") from None
    if not isinstance(about, dict):
        raise ValueError(f"{path.name} holds no mapping, so it is not the sidecar of a case")
    return about


def _read_tensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path.name} cannot be read as safetensors: {error}") from None


class Check:
    """Collects the comparisons of one case. Every `out.*` tensor must be compared or excused."""

    def __init__(self, golden: Golden) -> None:
        self.golden = golden
        self.tolerance = Tolerance.of(golden.about) if golden.outputs else Tolerance()
        self.max_abs = self.max_rel = 0.0
        self.num_compared = 0
        self.problems: list[str] = []
        self.deviations: list[str] = []
        self._seen: set[str] = set()

    def close(self, name: str, got: Tensor, at: Any = None, log_mel: bool = False, features: bool = False) -> None:
        """Compare with `out.<name>`, or with the part of it that the index `at` picks (of both).

        features   the output of an encoder or a resampler, for which some sidecars state a tighter tolerance
        """
        self._seen.add(name)
        want = self.golden.outputs[name]
        if got.shape != want.shape:
            self._fail(f"{name}: shape {list(got.shape)}, the reference has {list(want.shape)}")
            return
        picked = (got, want) if at is None else (got[at], want[at])
        self.near(name, *picked, log_mel, features=features)

    def near(
        self, name: str, got: Tensor, want: Tensor, log_mel: bool = False, whole: Tensor | None = None,
        features: bool = False,
    ) -> None:  # fmt: skip
        """Compare tensors that are not a whole output; `whole` is the output whose root mean square counts, if the
        part's own is not meaningful (a clip that is mostly padding)."""
        self._seen.add(name)
        if got.shape != want.shape:
            self._fail(f"{name}: shape {list(got.shape)}, the reference has {list(want.shape)}")
            return
        self.num_compared += 1
        if not want.numel():
            return
        got, exact = got.detach().to("cpu"), not want.is_floating_point()
        apart = (got.double() - want.double()).abs()
        difference = float(apart.max())
        rms = float((want if whole is None else whole).double().square().mean().sqrt())
        relative = difference / rms if rms else difference
        limit = 0.0 if exact else self._limit(want, log_mel)
        if not math.isfinite(relative):  # shown as null
            difference = relative = math.inf
        self.max_abs, self.max_rel = max(self.max_abs, difference), max(self.max_rel, relative)
        if not exact and self.tolerance.is_absolute:
            if problem := self.tolerance.problem(apart, want, features):
                self._fail(f"{name}: {problem}")
        elif not relative <= limit:
            self._fail(f"{name}: {relative:.2e} of the rms off, allowed {limit:.0e}")

    def equal(self, what: str, got: Any, want: Any) -> None:
        """Compare strings, ids and other values exactly."""
        self.num_compared += 1
        if got != want:
            self.max_abs = self.max_rel = max(1.0, self.max_rel)
            self._fail(f"{what}: {short(got)}, the reference has {short(want)}")

    def rate(self, what: str, got: float, want: float, relative: float = 1e-9) -> None:
        """Compare a number computed in double precision on both sides."""
        self.num_compared += 1
        off = abs(got - want)
        part = off / abs(want) if want else off
        self.max_abs, self.max_rel = max(self.max_abs, off), max(self.max_rel, part)
        if part > relative:
            self._fail(f"{what}: {got!r}, the reference has {want!r}")

    def deviates(self, reason: str, *outputs: str) -> None:
        """Record an intended deviation; `outputs` are not compared (further) because of it."""
        self._seen |= set(outputs)
        if reason not in self.deviations:
            self.deviations.append(reason)

    def line(self, case: str) -> dict[str, Any]:
        """Return the result of this case, a line of JSON."""
        missed = sorted(set(self.golden.outputs) - self._seen)
        problems = self.problems + ([f"not compared: {', '.join(missed)}"] if missed else [])
        if not self.num_compared and not problems:
            problems = ["nothing in it could be compared"]
        line: dict[str, Any] = {
            "case": case,
            "max_abs": self.max_abs if math.isfinite(self.max_abs) else None,  # JSON has no infinity
            "max_rel": self.max_rel if math.isfinite(self.max_rel) else None,
            "ok": not problems,
            "compared": self.num_compared,
        }
        if problems:
            line["problems"] = problems[:20]
        if self.deviations:
            line["deviations"] = self.deviations
        return line

    def _limit(self, want: Tensor, log_mel: bool) -> float:
        half = self.tolerance.half if want.element_size() == 2 else 0.0
        return max(self.tolerance.single, half, self.tolerance.log_mel if log_mel else 0.0)

    def _fail(self, problem: str) -> None:
        self.problems.append(problem)


Case = Callable[[Check], None]
