"""Who may ask: API keys, host names, web pages."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from pathlib import Path

import httpx
import pytest

from chatbridge.common.errors import ConfigError
from chatbridge.serve.openai_api.api_keys import ApiKeys, read_keys
from tests.helpers.api_server import InProcess, running
from tests.helpers.scripted_backend import ScriptedBackend

KEY, OTHER = "k" * 20, "o" * 20
PAGE = "https://example.org"


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({}, 401, "missing_api_key"),
        ({"Authorization": KEY}, 401, "missing_api_key"),
        ({"Authorization": f"Basic {KEY}"}, 401, "missing_api_key"),
        ({"Authorization": f"Bearer {KEY[:-1]}"}, 401, "invalid_api_key"),
        ({"Authorization": "Bearer \xff\xfe"}, 401, "invalid_api_key"),
        ({"Authorization": f"Bearer {KEY}"}, 200, None),
        ({"Authorization": f"bearer {OTHER} "}, 200, None),
    ],
)
def test_a_key_is_needed_where_there_is_one(headers, status, code):
    """Fails when a request without a valid key is answered, or a valid one refused."""
    api = InProcess(ScriptedBackend(), keys=(KEY, OTHER))
    raw = {name: value.encode("latin-1") for name, value in headers.items()}
    response = api.get("/v1/models", headers=raw)
    assert response.status_code == status
    assert code is None or (response.json()["error"]["code"] == code and KEY not in response.text)
    assert status == 200 or response.headers["www-authenticate"] == "Bearer"


def test_paths_without_a_key():
    """Fails when a load balancer needs a key to see whether the server lives, or metrics ignore their setting."""
    api, closed = InProcess(ScriptedBackend(), keys=(KEY,)), InProcess(ScriptedBackend(), (KEY,), key_for_metrics=True)
    assert [api.get(path).status_code for path in ("/health", "/health/live", "/metrics")] == [200, 200, 200]
    assert [api.get(path).status_code for path in ("/nowhere", "/v1/models")] == [401, 401]
    assert (closed.get("/health").status_code, closed.get("/metrics").status_code) == (200, 401)


def test_a_request_without_a_key_never_reaches_the_model():
    """Fails when the body of a stranger is read."""
    backend = ScriptedBackend()
    assert InProcess(backend, keys=(KEY,)).chat().status_code == 401 and not backend.asked


@pytest.mark.parametrize(
    ("host", "settings", "keys", "status"),
    [
        ("localhost:8000", {}, (), 200),
        ("127.0.0.1", {}, (), 200),
        ("[::1]:8000", {}, (), 200),
        ("attacker.example:8000", {}, (), 421),
        ("", {}, (), 421),
        ("my.host", {}, (KEY,), 200),
        ("my.host", {"host": "0.0.0.0"}, (), 200),
        ("my.host", {"allowed_hosts": ("My.Host",)}, (KEY,), 200),
        ("other.host", {"allowed_hosts": ("my.host",)}, (KEY,), 421),
    ],
)
def test_a_name_that_suddenly_points_here_is_refused(host, settings, keys, status):
    """Fails when a web page can read a local server by DNS rebinding, or the server refuses its own names."""
    headers = {"host": host, "Authorization": f"Bearer {KEY}"}
    assert InProcess(ScriptedBackend(), keys, **settings).get("/v1/models", headers=headers).status_code == status


def test_web_pages_are_refused_unless_named():
    """Fails when a browser lets any page use the server, or a page that is named cannot."""
    asks = {"Origin": PAGE, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    path = "/v1/chat/completions"
    closed, opened = (
        InProcess(ScriptedBackend(), (KEY,)),
        InProcess(ScriptedBackend(), (KEY,), cors_origins=(PAGE,)),
    )
    assert "access-control-allow-origin" not in closed.request("OPTIONS", path, headers=asks).headers
    assert opened.request("OPTIONS", path, headers=asks).headers["access-control-allow-origin"] == PAGE
    other = opened.request("OPTIONS", path, headers={**asks, "Origin": "https://evil.example"})
    assert "access-control-allow-origin" not in other.headers
    refused = opened.get("/v1/models", headers={"Origin": PAGE})
    assert refused.status_code == 401 and refused.headers["access-control-allow-origin"] == PAGE


def test_keys_are_read_from_file_and_environment(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """Fails when a key of the file or the environment is not accepted, or a comment is one."""
    file = tmp_path / "keys"
    file.write_text(f"# {'c' * 20}\n\n  {KEY}  \n")
    file.chmod(0o600)
    keys = read_keys(file, {"CHATBRIDGE_API_KEY": f"{OTHER}, {'e' * 20}"})
    assert all(map(keys.accept, (KEY, OTHER, "e" * 20)))
    assert not any(map(keys.accept, ("", "c" * 20, f"# {'c' * 20}", KEY + "k")))
    assert not read_keys(None, {}) and not ApiKeys()


@pytest.mark.parametrize("content", ["", "# only a comment\n", "short\n", "with blanks in it and long\n", "é" * 20])
def test_a_file_without_usable_keys_is_refused(tmp_path: Path, content: str):
    """Fails when a server starts with keys that protect nothing; the message does not repeat the key."""
    file = tmp_path / "keys"
    file.write_text(content)
    with pytest.raises(ConfigError) as caught:
        read_keys(file, {})
    assert "secrets.token_urlsafe" in str(caught.value) and "with blanks" not in str(caught.value)
    with pytest.raises(ConfigError, match="absent"):
        read_keys(tmp_path / "absent", {})


@pytest.mark.slow
def test_answers_over_tls(tmp_path: Path):
    """Fails when a certificate does not protect the connection."""
    if shutil.which("openssl") is None:
        pytest.skip("makes a certificate with the program openssl")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate, "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"],
        check=True, capture_output=True,
    )  # fmt: skip
    with running(ScriptedBackend(), tls_certificate=certificate, tls_key=key) as server:
        port = server.host[1]
        trusted = ssl.create_default_context(cafile=certificate)
        assert httpx.get(f"https://localhost:{port}/v1/models", verify=trusted).status_code == 200
        with pytest.raises(httpx.HTTPError):
            httpx.get(f"http://localhost:{port}/v1/models")
