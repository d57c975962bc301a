"""Reading for a long time does not grow: the benchmark itself, which ends with 1 when it does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_memory_stays_flat(repository: Path):
    """fails when 5,000 videos opened with their sounds, or 50,000 pictures, leave 5 % more memory behind"""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(repository)}
    command = [sys.executable, str(repository / "benchmarks" / "data_memory.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    print(done.stdout)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
