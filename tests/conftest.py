"""What every test may use. Tests run on a laptop's CPU, offline, in any order."""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):  # before torch is imported: pytest-xdist already uses the cores
    os.environ.setdefault(_name, "1")
for _name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"):
    os.environ[_name] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
for _name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):  # tests may run inside somebody's torchrun
    os.environ.pop(_name, None)
os.environ.pop("PYTHONWARNINGS", None)  # for pytest alone: commands that tests start are to say nothing of their own

import gc
import signal

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's background jobs ignore Ctrl-C, which tests press
    signal.signal(signal.SIGINT, signal.default_int_handler)

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.helpers.preloaded_processes import run_ranks

if TYPE_CHECKING:
    from chatbridge.serve.engine import ChatEngine
    from tests.helpers.exported_runs import ExportedRun
    from tests.helpers.serve_parts import ChatWorld

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="module", autouse=True)
def _without_plugins() -> Iterator[None]:
    """Plugins that the tests of a file add, by configurations that name them, are forgotten after its last test."""
    yield
    roots = sys.modules.get("chatbridge.experiment.roots")  # not imported here: it takes seconds
    for registry in roots.PARTS if roots else ():
        registry.packages[:] = registry.packages[:1]


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of this checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def reference() -> Path:
    """Numbers recorded from the reference implementations, and facts about their files (tests/parity/reference)."""
    return REPOSITORY / "tests" / "parity" / "reference"


@pytest.fixture(scope="session")
def llava_files() -> Path:
    """Question files of LLaVA, whose licence (CC BY-NC) keeps them out of this repository; skipped where absent."""
    folder = REPOSITORY.parent / "shared" / "reference" / "data"
    if not folder.is_dir():
        pytest.skip("no ../shared/reference/data beside this checkout")
    return folder


@pytest.fixture(scope="session")
def shared_reference() -> Path:
    """Recorded numbers of the relatives, too large or not licensed for this repository; skipped where absent."""
    folder = REPOSITORY.parent / "shared" / "reference"
    if not folder.is_dir():
        pytest.skip("no ../shared/reference beside this checkout")
    return folder


@pytest.fixture(scope="session")
def chat_world(tmp_path_factory: pytest.TempPathFactory) -> ChatWorld:
    """Files and configuration of a chat over the miniature world, for the tests of serve and of the commands."""
    from tests.helpers.serve_parts import ChatWorld

    return ChatWorld(tmp_path_factory.mktemp("chat"))


@pytest.fixture(scope="session")
def chat_engine(chat_world: ChatWorld) -> ChatEngine:
    """The engine of that chat, built once."""
    return chat_world.engine()


@pytest.fixture(scope="session")
def exported_run(tmp_path_factory: pytest.TempPathFactory) -> ExportedRun:
    """A run and its export for vLLM, built once for the tests of the command and of the engine."""
    pytest.importorskip("peft")
    from tests.helpers.exported_runs import exported_run

    return exported_run(tmp_path_factory.mktemp("exported"))


@pytest.fixture(autouse=True)
def wide_page(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Messages stand in one line: where they break depends on the length of temporary paths, which is another on every
    machine. Tests of the page itself are marked `page`."""
    if not request.node.get_closest_marker("page"):
        monkeypatch.setattr("chatbridge.common.errors.PAGE_WIDTH", 100_000)


@pytest.fixture
def ranks() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a script in several CPU processes: ranks(path, "arg", num_processes=2) -> the finished process.

    The output holds what all ranks wrote; the test fails with it when a rank does.
    """

    def run(script: Path, *args: str, num_processes: int = 2, timeout_s: float = 300) -> subprocess.CompletedProcess:
        done = run_ranks([str(script), *args], num_processes, timeout_s=timeout_s)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done

    return run


@pytest.fixture(autouse=True)
def without_costs(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """--check does not predict operations, memory and hours, which take a second or, for 13B, ten, and measures the
    padding of few conversations. The tests of plans in tests/experiment/plan and of batching do."""
    train = sys.modules.get("chatbridge.cli.train")
    if train is None or "plan" in request.path.parent.parts:
        return
    monkeypatch.setattr(train, "cost_sections", lambda *given: "")
    monkeypatch.setattr("chatbridge.experiment.plan.check._plan_without_files", lambda *given: "")
    if "batching" not in request.path.stem:  # where the lines about padding are read, all conversations are measured
        monkeypatch.setattr("chatbridge.datasets.padding_share.NUM_MEASURED", 64)


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """`pytest -n 2`: every process gets one long piece of the tests, and takes from the others when it is through.
    Files are rarely split, so what a file's tests share is made once."""
    if getattr(config.option, "numprocesses", None) and config.option.dist == "no":
        config.option.dist = "worksteal"


def pytest_collection(session: pytest.Session) -> None:
    """Nothing that collection makes is garbage: no search for it meanwhile."""
    gc.disable()


def pytest_collection_finish(session: pytest.Session) -> None:
    """The modules and tests stay to the end. Searches for garbage pass over them, which took half a second each."""
    gc.enable()
    gc.freeze()


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Bytes do not name a test: they may differ from process to process (gzip writes the time), and pytest-xdist needs
    the same names from every worker. They are numbered, as other objects are."""
    return argname if isinstance(val, bytes) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `gpu` are skipped where there is no accelerator; torch is only asked when there are such tests."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="no GPU here"))
