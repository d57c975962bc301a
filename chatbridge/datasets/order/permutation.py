"""Random order as arithmetic: keyed hashes and permutations that keep nothing in memory.

A shuffled list of N samples takes N numbers of memory; a Feistel network with a key takes none and gives any position
directly. Keys come from `common.seeds.number`. Values depend only on the arguments, never on the numpy version, the
platform or earlier calls.

Sources of the ideas: splitmix64's finaliser (Steele, Lea and Flood, "Fast splittable pseudorandom number generators",
2014); cycle walking (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]

ROUNDS = 6
SMALLEST_HALF_BITS = 2  # a network over fewer than 16 positions has too few permutations


def mix(x: Words) -> Words:
    """Hash every element of an array, uint64[n] -> uint64[n] (a bijection of 64-bit words)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def keyed(key: int, counters: NDArray) -> Words:
    """One pseudorandom 64-bit word per counter, int[n] -> uint64[n]."""
    step = np.uint64(0x9E3779B97F4A7C15)
    return mix(mix(np.asarray(counters).astype(np.uint64) * step + step) ^ np.uint64(key))


def uniform(key: int, counters: NDArray) -> NDArray[np.float64]:
    """One number in [0, 1) per counter, 53 bits, int[n] -> float64[n]."""
    return (keyed(key, counters) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permute(positions: NDArray, size: int, keys: NDArray | int) -> NDArray[np.int64]:
    """The image of each position in 0..size-1 under the permutation of its key.

    positions  int[n], all in [0, size)
    keys       uint64[n] or one key for all
    returns    int64[n]; for a fixed key, different positions give different values
    Cost: less than 4 network evaluations per position on average once size > 16, no memory per sample.
    """
    half = max(SMALLEST_HALF_BITS, ((size - 1).bit_length() + 1) // 2)
    values = np.array(positions, dtype=np.uint64, ndmin=1)
    keys = np.broadcast_to(np.asarray(keys, dtype=np.uint64), values.shape)
    walking = np.arange(values.size)
    while walking.size:  # outside the range: follow the cycle until it is back inside
        values[walking] = _network(values[walking], half, keys[walking])
        walking = walking[values[walking] >= size]
    return values.astype(np.int64)


def _network(values: Words, half: int, keys: Words) -> Words:
    """A Feistel network over 2 * half bits."""
    bits, mask = np.uint64(half), np.uint64((1 << half) - 1)
    left, right = values >> bits, values & mask
    for number in range(ROUNDS):
        noise = mix(keys + np.uint64(number) + (right << np.uint64(8)))
        left, right = right, left ^ (noise >> np.uint64(64 - half))
    return (left << bits) | right
