"""Recordings over time (motion) as a PNG of lines."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np

QUIET, GROUND = "#667384", "#ffffff"
COLORS = ("#0d8f86", "#d1713b", "#5b6fd6")  # of the axes x, y, z


def series_png(values: np.ndarray, names: Sequence[str]) -> bytes:
    """A PNG with a row of lines for each sensor, and a line for each of its axes.

    values   float[channels, steps], the input of the encoder
    names    of the channels, the sensor before the axis: "accelerometer x"
    """
    from matplotlib.figure import Figure

    sensors = list(dict.fromkeys(name.rpartition(" ")[0] for name in names))
    figure = Figure(figsize=(8.4, 1.7 * len(sensors)), dpi=110, facecolor=GROUND, layout="constrained")
    rows = figure.subplots(len(sensors), 1, sharex=True, squeeze=False)[:, 0]
    for axes, sensor in zip(rows, sensors, strict=True):
        own = [number for number, name in enumerate(names) if name.startswith(sensor)]
        for number, color in zip(own, COLORS, strict=False):
            label = names[number].rpartition(" ")[2]
            axes.plot(values[number], color=color, linewidth=0.8, label=label)
        axes.set_title(sensor, color=QUIET, fontsize=8, loc="left")
        axes.tick_params(colors=QUIET, labelsize=7, length=2)
        axes.legend(fontsize=7, frameon=False, ncols=3, loc="upper right")
    rows[-1].set_xlabel("step", color=QUIET, fontsize=8)
    out = io.BytesIO()
    figure.savefig(out, format="png")
    return out.getvalue()
