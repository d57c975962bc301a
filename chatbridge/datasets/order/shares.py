"""From weights to shares of a run: sizes as weights, temperature, and upper limits per source."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from chatbridge.common.errors import DataError

TINY = 1e-9  # a share of this size is a rounding error


def sized_weight(weight: float | str, cap: int | None, size: int) -> float:
    """A weight as a number; "size" is the number of samples, at most `cap` (T5, Raffel et al. 2020)."""
    return float(min(size, cap or size)) if weight == "size" else float(weight)


def tempered(weights: Mapping[str, float], temperature: float) -> dict[str, float]:
    """Each weight ** (1 / temperature): above 1, small sources are drawn more often than by their weight.

    A weight of 0 stays 0, and a temperature of 1 changes nothing, not even by rounding. Source: T5's
    "temperature-scaled mixing" (Raffel et al. 2020).
    """
    if temperature == 1:
        return dict(weights)
    largest = max(weights.values(), default=0.0) or 1.0
    return {name: (weight / largest) ** (1 / temperature) for name, weight in weights.items()}


def filled(weights: Mapping[str, float], most: Mapping[str, float]) -> dict[str, float]:
    """Shares in proportion to the weights, none above its limit; their sum is 1.

    most     source -> largest share; sources that are not in it have no limit
    What exceeds the limit of a source goes to the others in proportion to their weights, until no source is above its
    limit.
    raises   DataError when all limits together leave part of the run without a source
    """
    shares = dict.fromkeys(weights, 0.0)
    free = {name: weight for name, weight in weights.items() if weight > 0}
    room = 1.0
    while free:
        total = math.fsum(free.values())
        above = [name for name, weight in free.items() if weight / total * room > most.get(name, math.inf)]
        if not above:
            return shares | {name: weight / total * room for name, weight in free.items()}
        for name in above:
            del free[name]
            shares[name] = most[name]
        room = 1.0 - math.fsum(shares.values())
    if room > TINY:
        raise DataError(f"the limits of all sources add up to {1 - room:.1%} of the run")
    return shares


def nearest_multiples(number: int, divisor: int) -> Sequence[int]:
    """The multiples of `divisor` around a number that is not one: below (unless it is 0) and above."""
    below = number // divisor * divisor
    return [multiple for multiple in (below, below + divisor) if multiple]
