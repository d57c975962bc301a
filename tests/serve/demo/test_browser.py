"""The demo in a real headless Chromium. Screenshots of every test stay in the test's temporary folder."""

from __future__ import annotations

import os

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

import json
import multiprocessing
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from chatbridge.experiment.open import task_nodes
from chatbridge.serve.answer import Answer
from chatbridge.serve.demo.answering import Side
from chatbridge.serve.demo.examples import find_examples
from chatbridge.serve.demo.gradio_app import build_app
from chatbridge.serve.demo.launch import launch
from chatbridge.serve.engine import ChatEngine
from chatbridge.serve.saved_conversations.feedback import Feedback
from tests.helpers.demo_browser import FAKE_DEVICES, DemoPage, chromium, until
from tests.helpers.serve_parts import ChatWorld

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(chromium() is None, reason="there is no Chromium on this machine: apt install chromium"),
]
playwright_api = pytest.importorskip("playwright.sync_api", reason="pip install playwright, which drives Chromium")
ANSWER_LENGTH = "evaluation.generation.max_new_tokens=24"  # two turns fit into the model's context
TOKEN_S = 0.4  # the tiny model is too quick to be stopped by hand


class Pace:
    """Slows the answers of an engine down, and counts those that are being generated."""

    def __init__(self) -> None:
        self.token_s, self.num_running, self.num_started, self._lock = 0.0, 0, 0, threading.Lock()

    def slow(self, stream: Any) -> Any:
        def paced(*args: Any, **kwargs: Any) -> Iterator[Answer]:
            with self._lock:
                self.num_running += 1
                self.num_started += 1
            try:
                for answer in stream(*args, **kwargs):
                    time.sleep(self.token_s)
                    yield answer
            finally:
                with self._lock:
                    self.num_running -= 1

        return paced


@pytest.fixture(scope="module")
def shots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("screenshots")


@pytest.fixture(scope="module")
def votes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("votes") / "feedback.jsonl"


@pytest.fixture(scope="module")
def pace() -> Pace:
    return Pace()


@pytest.fixture(scope="module")
def addresses(world: ChatWorld, votes: Path, pace: Pace, browser: Any) -> Iterator[tuple[str, str]]:
    """A page of one model, and one of two.

    They end before the browser does: Playwright waits until nobody holds its pipes, which the processes that read
    uploads have inherited."""
    engine, other = (ChatEngine.from_config(world.config, [ANSWER_LENGTH]) for _ in range(2))
    engine.stream = pace.slow(engine.stream)  # type: ignore[method-assign]
    examples = find_examples(task_nodes(world.config), engine.modalities, per_task=1)
    one = build_app(engine, examples, feedback=Feedback(votes))
    two = build_app(engine, other=Side(other, "runs/other"), name="runs/first")
    yield tuple(launch(app, block=False)[1] for app in (one, two))  # type: ignore[misc]
    for running in (one, two, engine, other):
        running.close()
    for reader in multiprocessing.active_children():
        reader.terminate()
        reader.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright_api.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=chromium(), args=FAKE_DEVICES)
        yield found
        found.close()


@pytest.fixture
def page(browser: Any, addresses: tuple[str, str], shots: Path, pace: Pace) -> Iterator[DemoPage]:
    pace.token_s = 0.0
    made = DemoPage(browser, addresses[0], shots)
    yield made
    assert made.foreign == [] and made.errors == []
    made.close()


@pytest.mark.parametrize("kind", ["image", "video", "audio"])
def test_two_turns_about_a_file(page: DemoPage, world: ChatWorld, kind: str):
    """fails when an upload does not reach the model, a second turn forgets it, or the panel does not show what the
    encoder read"""
    first = page.ask("what color is it ?", world.files[kind])
    assert first and not first.startswith("Cannot answer")
    until(lambda: page.page.locator("#given img").count() == (2 if kind == "video" else 1))
    assert f"<{kind} x " in page.panel() and "answer" in page.panel() and world.files[kind].name in page.panel()
    second = page.ask("and what else ?")
    assert second and page.users() == ["what color is it ?", "and what else ?"]
    until(lambda: "Question 2 of 2" in page.panel() and "tokens" in page.panel().split("answer")[-1])
    assert f"<{kind} x " in page.panel() and page.page.locator("#given details").count() == (
        2 if kind == "video" else 1
    )
    page.shoot(f"two_turns_{kind}")


def test_an_answer_streams_and_stops(page: DemoPage, pace: Pace):
    """fails when an answer is displayed only once complete, stop loses it or does not end it, or the page stays busy"""
    pace.token_s = TOKEN_S
    page.send("red ?")
    lengths: set[int] = set()
    until(lambda: lengths.add(len("".join(page.answers()))) or len(lengths) > 4)
    page.shoot("streaming")
    page.stop()
    until(lambda: pace.num_running == 0, 10)
    page.wait_until_ready()
    until(lambda: "Note: this answer was stopped" in page.answers())
    kept = page.answers()
    assert max(lengths) <= len("".join(kept))
    time.sleep(3 * TOKEN_S)
    assert page.answers() == kept
    pace.token_s = 0.0
    assert page.ask("blue ?") and page.answers()[: len(kept)] == kept


def test_retry_edit_undo_and_clear(page: DemoPage, world: ChatWorld, pace: Pace):
    """fails when a button acts on another turn, an edit is not asked, or clear leaves something behind"""
    first = page.ask("red ?", world.files["image"])
    second = page.ask("blue ?")
    count = pace.num_started
    page.click("retry")
    until(lambda: pace.num_started > count and not pace.num_running)
    page.wait_until_ready()
    until(lambda: page.answers() == [first, second])
    page.page.locator("#chat [aria-label=Edit]").last.click()
    page.page.fill("#chat textarea", "green ?")
    page.page.locator("#chat [aria-label=Submit]").click()
    until(lambda: page.users() == ["red ?", "green ?"])
    page.wait_until_ready()
    page.shoot("edited")
    page.click("undo")
    until(lambda: page.users() == ["red ?"])
    assert page.page.input_value("#box textarea") == "green ?"
    page.click("clear")
    until(lambda: not page.users() and not page.answers())
    assert page.page.input_value("#box textarea") == "" and "Nothing yet" in page.panel()
    page.ask("blue ?")
    until(lambda: "Question 1 of 1" in page.panel())
    assert "<image" not in page.panel()


def test_a_question_that_came_with_a_file_is_edited(page: DemoPage, world: ChatWorld):
    """fails when a text beside a file cannot be edited, the edit loses the file, or the file has an edit button"""
    page.ask("red ?", world.files["image"])
    page.ask("blue ?")
    edits = page.page.locator("#chat [aria-label=Edit]:visible")
    assert edits.count() == 2  # of the two texts
    edits.first.click()
    page.page.fill("#chat textarea", "green ?")
    page.page.locator("#chat [aria-label=Submit]").click()
    until(lambda: page.users() == ["green ?"] and page.answers())
    page.wait_until_ready()
    until(lambda: "Question 1 of 1" in page.panel() and "green ?" in page.panel())
    assert "<image x " in page.panel() and page.page.locator("#chat .message img").count() == 1


@pytest.mark.parametrize("name", ["undo", "clear"])
def test_an_answer_that_is_taken_back_stays_away(page: DemoPage, pace: Pace, name: str):
    """fails when a word of an answer that was being generated comes back after undo or clear"""
    page.ask("red ?")
    kept = {"undo": ["red ?"], "clear": []}[name]
    for number in range(4):
        pace.token_s = 0.05 * number
        count = len(page.users())
        page.send("blue ?")
        until(lambda count=count: len(page.users()) > count)
        page.click(name)
        until(lambda: pace.num_running == 0 and page.users() == kept)
        time.sleep(0.5)
        assert page.users() == kept and len(page.answers()) == len(kept)
        until(lambda: (f"Question {len(kept)} of" if kept else "Nothing yet") in page.panel())


def test_closing_the_page_ends_its_answer(browser: Any, addresses: tuple[str, str], shots: Path, pace: Pace):
    """fails when the model works on for a page that is gone"""
    pace.token_s = 0.2
    page = DemoPage(browser, addresses[0], shots)
    page.send("red ?")
    until(lambda: page.answers())
    page.close()
    until(lambda: pace.num_running == 0, 15)


def test_two_models_side_by_side(browser: Any, addresses: tuple[str, str], shots: Path, world: ChatWorld, pace: Pace):
    """fails when a model does not get the question or the file, or its answers stand under another name"""
    pace.token_s = 0.0
    page = DemoPage(browser, addresses[1], shots)
    page.ask("what color is it ?", world.files["image"])
    page.ask("and now ?")
    assert page.users("chat") == page.users("other") == ["what color is it ?", "and now ?"]
    assert page.answers("chat") == page.answers("other") and len(page.answers()) == 2  # equal weights, greedy
    assert "runs/first" in page.page.inner_text("#chat") and "runs/other" in page.page.inner_text("#other")
    until(lambda: page.panel().count("<image x ") == 2)
    page.shoot("two_models")
    page.click("retry")
    page.wait_until_ready()
    until(lambda: page.answers("chat") == page.answers("other"))
    assert page.foreign == [] and page.errors == []
    page.close()


def test_sessions_are_apart(browser: Any, addresses: tuple[str, str], shots: Path, world: ChatWorld, pace: Pace):
    """fails when one browser sees, stops or clears the chat of another one"""
    pace.token_s = TOKEN_S / 2
    one, two = (DemoPage(browser, addresses[0], shots) for _ in range(2))
    one.send("red ?", world.files["image"])
    two.send("my secret")
    until(lambda: one.answers() and two.answers())
    two.stop()
    two.click("clear")
    one.wait_until_ready()
    assert one.users() == ["red ?"] and "Note: this answer was stopped" not in one.answers()
    until(lambda: not two.users())
    assert "secret" not in one.page.content() and "photo.jpg" not in two.page.content()
    one.close()
    two.close()


def test_a_chat_is_saved_and_loaded(page: DemoPage, world: ChatWorld, tmp_path: Path, browser: Any, addresses: Any):
    """fails when a chat does not come back with its files, or a file that is no chat breaks the page"""
    answer = page.ask("what color is it ?", world.files["image"])
    with page.page.expect_download() as download:
        page.click("save")
    file = tmp_path / download.value.suggested_filename
    download.value.save_as(file)
    assert file.suffix == ".zip" and "saved as" in page.status()
    other = DemoPage(browser, addresses[0], page.shots)
    other.page.locator("input[type=file][accept*='.zip']").first.set_input_files(str(file))
    until(lambda: other.answers() == [answer])
    until(lambda: "photo" in other.panel() or other.page.locator("#given img").count() == 1)
    assert "loaded 1 question" in other.status()
    assert other.ask("and now ?")
    wrong = tmp_path / "wrong.jsonl"
    wrong.write_text('{"messages": [{"role": "user", "content": [{"type": "image", "image": "/etc/passwd"}]}]}\n')
    other.page.locator("input[type=file][accept*='.zip']").first.set_input_files(str(wrong))
    until(lambda: "wrong.jsonl cannot be loaded" in other.status())
    assert len(other.users()) == 2
    other.shoot("loaded")
    other.close()


def test_thumbs_are_written(page: DemoPage, votes: Path):
    """fails when a thumb is not written, written for another answer, or cannot be taken back"""
    page.ask("red ?")
    answer = page.ask("blue ?")
    page.page.locator("#chat [aria-label=Like]").last.click()
    until(lambda: "your vote is in" in page.status())
    (line,) = map(json.loads, votes.read_text().splitlines())
    assert line["details"]["feedback"]["vote"] == "up" and line["details"]["feedback"]["answer"] == answer
    page.page.locator("#chat [aria-label=Dislike]").last.click()
    until(lambda: '"down"' in votes.read_text())
    page.shoot("thumbs")
    page.page.locator("#chat [aria-label=Disliked]").last.click()
    until(lambda: not votes.read_text())
    assert str(votes) in page.page.inner_text("#thumbs")


def test_content_is_text(page: DemoPage):
    """fails when a question becomes markup or a template in the chat, the panel or the line of counts"""
    evil = "<img src=x onerror=alert(1)> ${alert(2)} {{value}} <script>alert(3)</script>"
    page.ask(evil)
    until(lambda: "Question 1 of 1" in page.panel() and "onerror" in page.panel())
    assert page.page.locator("#given img, #chat .message img, #chat script").count() == 0
    assert "${alert(2)} {{value}}" in page.panel() and "${alert(2)} {{value}}" in page.users()[0]


def test_a_photo_and_a_recording_are_attached(page: DemoPage):
    """fails when the camera or the microphone does not reach the box, or the model cannot read what they made"""
    page.page.get_by_role("button", name="Camera").click()
    page.page.locator("#photo").get_by_text("Click to Access Webcam").click()
    page.page.wait_for_function("document.querySelector('#photo video')?.videoWidth > 0")
    page.page.locator("#photo [aria-label='capture photo']").click()
    page.page.wait_for_selector("#box .thumbnail-item")
    page.shoot("camera")
    assert not page.ask("what color is it ?").startswith("Cannot answer")
    page.page.click("#box [data-testid=microphone-button]")
    page.page.locator("#box .record-button").first.click()
    time.sleep(1.5)
    page.page.locator("#box .stop-button").first.click()
    page.page.click("#box [aria-label='Attach audio']")
    page.page.wait_for_selector("#box .thumbnail-item")
    assert not page.ask("what tone is it ?").startswith("Cannot answer")
    until(lambda: "Question 2 of 2" in page.panel() and "audio" in page.panel())
    page.shoot("camera_and_microphone")


def test_a_narrow_screen_needs_no_sideways_scrolling(
    browser: Any, addresses: tuple[str, str], shots: Path, world: ChatWorld, pace: Pace
):
    """fails when something of the page is wider than a phone, with one model or two"""
    pace.token_s = 0.0
    for name, address in zip(("one", "two"), addresses, strict=True):
        page = DemoPage(browser, address, shots, 390, 844)
        page.ask("what color is it ?", world.files["video"])
        until(lambda page=page: page.page.locator("#given img").count())
        page.page.get_by_role("button", name="Decoding").click()
        page.shoot(f"narrow_{name}")
        widths = page.page.evaluate("[...document.querySelectorAll('.gallery-item')].map(one => one.clientWidth)")
        assert all(width > 150 for width in widths) and bool(widths) == (name == "one")  # examples that can be read
        assert page.page.evaluate("document.documentElement.scrollWidth") <= 390
        page.close()
