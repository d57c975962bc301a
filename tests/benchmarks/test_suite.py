"""All benchmarks in one go: one failure does not end the others, and the page keeps what was not run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import suite
from benchmarks.suite import ALL, BEGIN, END, LEFT_OUT, Benchmark, Outcome, main, run, spreads, write_section

ROOT = Path(__file__).parents[2]
NOT_A_BENCHMARK = {"suite", "measure", "gpu_models", "server_client", "startup_sides", "step_reference", "step_shapes",
                   "step_sides"}  # fmt: skip


def test_every_script_is_run_or_named_with_a_reason():
    """fails when a script of the folder is neither run nor left out with a reason"""
    scripts = {path.stem for path in (ROOT / "benchmarks").glob("*.py")} - NOT_A_BENCHMARK
    assert scripts == {one.name for one in ALL} | set(LEFT_OUT)


def outcome(name: str, table: str = "", reason: str = "") -> Outcome:
    return Outcome(Benchmark(name, f"what {name} measures"), table, reason, 3.0, [{"a": 1}] * 2)


def test_the_page_keeps_its_text_and_other_tables(tmp_path: Path):
    """fails when text around the marks changes, a table that was not run is lost, or a failure is not told"""
    page = tmp_path / "RESULTS.md"
    page.write_text("# Measured\n\nby hand\n")
    write_section(page, [outcome("step", "ratio 2.0"), outcome("startup", "0.1 s")], "one machine")
    first = page.read_text()
    assert first.startswith("# Measured\n\nby hand\n") and first.index("### startup") < first.index("### step")
    assert "What step measures. one machine; 3 s, 2 repeats, the last one below.\n\n```text\nratio 2.0\n```" in first
    page.write_text(f"{first}\nafter\n")
    write_section(page, [outcome("step", reason="ended with 1: no memory")], "another")
    second = page.read_text()
    assert "0.1 s" in second and "ratio 2.0" not in second and "No figures: ended with 1: no memory." in second
    assert second.endswith("\nafter\n") and second.count(BEGIN) == second.count(END) == 1
    write_section(page, [], "nothing")
    assert page.read_text() == second
    page.write_text(second.replace(END, ""))
    with pytest.raises(ValueError, match="once, in this order"):
        write_section(page, [], "nothing")


def test_figures_of_repeats_have_a_spread():
    """fails when a figure of a list or a mapping has no median, or a truth value counts as a number"""
    found = spreads([{"a": [1, {"b": 2.0}], "c": True}, {"a": [3, {"b": 8.0}]}, {"a": [2]}])
    assert found == {"a.0": {"median": 2, "min": 1, "max": 3}, "a.1.b": {"median": 5, "min": 2, "max": 8}}


def test_a_failing_benchmark_does_not_end_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                     capsys: pytest.CaptureFixture[str]):  # fmt: skip
    """fails when an error, a hanging process or a missing file ends the run, or is not in the exit code"""
    folder = tmp_path / "benchmarks"
    folder.mkdir()
    (folder / "fine.py").write_text("import json, sys\nprint('a table')\njson.dump({'x': 2}, open(sys.argv[2], 'w'))\n")
    (folder / "wrong.py").write_text("raise SystemExit('no memory')\n")
    (folder / "hangs.py").write_text("import time\ntime.sleep(600)\n")
    own = (Benchmark("wrong", "w"), Benchmark("hangs", "h", limit_s=1), Benchmark("absent", "a", needs=folder / "no"),
           Benchmark("fine", "f"))  # fmt: skip
    monkeypatch.setattr(suite, "ROOT", tmp_path)
    monkeypatch.setattr(suite, "ALL", own)
    page = tmp_path / "RESULTS.md"
    page.write_text("# Measured\n")
    assert main(["--out", str(tmp_path / "out"), "--results", str(page), "--repeats", "2"]) == 1
    shown = capsys.readouterr().out
    assert "wrong: ended with 1: no memory" in shown and "hangs: took longer than its limit of 1 s" in shown
    assert "absent: left out" in shown and "2 of 4 ran" in shown
    assert "a table" in page.read_text()
    raw = json.loads((tmp_path / "out/fine.json").read_text())
    assert raw["spread"] == {"x": {"median": 2, "min": 2, "max": 2}} and len(raw["repeats"]) == 2


def test_a_benchmark_ends_with_the_suite(tmp_path: Path):
    """fails when a suite that is terminated leaves a benchmark running"""
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks/hangs.py").write_text(
        "import os, pathlib, time\npathlib.Path('started').write_text(str(os.getpid()))\ntime.sleep(600)\n"
    )
    code = (
        "import sys; from pathlib import Path; from benchmarks import suite\n"
        f"suite.ROOT = Path({str(tmp_path)!r}); suite.ALL = (suite.Benchmark('hangs', 'h'),)\n"
        "suite.command(['--quick', '--out', 'out'])"
    )
    child = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)})
    started = tmp_path / "started"
    while not (started.exists() and started.read_text()):
        assert child.poll() is None
        time.sleep(0.02)
    child.terminate()
    assert child.wait() == 143
    with pytest.raises(ProcessLookupError):
        os.kill(int(started.read_text()), 0)


@pytest.mark.slow
def test_benchmarks_run_in_their_smallest_size(tmp_path: Path):
    """fails when a script no longer runs on the code of today"""
    outcomes = [
        run(one, tmp_path, is_quick=True, repeats=1) for one in ALL if one.name in ("step", "padding", "generate")
    ]
    assert not [(one.benchmark.name, one.reason) for one in outcomes if one.reason]
