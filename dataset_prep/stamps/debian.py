"""Folders of two Debian packages with pictures and sounds: where they are installed, or unpacked without root.

The stamps are under the GPL-2, so they are used where they are; neither the repository nor a wheel has a copy of them.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from chatbridge.common.errors import DataError
from chatbridge.datasets.remote_shards.download import fetch
from chatbridge.datasets.remote_shards.open_stream import FetchError

POOL = "https://deb.debian.org/debian"
APT_TIMEOUT_S = 900
AR, MEMBER = b"!<arch>\n", 60  # first bytes of a .deb; bytes of the head of each member


@dataclass(frozen=True)
class DebianPackage:
    """A package of Debian 12.

    folder     of its files, below the root of the system
    variable   of the environment, which names another folder
    """

    name: str
    file: str
    size: int
    sha256: str
    folder: str
    variable: str
    licence: str

    @property
    def address(self) -> str:
        return f"https://packages.debian.org/bookworm/{self.name}"


STAMPS = DebianPackage(
    name="tuxpaint-stamps-default",
    file="pool/main/t/tuxpaint-stamps/tuxpaint-stamps-default_2022.06.04-1_all.deb",
    size=160_880_444,
    sha256="6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34",
    folder="usr/share/tuxpaint/stamps",
    variable="TUXPAINT_STAMPS",
    licence="GPL-2",
)
SAMPLES = DebianPackage(
    name="sonic-pi-samples",
    file="pool/main/s/sonic-pi/sonic-pi-samples_3.2.2~repack-8_all.deb",
    size=21_882_696,
    sha256="25f2312d2fae005e6ad0f4726b8ed3084e776006a5a132083506e960224ac79d",
    folder="usr/share/sonic-pi/samples",
    variable="SONIC_PI_SAMPLES",
    licence="CC0",
)


def package_folder(package: DebianPackage, unpacked: Path) -> Path | None:
    """Where the files of a package are: in the folder that its variable names, installed, or below `unpacked`.

    returns  None when they are in none of them
    raises   DataError when the variable names no folder
    """
    if named := os.environ.get(package.variable):
        if not Path(named).is_dir():
            raise DataError(f"{package.variable}={named}: there is no such folder; name the folder of {package.name}")
        return Path(named)
    places = (Path("/") / package.folder, unpacked / package.name / package.folder)
    return next((place for place in places if place.is_dir()), None)


def bring_package(package: DebianPackage, unpacked: Path) -> Path:
    """The folder of a package; if it is nowhere, the .deb is downloaded and unpacked below `unpacked`.

    raises   DataError with the address when it cannot be had
    """
    found = package_folder(package, unpacked)
    if found is not None:
        return found
    name = package.file.rpartition("/")[2]
    deb = unpacked / name
    unpacked.mkdir(parents=True, exist_ok=True)
    if not deb.is_file():
        print(f"{package.name}: {package.licence}; the package is downloaded, {package.size / 1e6:.0f} MB", flush=True)
        _download(package, deb)
    target = unpacked / package.name
    part = unpacked / f"{package.name}.part"
    shutil.rmtree(part, ignore_errors=True)
    unpack_deb(deb, part, package.folder)
    if not (part / package.folder).is_dir():
        raise DataError(f"{deb}: has no {package.folder}; is it the package {package.name}? See {package.address}")
    shutil.rmtree(target, ignore_errors=True)
    part.rename(target)
    deb.unlink()
    return target / package.folder


def unpack_deb(deb: Path, target: Path, folder: str) -> None:
    """Unpack what is below `folder` of a .deb into `target`; nothing is run, and nothing leaves `target`.

    raises   DataError when the file is no .deb, or damaged
    """
    try:
        with deb.open("rb") as file, tarfile.open(fileobj=_data_of(file, deb), mode="r:*") as archive:
            for member in archive:
                if member.name.removeprefix("./").startswith(f"{folder}/"):
                    archive.extract(member, target, filter="data")
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        raise DataError(f"{deb}: cannot be unpacked ({error}); remove it and run the command again") from None


def _data_of(file: IO[bytes], deb: Path) -> IO[bytes]:
    """The archive data.tar.* in a .deb, which is an ar archive of three members."""
    if file.read(len(AR)) != AR:
        raise ValueError(f"{deb.name} is no Debian package")
    while head := file.read(MEMBER):
        name, size = head[:16].decode("ascii", "replace").strip(), int(head[48:58])
        if name.startswith("data.tar"):
            return io.BytesIO(file.read(size))
        file.seek(size + size % 2, io.SEEK_CUR)
    raise ValueError(f"{deb.name} has no data.tar")


def _download(package: DebianPackage, deb: Path) -> None:
    part = deb.with_name(f"{deb.name}.part")
    try:
        fetch(f"{POOL}/{package.file}", part, package.size, package.sha256, tries=2)
        part.rename(deb)
        return
    except FetchError as error:
        reason = str(error)
    if shutil.which("apt-get") and _by_apt(package, deb):
        return
    raise DataError(
        f"{package.name} cannot be downloaded ({reason}). On Debian or Ubuntu: sudo apt-get install {package.name}. "
        f"Elsewhere take the .deb of {package.address}, put it into {deb.parent} as {deb.name}, and run the command "
        f"again; or set {package.variable} to a folder with its files"
    )


def _by_apt(package: DebianPackage, deb: Path) -> bool:
    """Whether apt-get, which may know a mirror, brought a .deb of the package."""
    folder = deb.parent / "apt"
    folder.mkdir(exist_ok=True)
    try:
        subprocess.run(
            ["apt-get", "download", package.name], cwd=folder, capture_output=True, timeout=APT_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return False
    found = next(iter(sorted(folder.glob(f"{package.name}_*.deb"))), None)
    if found is not None:
        found.rename(deb)
    return found is not None
