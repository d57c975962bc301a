import os
import shlex
import subprocess
import sys

import pytest

from chatbridge.common.errors import ConfigError, DataError, MediaError, Problem, TrainingError, nearest, run_command

WORDS = ("lr", "weight_decay", "warmup_steps", "max_steps", "micro_batch", "eva_vit", "imagebind")


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("weigth_decay", "weight_decay"),
        ("Weight-Decay", "weight_decay"),
        ("evavit", "eva_vit"),
        ("eva_vit_g", "eva_vit"),
        ("maxsteps", "max_steps"),
        ("micro", "micro_batch"),
        ("steps", None),  # two fit
        ("banana", None),
        ("", None),
    ],
)
def test_nearest(word: str, meant: str | None):
    """fails when a slip of the keyboard finds nobody, or when a guess is made where nothing is close"""
    assert nearest(word, WORDS) == meant


def test_a_word_of_a_stranger_is_not_compared(monkeypatch: pytest.MonkeyPatch):
    """fails when a name of megabytes, which anybody may send, is compared for minutes"""
    monkeypatch.setattr("chatbridge.common.errors.SequenceMatcher", None)
    assert nearest("weight_decay" * 100_000, WORDS) is None


def test_nearest_of_nothing():
    """fails when an empty list of allowed words is an error of its own"""
    assert nearest("lr", ()) is None


def test_every_problem_is_rendered_with_all_it_knows():
    """fails when a problem loses its path, place, allowed values, nearest match or hint on the way to the screen"""
    problems = [
        Problem("run.lrr", "is not a valid key", "a.yaml", ("lr", "betas"), "lr", "see the README", line=12),
        Problem("", "is not readable", "b.yaml"),
        Problem("", "nothing to do"),
    ]
    text = str(ConfigError(problems))
    for piece in (
        "3 problems",
        "run.lrr  (a.yaml, line 12)",
        "did you mean lr?",
        "allowed: lr, betas",
        "see the README",
    ):
        assert piece in text
    assert "\n  b.yaml\n" in text
    assert "\n  configuration\n" in text


@pytest.mark.page
def test_long_lists_of_names_are_wrapped_at_names():
    """fails when 80 allowed names make one line, or a name is broken in two"""
    names = tuple(f"name-with-dashes-{at}" for at in range(80))
    text = str(ConfigError([Problem("a", "is not a valid key", allowed=names)]))
    assert max(map(len, text.splitlines())) <= 120
    assert all(name in text for name in names)


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ConfigError([Problem("run.x", "is not a valid key")]), 2, "run.x"),
        (DataError("the source 'a' is empty"), 2, "the source 'a' is empty"),
        (MediaError("a.jpg is truncated"), 2, "a.jpg is truncated"),
        (TrainingError("the loss is not finite"), 1, "the loss is not finite"),
    ],
)
def test_errors_for_people_exit_without_a_traceback(error: Exception, code: int, message: str, capsys):
    """fails when a mistake of the user shows a traceback, or exits with another code"""

    def main():
        raise error

    with pytest.raises(SystemExit) as stopped:
        run_command(main)
    assert stopped.value.code == code
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("result", "code"), [(None, 0), (0, 0), (3, 3)])
def test_main_decides_the_exit_code(result: int | None, code: int):
    """fails when a command that found something wrong exits with 0"""
    with pytest.raises(SystemExit) as stopped:
        run_command(lambda: result)
    assert stopped.value.code == code


def test_a_slip_of_ours_keeps_its_traceback():
    """fails when a bug is presented as a mistake of the user"""
    with pytest.raises(ZeroDivisionError):
        run_command(lambda: 1 // 0)


def test_traceback_on_request(monkeypatch):
    """fails when a developer cannot see where a ConfigError comes from"""
    monkeypatch.setenv("CHATBRIDGE_TRACEBACK", "1")

    def main():
        raise DataError("x")

    with pytest.raises(DataError):
        run_command(main)


def test_a_configuration_speaks_once_per_machine(monkeypatch, capsys):
    """fails when eight ranks print the same problems, or when a DataError of one rank is lost or has no rank"""
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "4")
    for error, said in ((ConfigError([Problem("a", "b")]), ""), (DataError("broken"), "chatbridge (rank 3): broken\n")):

        def main(error: Exception = error):
            raise error

        with pytest.raises(SystemExit):
            run_command(main)
        assert capsys.readouterr().err == said


def test_a_reader_that_has_seen_enough_ends_a_command():
    """fails when `chatbridge ... | head` ends in a traceback"""
    code = "from chatbridge.common.errors import run_command; run_command(lambda: print('word ' * 10**6))"
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([sys.executable, "-c", code], stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize(
    ("call", "redirected", "code", "said"),
    [
        ("print('a' * 9)", "> /dev/full", 2, "chatbridge: cannot write: No space left on device; free some space"),
        ("print('\\udcff \\xb7')", "", 0, ""),  # a name that is no UTF-8, an ASCII terminal
        ("print('a')", ">&-", 0, ""),
        ("os.write(os.open('/dev/full', os.O_WRONLY), b'a')", "", 2, "cannot write: No space left"),
        (
            "(_ for _ in ()).throw(PermissionError(13, 'Permission denied', 'runs'))",
            "",
            2,
            "chatbridge: runs: Permission denied; check its permissions, or choose another location",
        ),
        ("open('/')", "", 2, "chatbridge: /: Is a directory; check the name, or choose another location"),
        ("os.write(writing, b'a')", "", 1, "BrokenPipeError"),  # of a pipe of its own
        ("print(__import__('sys').stdin.read() or 'empty')", "<&- >&-", 0, ""),
    ],
)
def test_output_that_cannot_be_written(call: str, redirected: str, code: int, said: str):
    """fails when a full disk, a missing right, a folder in place of a file, an ASCII terminal or a closed output is a
    traceback, or a broken pipe inside is hidden"""
    script = (
        "import os, signal; from chatbridge.common.errors import run_command; reading, writing = os.pipe(); "
        f"os.close(reading); run_command(lambda: {call} and None)"
    )
    command = f"{shlex.quote(sys.executable)} -c {shlex.quote(script)} {redirected}"
    env = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, shell=True, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == code and said in done.stderr and (said or not done.stderr)
    assert code == 1 or "Traceback" not in done.stderr


def test_a_lost_connection_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """fails when the ranks that remain after the death of another one end in the traceback of gloo or NCCL"""

    def main() -> int:
        raise RuntimeError("[third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [10.0.0.1]:2")

    monkeypatch.setenv("RANK", "3")
    with pytest.raises(SystemExit) as caught:
        run_command(main)
    said = capsys.readouterr().err
    assert caught.value.code == 1 and said.count("\n") == 1
    assert "(rank 3): the connection to another rank was lost" in said and "resumes" in said
