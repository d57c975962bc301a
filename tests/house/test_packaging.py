"""setup.py, the lock file and the extras named in messages say the same."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import setuptools
from packaging.requirements import Requirement
from packaging.version import Version

from chatbridge import __version__
from chatbridge.common import extras
from chatbridge.common.extras import need


@pytest.fixture(scope="module")
def package(repository: Path) -> dict[str, Any]:
    """The arguments of setup.py's setup()."""
    given: dict[str, Any] = {}
    patch = pytest.MonkeyPatch()
    patch.setattr(setuptools, "setup", given.update)
    script = repository / "setup.py"
    exec(compile(script.read_text(), str(script), "exec"), {"__file__": str(script), "__name__": "setup"})
    patch.undo()
    return given


@pytest.fixture(scope="module")
def pinned(repository: Path) -> dict[str, str]:
    """Package -> version in constraints.txt."""
    lines = (repository / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def test_messages_name_extras_that_bring_the_package(package):
    """fails when "install it with: pip install -e '.[video]'" would not bring decord"""
    for module, extra in extras.EXTRAS.items():
        names = {Requirement(line).name for line in package["extras_require"][extra]}
        assert extras.DISTRIBUTIONS.get(module, module) in names, f"{module} is not in the extra {extra!r}"


def test_packages_of_another_name_bring_their_module():
    """fails when an extra installs a package that does not bring the module it is listed for"""
    from importlib import metadata

    brought = metadata.packages_distributions()  # of what is installed here
    for module, package in extras.DISTRIBUTIONS.items():
        assert module in extras.EXTRAS, f"{module} has no extra"
        if module in brought:
            assert package in brought[module] or module in brought[module], brought[module]


def test_every_direct_dependency_is_pinned(package, pinned):
    """fails when a package is installed in an untested version (bitsandbytes needs a GPU and floats)"""
    extra = [line for name, lines in package["extras_require"].items() if name != "quantized" for line in lines]
    names = {Requirement(line).name for line in package["install_requires"] + extra}
    assert names - set(pinned) == set()


def test_the_lock_satisfies_setup(package, pinned):
    """fails when constraints.txt pins what setup.py forbids, and pip finds no solution"""
    lines = package["install_requires"] + [line for lines in package["extras_require"].values() for line in lines]
    for requirement in map(Requirement, lines):
        if requirement.name in pinned:
            assert Version(pinned[requirement.name]) in requirement.specifier, str(requirement)


def test_we_run_with_what_is_pinned(pinned):
    """fails when the tests pass with other versions than the lock says they do (only in the environment of make)"""
    from importlib import metadata

    if not (Path(sys.prefix) / ".installed").exists():
        pytest.skip("not the environment that `make venv` makes")
    installed = {name: metadata.version(name) for name in pinned if _is_installed(name)}
    assert {name: version.partition("+")[0] for name, version in installed.items()} == {
        name: pinned[name] for name in installed
    }


def _is_installed(name: str) -> bool:
    from importlib import metadata

    try:
        return bool(metadata.version(name))
    except metadata.PackageNotFoundError:
        return False


@pytest.mark.parametrize(
    ("system", "machine", "is_asked_for"),
    [
        ("linux", "x86_64", True),
        ("win32", "AMD64", True),
        ("darwin", "arm64", False),
        ("darwin", "x86_64", False),
        ("linux", "aarch64", False),
    ],
)
def test_decord_is_only_asked_for_where_it_exists(package, system: str, machine: str, is_asked_for: bool):
    """fails when a Mac cannot install ChatBridge because decord has no wheel for it; PyAV reads videos there"""
    wanted = [Requirement(line) for line in package["extras_require"]["video"]]
    environment = {"sys_platform": system, "platform_machine": machine}
    names = {one.name for one in wanted if one.marker is None or one.marker.evaluate(environment)}
    assert names == ({"av", "decord"} if is_asked_for else {"av"})


def test_need_names_the_extra(monkeypatch):
    """fails when a missing optional package is not explained, or a slip inside an installed one is hidden"""
    assert need("json", "nothing").__name__ == "json"
    monkeypatch.setitem(extras.EXTRAS, "chatbridge_no_such", "video")
    with pytest.raises(ModuleNotFoundError, match=r"needed for reading videos; .*'\.\[video\]'"):
        need("chatbridge_no_such.inner", "reading videos")


def test_the_console_script_speaks_to_people(repository: Path, package):
    """fails when `chatbridge` points to a function that is not there, or shows a traceback for a missing file"""
    (script,) = package["entry_points"]["console_scripts"]
    module, function = script.removeprefix("chatbridge = ").split(":")
    arguments = ["chatbridge", "evaluate", "--cfg-path", "no.yaml"]
    code = f"import sys; sys.argv = {arguments}; from {module} import {function}; {function}()"
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert "there is no file no.yaml" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_version_is_read_from_the_package(package):
    """fails when setup.py and chatbridge.__version__ differ"""
    assert package["version"] == __version__


def test_make_lists_its_targets(repository: Path):
    """fails when `make` without a target does anything but help, or a target of the README is missing"""
    if shutil.which("make") is None:
        pytest.skip("no make here")
    done = subprocess.run(["make", "--no-print-directory"], cwd=repository, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    targets = [
        "help",
        "venv",
        "quickstart",
        "real",
        "demo",
        "test",
        "slow",
        "benchmarks",
        "docs",
        "lint",
        "format",
        "clean",
    ]
    assert re.findall(r"^  make (\w+)", done.stdout, re.MULTILINE) == targets


@pytest.fixture
def make_venv(repository: Path, tmp_path: Path) -> Callable[[str, str], subprocess.CompletedProcess[str]]:
    """`make venv` in a copy with shell scripts for interpreters: (PYTHON, .venv/bin/python) -> the finished process."""
    if shutil.which("make") is None:
        pytest.skip("no make here")

    def run(given: str, inside: str) -> subprocess.CompletedProcess[str]:
        shutil.copy(repository / "Makefile", tmp_path)
        for name in ("setup.py", "constraints.txt"):
            (tmp_path / name).touch()
        (tmp_path / ".venv/bin").mkdir(parents=True, exist_ok=True)
        for path, script in ((tmp_path / "python", given), (tmp_path / ".venv/bin/python", inside)):
            path.write_text(f"#!/bin/sh\n{script}\n")
            path.chmod(0o755)
        env = {
            name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))
        }  # of `make test`
        command = ["make", "venv", "PYTHON=./python"]
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)

    return run


def test_an_environment_that_was_half_made_is_finished(make_venv, tmp_path: Path):
    """fails when make is stuck with a .venv whose making was interrupted before pip was in it"""
    inside = shlex.quote(str(tmp_path / ".venv/bin/python"))
    done = make_venv(f"echo $* >> asked\n[ \"$2\" != venv ] || echo '#!/bin/sh' > {inside}", "exit 1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "-m venv .venv" in (tmp_path / "asked").read_text()


PIP = 'echo "Collecting torch"; echo "WARNING: Running pip as root" >&2'


def test_an_installation_that_works_says_one_line(make_venv, tmp_path: Path):
    """fails when warnings of pip that call for nothing stand between a newcomer and the quickstart, or are lost"""
    done = make_venv("exit 0", PIP)
    assert done.returncode == 0 and not done.stderr
    (line,) = done.stdout.splitlines()
    assert line.startswith("installing into .venv")
    assert "WARNING" in (tmp_path / ".venv/install.log").read_text() and (tmp_path / ".venv/.installed").exists()


def test_an_installation_that_fails_shows_why(make_venv, tmp_path: Path):
    """fails when what pip said is hidden although the installation failed, or make takes it for done"""
    done = make_venv("exit 0", f'{PIP}\n[ "$3" != install ] || {{ echo ERROR: no space >&2; exit 3; }}')
    assert done.returncode == 2  # make's own code
    assert "ERROR: no space" in done.stderr and "WARNING" in done.stderr
    assert "pip ended with 3" in done.stderr and "install.log" in done.stderr
    assert not (tmp_path / ".venv/.installed").exists()
