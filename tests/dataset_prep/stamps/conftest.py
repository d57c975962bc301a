"""The package of stamps, samples, and the files made of both, once for all tests."""

from __future__ import annotations

from pathlib import Path

import pytest
import soundfile

from chatbridge.common.seeds import stream
from dataset_prep.stamps.records import Record
from dataset_prep.stamps.write_files import write_all
from tests.helpers.mini_stamps import HEARD, SEEN_ONLY, write_stamp


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("package")
    for number, name in enumerate(HEARD):
        write_stamp(folder, f"animals/mammals/{name}", f"A {name}.", sound=number)
    for number, name in enumerate(SEEN_ONLY):
        for variant in ("", "-2")[: 1 + number % 2]:
            write_stamp(folder, f"animals/fish/{name.replace(' ', '_')}{variant}", f"A {name}.")
    write_stamp(folder, "animals/birds/rhea", "A rhea.", sound=100)
    write_stamp(folder, "animals/lizards/iguana", "An iguana.", sound=100)  # the same recording
    write_stamp(folder, "symbols/alphabets/a", "The letter a.")
    write_stamp(folder, "town/sign", "This means that one should wait here.", settings="noflip nomirror")
    return folder


@pytest.fixture(scope="session")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("samples")
    for number, name in enumerate(("bd_a", "bd_b", "bd_c", "bd_d", "tabla_x", "misc_unnamed")):
        soundfile.write(str(folder / f"{name}.flac"), 0.3 * stream(number, "sample").standard_normal(6000), 16000)
    return folder


@pytest.fixture(scope="session")
def written(package: Path, samples: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Record]:
    out = tmp_path_factory.mktemp("out")
    return out, write_all(package, samples, out)
