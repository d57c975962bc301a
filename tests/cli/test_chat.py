"""`chatbridge chat`: one question, a conversation, a batch, and every way to get them wrong."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from chatbridge import __main__ as commands
from chatbridge.cli.chat_loop import ChatLoop
from chatbridge.cli.chat_terminal import AnswerPrinter, for_terminal
from chatbridge.common.errors import ConfigError, MediaError
from chatbridge.experiment.open import open_chat
from chatbridge.models.language import GenerateOptions
from chatbridge.models.language.answer_options import AnswerOptions
from chatbridge.serve.dialogue import Dialogue
from chatbridge.serve.engine import ChatEngine
from tests.helpers.serve_parts import ChatWorld

ROOT = Path(__file__).parents[2]
SLOW_MODEL = """
import sys, time
from chatbridge.__main__ import main
from chatbridge.models.language.causal_lm import CausalLM
forward = CausalLM.forward
def slow_forward(*args, **kwargs):
    print("(token)", end="", file=sys.stderr, flush=True)
    time.sleep(0.1)
    return forward(*args, **kwargs)
CausalLM.forward = slow_forward
sys.exit(main(sys.argv[1:]))
"""  # an answer still runs when Ctrl-C comes, however fast the machine is


@pytest.fixture
def world(chat_world: ChatWorld) -> ChatWorld:
    return chat_world


@pytest.fixture
def engine(chat_engine: ChatEngine) -> ChatEngine:
    return chat_engine


@pytest.fixture
def chat(world: ChatWorld, engine: ChatEngine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    """Runs the command over the shared engine, 8 tokens an answer: arguments and stdin -> exit code, stdout, stderr."""
    monkeypatch.setattr(ChatEngine, "from_settings", classmethod(lambda cls, config, gpu_id=None: engine))

    def run(*arguments: str, stdin: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode("latin-1")), encoding="utf-8"))
        start = ["chat", "--cfg-path", str(world.config), "--max-new-tokens", "8"]
        code = commands.main([*start, *map(str, arguments)])
        return code, *capsys.readouterr()

    return run


def test_one_question_prints_only_its_answer(world, engine, capsys):
    """fails when the command builds another model, uses other settings, or mixes messages into stdout"""
    image = world.files["image"]
    config = world.write("answers.yaml", evaluation={"tasks": {}, "generation": {"max_new_tokens": 8}})
    code = commands.main(["chat", "--cfg-path", str(config), "--image", str(image), "--prompt", "what color ?"])
    out, err = capsys.readouterr()
    assert code == 0 and out == engine.reply([image, "what color ?"], max_new_tokens=8) + "\n"
    assert "language: " in err and "reached its longest length, max_new_tokens 8" in err
    assert open_chat(world.config).config.evaluation.generation == engine.generation == AnswerOptions()


def test_files_keep_the_order_of_the_command_line(chat, world):
    """fails when files are sorted by modality, or a flag reads a file as something else"""
    files = world.files
    given = ["--audio", files["video"], "--image", files["image"], "--media", f"video={files['silent_video']}"]
    code, out, _ = chat(*given, "--attach", files["video"], "--prompt", "-", "--json", stdin="what\ncolor ?")
    record = json.loads(out)
    assert code == 0 and record["prompt"] == "what\ncolor ?"
    assert [(item["modality"], Path(item["file"]).name) for item in record["media"]] == [
        ("audio", "clip.mp4"),
        ("image", "photo.jpg"),
        ("video", "silent.mp4"),
        ("video", "clip.mp4"),
        ("audio", "clip.mp4"),
    ]
    code, out, _ = chat("--image", files["image"], "--prompt", "", "--json")
    assert json.loads(out)["prompt"] == "Describe the image."


def test_a_script_holds_a_conversation(chat, world, engine, monkeypatch):
    """fails when lines of a pipe are not turns of one conversation, commands print into the answers, or a wrong command
    goes unnoticed"""
    image = world.files["image"]
    code, out, err = chat(
        stdin=f"/image {image}\nwhat color ?\nand now ?\n/undo\nand now ?\n\n/settings\n/quit\nnever\n"
    )
    first = engine.reply([image, "what color ?"], max_new_tokens=8)
    answers = out.splitlines()
    assert code == 0 and answers[0] == first and answers[1] == answers[2] and len(answers) == 3
    assert "attached: image photo.jpg" in err and "removed: 'and now ?'" in err and "accepts image, video, audio" in err
    code, out, err = chat("--image", image, stdin="/imgae x\n/video gone.mp4\nwhat color ?\n//help\n/dev/null ?\n")
    assert code == 1 and out.splitlines()[0] == first and len(out.splitlines()) == 3
    monkeypatch.setattr(engine, "attach", lambda *given: signal.raise_signal(signal.SIGINT))
    assert chat(stdin=f"/image {image}\nwhat ?\n")[1].strip() and code == 1
    assert "did you mean /image?" in err and "not attached: there is no file gone.mp4" in err


def test_settings_change_within_a_conversation(chat):
    """fails when /set is ignored, accepts what has no effect, or --temperature and --seed do not sample repeatably"""
    code, _, err = chat(stdin="/set max_new_tokens=3\nwhat ?\n/set top_p=0.5\n/set colour\n/retry\n")
    assert code == 1 and err.count("max_new_tokens 3, and was ended") == 2
    assert "top_p has no effect without sampling" in err and "expected KEY=VALUE, got 'colour'" in err
    sampled = [chat("--temperature", "5", "--seed", seed, "--prompt", "what ?")[1] for seed in ("1", "1", "2")]
    assert sampled[0] == sampled[1] != sampled[2]


def test_a_batch_answers_each_line_by_itself(chat, world, engine):
    """fails when a question of a batch sees the one before it, or a line has no record"""
    image = world.files["image"]
    code, out, _ = chat("--batch", "--image", image, stdin="what color ?\n\n/quit\nwhat color ?\n")
    records = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and [one["prompt"] for one in records] == ["what color ?", "/quit", "what color ?"]
    assert json.loads(chat("--batch", stdin="\xff ?")[1])["prompt"] == "\ufffd ?"  # not UTF-8
    assert records[0] == records[2] and records[0]["answer"] == engine.reply([image, "what color ?"], max_new_tokens=8)
    with pytest.raises(MediaError, match="--batch: stdin has no line"):
        chat("--batch")


def test_mistakes_are_reported_before_the_model_is_built(world, monkeypatch, capsys):
    """fails when a wrong argument is found only after the weights are read, or only the first one is reported"""
    monkeypatch.setattr(ChatEngine, "from_settings", lambda *given: pytest.fail("the model is built"))
    start = ["chat", "--cfg-path", str(world.config)]
    with pytest.raises(ConfigError) as caught:
        commands.main([*start, "--image", "gone.jpg", "--media", "smell=rose", "--attach", "ftp://a/b", "--top-k", "5"])
    paths = [problem.path for problem in caught.value.problems]
    assert paths == ["--image", "--media smell=...", "--attach", "--top-k"]
    with pytest.raises(ConfigError, match=r"run\.devise[\s\S]*there is no file \S*gone\.jpg"):
        commands.main([*start, "--options", "run.devise=cpu", "--image", "gone.jpg"])
    with pytest.raises(ConfigError, match="--prompt[\\s\\S]*is empty"):
        commands.main([*start, "--prompt", " "])
    for wrong in (["--media", "x.jpg"], ["--batch", "--prompt", "x"], ["--prompt", "-", "--interactive"]):
        with pytest.raises(SystemExit, match="2"):
            commands.main([*start, *wrong])
    with pytest.raises(SystemExit, match="2"):
        commands.main(["chat", "--prompt", "x"])
    assert "give --cfg-path, or --checkpoint" in capsys.readouterr().err
    assert commands.main([*start, "--check"]) == 0 and "takes image, video, audio" in capsys.readouterr().out


def test_problems_of_a_question_set_the_exit_code(chat, world):
    """fails when a question that cannot be answered looks like success, or an unreadable file is left out silently"""
    with pytest.raises(MediaError, match=r"(?s)half\.jpg: .*notes\.txt: "):
        chat("--image", world.files["truncated"], "--audio", world.files["words"], "--prompt", "what ?")
    code, out, err = chat("--prompt", "color " * 3000)
    assert code == 1 and out == "" and "cannot answer: prompt needs" in err
    with pytest.raises(MediaError, match="stdin has no question"):
        chat(stdin="\n/help\n")


def test_a_conversation_is_saved_and_continued(chat, world, engine, tmp_path):
    """fails when a saved conversation goes on differently from one without a break, or --save loses a turn"""
    image, file = world.files["image"], tmp_path / "talk.jsonl"
    whole = chat(stdin=f"/image {image}\nwhat color ?\nand now ?\nwhy ?\n")[1].splitlines()
    code, _, err = chat(stdin=f"/image {image}\nwhat color ?\n/save {tmp_path}/a.zip\nand now ?\n/save {file} link\n")
    assert code == 0 and "saved 2 questions with their answers" in err
    code, out, err = chat(stdin=f"/load {file}\nwhy ?\n/undo\n/undo\n/retry\n/prompt\n")
    assert code == 0 and out.splitlines() == [whole[2], whole[0]]
    assert "> what color ?  (image photo.jpg)" in err and "<image x 3>" in err and "prompt: 46 tokens" in err
    code, out, err = chat("--load", tmp_path / "a.zip", "--save", file, "--prompt", "and now ?")
    assert (code, out.splitlines()) == (0, [whole[1]]) and len(
        file.read_text().splitlines()
    ) == 1  # the same conversation
    code, out, _ = chat("--load", file, stdin="why ?\n")
    assert out.splitlines() == [whole[2]]


def test_what_cannot_be_saved_or_loaded_is_reported(chat, world, tmp_path, monkeypatch):
    """fails when a failed /save or /load goes unnoticed, loses the conversation, or --save fails with exit code 0"""
    (tmp_path / "other.jsonl").write_text('{"milk": 1}\n')
    lines = ["what ?", "/save", "/save talk.txt", f"/save {tmp_path}/other.jsonl", "/load gone.jsonl",
             f"/load {tmp_path}/other.jsonl", "/prompt"]  # fmt: skip
    code, out, err = chat(stdin="\n".join(lines))
    assert code == 1 and len(out.splitlines()) == 1 and err.count("not saved: ") == 2 and err.count("not loaded: ") == 2
    assert "name it talk.jsonl" in err and "what ?" in err.rpartition("not loaded")[2]
    assert chat("--prompt", "what ?", "--save", tmp_path / "other.jsonl")[0] == 1
    with pytest.raises(ConfigError, match=r"(?s)--time-limit.*is -1.*--load.*no file gone\.zip.*--save.*neither"):
        chat("--prompt", "x", "--time-limit", "-1", "--load", "gone.zip", "--save", "x.txt")
    with pytest.raises(MediaError, match="--load: .*line 1 is not a conversation"):
        chat("--prompt", "x", "--load", tmp_path / "other.jsonl")


def test_stop_strings_end_an_answer(chat):
    """fails when --stop is ignored, or its text is part of the answer"""
    whole = chat("--prompt", "what color ?")[1].strip()
    stop = whole[len(whole) // 2 :][:3]
    assert chat("--prompt", "what color ?", "--stop", stop)[1].strip() == whole.partition(stop)[0].strip()
    with pytest.raises(ConfigError, match="--stop[\\s\\S]*empty string"):
        chat("--prompt", "x", "--stop", "")


def test_ctrl_c_stops_an_answer_and_not_the_conversation(engine, tmp_path, capsys):
    """fails when Ctrl-C ends the session, loses the answer so far, or stops the next answer too"""
    dialogue = Dialogue(engine, tmp_path, GenerateOptions(max_new_tokens=400))
    loop, before = ChatLoop(dialogue, AnswerPrinter()), signal.getsignal(signal.SIGINT)
    passes: list[int] = []

    def interrupt(*given):
        passes.append(1)
        if len(passes) == 12:
            signal.raise_signal(signal.SIGINT)

    hook = engine.model.language.register_forward_pre_hook(interrupt)
    loop.take("what color ?")
    hook.remove()
    out, err = capsys.readouterr()
    assert 12 <= len(passes) <= 20 and "stopped" in err and signal.getsignal(signal.SIGINT) is before
    assert dialogue.turns[0].answer.startswith(out.strip()) and out.strip()
    dialogue.options = GenerateOptions(max_new_tokens=5)
    loop.take("and now ?")
    assert dialogue.turns[-1].is_done and [turn.is_done for turn in dialogue.turns] == [True, True]
    assert loop.num_questions == 2 and loop.failures == 0


def test_an_answer_cannot_control_the_terminal():
    """fails when an escape sequence in a model's answer reaches the terminal"""
    assert for_terminal("red\x1b[2J\x07\nblue\t\udc80") == "red\\x1b[2J\\x07\nblue\t�"


def test_a_model_without_routes_talks_about_text(world, capsys):
    """fails when a language model alone cannot be used for a chat, or accepts files"""
    model = {"language": world.world.model()["language"]}
    config = world.write("text.yaml", model=model)
    assert commands.main(["chat", "--cfg-path", str(config), "--prompt", "what ?", "--max-new-tokens", "4"]) == 0
    assert capsys.readouterr().out.strip()
    with pytest.raises(ConfigError, match="this model processes text only"):
        commands.main(["chat", "--cfg-path", str(config), "--image", str(world.files["image"]), "--prompt", "x"])


@pytest.mark.slow
def test_a_conversation_in_a_real_terminal(world):
    """fails when the prompt, streaming, Ctrl-C or Ctrl-D do not work with a terminal and a separate process"""
    main, child = pty.openpty()
    command = [sys.executable, "-c", SLOW_MODEL, "chat", "--cfg-path", str(world.config), "--max-new-tokens", "400"]
    process = subprocess.Popen(command, stdin=child, stdout=child, stderr=child, cwd=ROOT, start_new_session=True)
    os.close(child)
    seen = _until(main, "> ")
    os.write(main, f"/image {world.files['image']}\n".encode())
    seen += _until(main, "attached: image photo.jpg")
    os.write(main, b"what color is it ?\n")
    seen += _until(main, r"\(token\)")
    process.send_signal(signal.SIGINT)
    seen += _until(main, "stopped")
    os.write(main, b"/set max_new_tokens=3\nand now ?\n")
    seen += _until(main, r"max_new_tokens 3, and was ended\s+> ")  # Ctrl-D counts once the prompt is there
    os.write(main, b"\x04")
    assert process.wait(30) == 0, seen
    os.close(main)


def _until(terminal: int, pattern: str, limit_s: float = 120.0) -> str:
    """What a terminal shows until it matches."""
    seen, end = "", time.monotonic() + limit_s
    while not re.search(pattern, seen):
        assert select.select([terminal], [], [], max(0.0, end - time.monotonic()))[0], seen
        seen += os.read(terminal, 4096).decode(errors="replace")
    return seen
