"""`chatbridge serve`: everything that is wrong is reported before the model is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from chatbridge.cli import serve
from chatbridge.common.errors import ConfigError
from tests.helpers.serve_parts import ChatWorld

pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")


def problems(*arguments: str) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        serve.main(list(arguments))
    return {one.path: str(one) for one in caught.value.problems}


def test_all_mistakes_are_reported_at_once(chat_world: ChatWorld, tmp_path: Path):
    """Fails when a user has to correct flags one by one, or a flag is reported under another name."""
    keys = tmp_path / "keys.txt"
    keys.write_text("# for the lab\nshort\n")
    found = problems(
        "--cfg-path", str(chat_world.config), "--options", "evaluation.chat.max_mb=3", "--port", "99999",
        "--max-body-mb", "lots", "--media-root", str(tmp_path / "absent"), "--fetch-total-s", "0",
        "--api-key-file", str(keys),
    )  # fmt: skip
    expected = {"--port", "--max-body-mb", "--media-root", "--fetch-total-s", f"{keys}, line 2"}
    assert expected | {"evaluation.chat.max_mb"} == set(found)
    assert "at least 16" in found[f"{keys}, line 2"] and "secrets.token_urlsafe" in found[f"{keys}, line 2"]


def test_other_machines_need_a_key(chat_world: ChatWorld, monkeypatch: pytest.MonkeyPatch):
    """Fails when a server without a key listens to the network without being told to."""
    monkeypatch.delenv("CHATBRIDGE_API_KEY", raising=False)
    found = problems("--cfg-path", str(chat_world.config), "--host", "0.0.0.0")
    assert "--allow-anonymous" in found["--host"]


def test_check_prints_the_plan(chat_world: ChatWorld, capsys: pytest.CaptureFixture[str]):
    """Fails when --check starts a server, or reads the weights."""
    assert serve.main(["--cfg-path", str(chat_world.config), "--check", "--port", "0"]) == 0
    assert "language" in capsys.readouterr().out
