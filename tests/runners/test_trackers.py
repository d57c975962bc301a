"""Trackers: a run never waits for one, an error is told once, keys stay in the environment, a resume continues."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from chatbridge.common.dist import Dist
from chatbridge.common.errors import ConfigError
from chatbridge.config.schema import parse
from chatbridge.runners.progress import Progress
from chatbridge.runners.trackers import Background, build_trackers
from chatbridge.runners.trackers import background as module
from chatbridge.runners.trackers.config import MlflowConfig, TrackersConfig, WandbConfig
from tests.helpers.tiny_run import tiny_runner


class FakeSink:
    """Keeps what it is sent. down: calls fail; hangs: `send` never returns"""

    name = "fake"

    def __init__(self, down: str = "") -> None:
        self.down, self.hangs = down, False
        self.points: list[tuple[int, dict[str, float]]] = []
        self.started: list[str | None] = []
        self.outcome = ""

    def start(self, run_id: str | None, settings: Any) -> str:
        self._fail()
        self.started.append(run_id)
        return run_id or "new"

    def send(self, points: Any) -> None:
        if self.hangs:
            time.sleep(60)
        self._fail()
        self.points += [(step, dict(values)) for step, _, values in points]

    def finish(self, outcome: str) -> None:
        self._fail()
        self.outcome = outcome

    def _fail(self) -> None:
        if self.down:
            raise SystemExit(self.down)


def run(folder: Path, sink: FakeSink, **settings: Any) -> Any:
    """A run of 8 steps with this tracker; returns its exit code and runner."""
    runner = tiny_runner(folder, **settings)
    tracker = Background(sink, folder, {"run": {"seed": 1}})
    runner.progress = Progress(folder, 8, 1, Dist(), trackers=[tracker])
    return runner.train(), runner


def test_a_tracker_gets_every_line_and_the_end(tmp_path):
    """fails when a line of the log is not sent, or the tracker believes that a finished run is still going on"""
    sink = FakeSink()
    run(tmp_path, sink)
    losses = [json.loads(line)["loss"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(step, values["loss"]) for step, values in sink.points] == list(zip(range(1, 9), losses, strict=True))
    assert {"lr", "tokens_per_s", "samples_per_s", "padding_share", "loss/image"} <= set(sink.points[2][1])
    assert sink.outcome == "finished" and json.loads((tmp_path / "trackers.json").read_text()) == {"fake": "new"}


def test_a_resumed_run_continues_the_same_curves(tmp_path):
    """fails when a resume makes a second run of the tracker, or a stop is told as an end"""
    for sink, stop, given, outcome in ((FakeSink(), 3, None, "stopped"), (FakeSink(), 8, "new", "finished")):
        run(tmp_path, sink, stop_at=stop)
        assert sink.started == [given] and sink.outcome == outcome


def test_an_error_of_the_run_is_its_outcome(tmp_path):
    """fails when a run that crashed is finished for the tracker"""
    sink = FakeSink()
    progress = Progress(tmp_path, 8, 1, Dist(), trackers=[Background(sink, tmp_path, {})])
    with pytest.raises(ValueError), progress.open(0):
        raise ValueError
    assert sink.outcome == "failed"


def test_a_tracker_that_is_down_costs_one_warning(tmp_path, caplog, monkeypatch):
    """fails when a tracker without network ends or slows a run, floods the log, or shows a key"""
    monkeypatch.setenv("WANDB_API_KEY", "secret-123456")
    sink = FakeSink(down="401 for the key secret-123456")
    assert run(tmp_path / "down", sink)[0] == 0
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert [text for text in warnings if "fake" in text] == [
        "fake: SystemExit: 401 for the key $WANDB_API_KEY; the run goes on, and the tracker is tried again"
    ]
    assert run(tmp_path / "up", FakeSink())[0] == 0
    left, right = [(tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("down", "up")]
    assert [json.loads(line)["loss"] for line in left] == [json.loads(line)["loss"] for line in right]


def test_a_tracker_that_comes_back_gets_what_it_missed(tmp_path, caplog, monkeypatch):
    """fails when the curves have a hole where the server was down"""
    monkeypatch.setattr(module, "RETRY_S", 0.0)
    sink = FakeSink(down="no network")
    tracker = Background(sink, tmp_path, {})
    tracker.open()
    with caplog.at_level("INFO", logger="chatbridge"):
        for step in range(5):
            tracker.add(step, {"loss": 1.0})
            time.sleep(0.01)
        sink.down = ""
        tracker.add(5, {"loss": 1.0})
        tracker.close("finished")
    assert [step for step, _ in sink.points] == [0, 1, 2, 3, 4, 5]
    assert caplog.text.count("no network") == 1 and "fake: works again" in caplog.text


def test_a_run_does_not_wait_for_a_tracker(tmp_path, caplog, monkeypatch):
    """fails when a step or the end of a run waits for a server that does not answer"""
    monkeypatch.setattr(module, "LAST_S", 0.2)
    sink = FakeSink()
    sink.hangs = True
    tracker = Background(sink, tmp_path, {})
    tracker.open()
    before = time.monotonic()
    for step in range(1000):
        tracker.add(step, {"loss": 1.0})
    assert time.monotonic() - before < 1
    tracker.close("finished")
    assert time.monotonic() - before < 5 and "not everything could be sent" in caplog.text


def test_only_the_first_rank_has_trackers(tmp_path):
    """fails when every rank writes the same curves"""
    config = TrackersConfig(wandb=WandbConfig(mode="offline"), mlflow=MlflowConfig(uri="file:///x"))
    assert [one.sink.name for one in build_trackers(config, tmp_path, {}, True)] == ["wandb", "mlflow"]
    assert build_trackers(config, tmp_path, {}, False) == build_trackers(None, tmp_path, {}, True) == []


@pytest.mark.parametrize(
    ("settings", "path", "told"),
    [
        ({"wandb": {"api_key": "abcdef123"}}, "trackers.wandb.api_key", "WANDB_API_KEY"),
        ({"mlflow": {"uri": "http://a", "password": "abcdef123"}}, "trackers.mlflow.password", "TRACKING_PASSWORD"),
        ({"mlflow": {"uri": "https://me:abcdef123@host"}}, "trackers.mlflow.uri", "MLFLOW_TRACKING_USERNAME"),
        ({"mlflow": {"uri": "host:5000"}}, "trackers.mlflow.uri", "http://host:5000"),
        ({"mlflow": {}}, "trackers.mlflow.uri", "is missing"),
        ({"wandb": {"mode": "on"}}, "trackers.wandb.mode", "offline"),
        ({"tensorboard": {}}, "trackers.tensorboard", "wandb, mlflow"),
    ],
)
def test_keys_belong_in_the_environment(settings, path, told):
    """fails when a key in a file is used or shown, or the message does not say where it belongs"""
    with pytest.raises(ConfigError) as error:
        parse(TrackersConfig, settings, path="trackers")
    assert path in str(error.value) and told in str(error.value) and "abcdef123" not in str(error.value)


def test_a_package_that_is_missing_is_told_before_the_run(monkeypatch):
    """fails when a run starts without the tracker it names because a package is not installed"""
    from chatbridge.runners.trackers import config

    monkeypatch.setattr(config, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"(?s)trackers\.wandb.*\.\[tracking\]"):
        parse(TrackersConfig, {"wandb": {}}, path="trackers")


def test_without_a_key_wandb_is_not_asked(tmp_path, monkeypatch, caplog):
    """fails when the library asks for a key in the terminal, which would stop a run"""
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    (tracker,) = build_trackers(TrackersConfig(wandb=WandbConfig()), tmp_path, {}, True)
    tracker.open()
    tracker.add(1, {"loss": 1.0})
    tracker.close("finished")
    assert "wandb: RuntimeError: WANDB_API_KEY is not set" in caplog.text


@pytest.mark.slow
def test_wandb_itself_offline(tmp_path, monkeypatch, caplog):
    """fails when the installed wandb does not take our calls, a resume has another id, a key is written, or the log
    does not say how to upload"""
    caplog.set_level("INFO", "chatbridge")
    monkeypatch.setenv("WANDB_API_KEY", "0123456789" * 4)
    for _ in range(2):
        config = TrackersConfig(wandb=WandbConfig(mode="offline", project="p"))
        (tracker,) = build_trackers(config, tmp_path, {"run": {"seed": 1}}, True)
        tracker.open()
        tracker.add(1, {"loss": 1.5, "validation/loss": 2.5})
        tracker.close("finished")
        time.sleep(1.1)  # the folder's name has seconds
    (run_id,) = json.loads((tmp_path / "trackers.json").read_text()).values()
    files = list(tmp_path.glob(f"wandb/offline-run-*/run-{run_id}.wandb"))
    assert len(files) == 2 and b"validation/loss" in files[0].read_bytes()
    assert all(f"`wandb sync {path.parent}`" in caplog.text for path in files)
    assert all(b"0123456789" * 4 not in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


@pytest.mark.slow
def test_mlflow_itself_in_a_folder(tmp_path):
    """fails when the installed mlflow does not take our calls, a resume makes a new run, or its state is wrong"""
    from mlflow.tracking import MlflowClient

    uri = f"file://{tmp_path}/mlruns"
    for step, outcome in ((1, "stopped"), (2, "finished")):
        config = TrackersConfig(mlflow=MlflowConfig(uri=uri))
        (tracker,) = build_trackers(config, tmp_path / "mine", {"run": {"seed": 1, "best": None}}, True)
        tracker.open()
        tracker.add(step, {"loss": 3.0 - step, "loss/a": 4.0, "loss/b": float("nan")})
        tracker.close(outcome)
    client = MlflowClient(tracking_uri=uri)
    (run_id,) = json.loads((tmp_path / "mine/trackers.json").read_text()).values()
    found = client.get_run(run_id)
    assert [(one.step, one.value) for one in client.get_metric_history(run_id, "loss")] == [(1, 2.0), (2, 1.0)]
    assert found.data.metrics == {"loss": 1.0, "loss.a": 4.0}
    assert (found.info.status, found.info.run_name, found.data.params["run.seed"]) == ("FINISHED", "mine", "1")


class Server(BaseHTTPRequestHandler):
    """As much of an MLflow server as one run needs. is_down: every request fails"""

    is_down = False
    sent: list[int] = []

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer({"experiment": {"experiment_id": "7", "name": "chatbridge", "lifecycle_stage": "active"}})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not Server.is_down and self.path.endswith("log-batch"):
            Server.sent += [int(one["step"]) for one in body.get("metrics", [])]
        self._answer({"run": {"info": {"run_id": "r1", "run_uuid": "r1", "experiment_id": "7", "status": "RUNNING"}}})

    def _answer(self, content: dict[str, Any]) -> None:
        text = json.dumps(content if not Server.is_down else {"message": "gone"}).encode()
        self.send_response(500 if Server.is_down else 200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


@pytest.mark.slow
def test_an_mlflow_server_that_goes_down_in_between(tmp_path, monkeypatch, caplog):
    """fails when a server that is away for a while ends a run, or its curves have a hole afterwards"""
    monkeypatch.setattr(module, "RETRY_S", 0.0)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    server = HTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    uri = f"http://127.0.0.1:{server.server_address[1]}"
    (tracker,) = build_trackers(TrackersConfig(mlflow=MlflowConfig(uri=uri)), tmp_path, {}, True)
    tracker.open()
    for step, is_down in enumerate((False, True, True, False)):
        Server.is_down = is_down
        tracker.add(step, {"loss": 1.0})
        deadline = time.monotonic() + 20
        while (tracker.waiting and not is_down) or (is_down and not tracker._has_warned):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(0.2)
    tracker.close("finished")
    server.shutdown()
    assert sorted(set(Server.sent)) == [0, 1, 2, 3]
    assert caplog.text.count("the run goes on") == 1
