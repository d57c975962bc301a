"""Compare prepared sets with their manifests: every file must exist and have the same bytes.

    python -m dataset_prep.verify data/cc3m data/webvid

Reads every byte. The exit code is 1 if something differs. `python -m chatbridge data check` also decodes the files.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from chatbridge.common.errors import DataError
from chatbridge.common.file_names import is_hidden
from dataset_prep.common import arguments
from dataset_prep.common.manifest import NAME, Manifest


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m dataset_prep.verify",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    explanation = f"a prepared set with its {NAME}, or a folder of lists with a manifest each"
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER", help=explanation)
    return max(verify(folder) for folder in parser.parse_args(given).folders)


def verify(folder: Path) -> int:
    """Print the differences; returns the exit code."""
    names = sorted(path.name for path in (*folder.glob(NAME), *folder.glob(f"*.{NAME}")) if not is_hidden(path.name))
    manifests = [manifest for name in names if (manifest := Manifest.read(folder, name)) is not None]
    if not manifests:
        below = [str(path.parent) for path in sorted(folder.glob(f"*/{NAME}"))]
        hint = f"there is one in {', '.join(below)}" if below else "prepare it with dataset_prep first"
        raise DataError(f"{folder}: has no {NAME}; {hint}")
    return max(_compare(folder, manifest) for manifest in manifests)


def _compare(folder: Path, manifest: Manifest) -> int:
    faults = manifest.faults(folder) if manifest.files else ["the set is empty"]
    state = "differs:" if faults else f"{manifest.samples} samples in {len(manifest.files)} files, unchanged"
    print("\n  ".join([f"{folder}: {manifest.name}: {state}", *faults]))
    return int(bool(faults))


if __name__ == "__main__":
    arguments.run(main)
