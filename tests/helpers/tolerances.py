"""How far numbers may differ that are the same but for rounding. Stated here once, never measured on one machine.

Processors, numbers of threads and versions of a library add up in another order. What differs only by that stays far
inside these bounds everywhere; a wrong shift, mask, mean or setting is far outside of them.
"""

from __future__ import annotations

FP32 = 1e-4  # relative: as the goldens state it for fp32, whose noise against float64 is about 2e-6
LOG_MEL = 1e-2  # of features in log-mel units over 2 * std: a logarithm of tiny powers; another place is off by tenths
RESIZED = 1e-4  # of normalised pixels: a grey level is 0.015
FIRST_LOSSES = 1e-3  # relative, over 50 steps: decoders of images and video may differ by a grey level
