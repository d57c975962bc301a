"""Downloads: public hosts only, also after redirects and by DNS rebinding, within limits."""

from __future__ import annotations

import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from shutil import which

import pytest

from chatbridge.serve.media_sources.checked_connection import Network, connect
from chatbridge.serve.media_sources.download import remote_file
from chatbridge.serve.media_sources.limits import SourceLimits
from chatbridge.serve.media_sources.source_error import SourceError
from tests.helpers.media_server import PUBLIC, MediaServer, media_server

QUICK = SourceLimits(connect_s=2, read_s=0.3, total_s=1.0, ports=())


@pytest.fixture
def server() -> Iterator[MediaServer]:
    with media_server() as server:
        server.add("/a.png", b"content", "image/png; charset=binary")
        yield server


def fetch(server: MediaServer, url: str, limits: SourceLimits = QUICK, network: Network | None = None) -> bytes:
    with remote_file(url, limits, network or server.network) as content:
        return b"".join(content.chunks)


def refusal(server: MediaServer, url: str, limits: SourceLimits = QUICK) -> SourceError:
    with pytest.raises(SourceError) as found:
        fetch(server, url, limits)
    return found.value


def test_the_checked_address_is_asked_under_the_name(server):
    """fails when the name is resolved a second time, or the Host header names the address"""
    with remote_file("http://Photos.example/a.png?sign=abc#part", QUICK, server.network) as content:
        assert b"".join(content.chunks) == b"content"
    assert (content.type, content.name, content.length) == ("image/png", "a.png", 7)
    assert content.shown == "http://photos.example/a.png"
    assert server.asked == ["photos.example /a.png?sign=abc"]
    assert server.resolved == ["photos.example"]
    assert server.connected == [(PUBLIC, 80)]


def test_nothing_of_the_environment_is_sent(server, monkeypatch):
    """fails when a proxy of the environment is used, or a password, a cookie or a packing is offered"""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert fetch(server, "http://photos.example/a.png") == b"content"
    assert set(server.headers[0]) == {"Host", "User-Agent", "Accept", "Accept-Encoding"}
    assert server.headers[0]["Accept-Encoding"] == "identity"


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "10.1.2.3",
        "169.254.169.254",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[64:ff9b::a9fe:a9fe]",
        "[2002:7f00:1::]",
        "[fd00::1]",
        "[fe80::1]",
        "2130706433",
        "0x7f000001",
        "0x7f.0.0.1",
        "017700000001",
        "0177.0.0.1",
        "127.1",
        "0",
        "①②⑦.⓪.⓪.①",
        "127。0。0。1",
        "private.example",
        "mixed.example",
        "mapped.example",
        "private.example.",
    ],
)
def test_hosts_that_are_not_public(server, host):
    """fails when any spelling of a private address, or a name that has one, is connected to"""
    server.names = {
        "private.example": ["192.168.0.7"],
        "private.example.": ["192.168.0.7"],
        "mixed.example": [PUBLIC, "127.0.0.1"],
        "mapped.example": ["::ffff:10.0.0.1"],
    }
    error = refusal(server, f"http://{host}/a.png")
    assert error.status in (400, 403), str(error)
    assert server.connected == []


def test_a_name_that_changes_its_address(server):
    """fails when DNS rebinding works: the second answer of the name server is a private address"""
    answers = iter([[PUBLIC], ["127.0.0.1"], ["127.0.0.1"]])
    network = Network(lambda host, port: next(answers), server.network.connect)
    assert fetch(server, "http://rebind.example/a.png", QUICK, network) == b"content"
    assert server.connected == [(PUBLIC, 80)]
    with pytest.raises(SourceError, match="not a host of the public internet"):
        fetch(server, "http://rebind.example/a.png", QUICK, network)
    assert len(server.connected) == 1


def test_redirects_are_followed_and_checked(server):
    server.names = {"inside.example": ["10.0.0.1"]}
    server.add("/here", b"", status=302, location="/there")
    server.add("/there", b"", status=308, location="//other.example/a.png")
    assert fetch(server, "http://photos.example/here") == b"content"
    assert server.asked[-1] == "other.example /a.png"
    assert server.resolved == ["photos.example", "other.example"] or server.resolved[-1] == "other.example"


@pytest.mark.parametrize(
    ("location", "status"),
    [
        ("http://127.0.0.1/a.png", 403),
        ("http://169.254.169.254/latest/meta-data", 403),
        ("http://inside.example/a.png", 403),
        ("http://2130706433/", 403),
        ("file:///etc/passwd", 400),
        ("ftp://photos.example/a.png", 400),
        ("data:image/png;base64,AAAA", 400),
        ("http://user:geheim@photos.example/a.png", 400),
        ("http://[::1", 502),
        ("", 502),
        ("/loop", 502),
    ],
)
def test_redirects_that_lead_elsewhere(server, location, status):
    """fails when a public host can send the server to a private one"""
    server.names = {"inside.example": ["10.0.0.1"]}
    server.add("/loop", b"", status=302, location=location)
    error = refusal(server, "http://photos.example/loop")
    assert error.status == status, str(error)
    assert "geheim" not in str(error)
    assert all(address == PUBLIC for address, _ in server.connected)
    assert len(server.asked) <= QUICK.max_redirects + 1


@pytest.mark.parametrize(
    ("url", "status", "words"),
    [
        ("http://user:geheim@photos.example/a.png", 400, "user name or password"),
        ("http://photos.example\\@127.0.0.1/a.png", 400, ""),
        ("http://photos.example:99999/a.png", 400, "99999 is not a port"),
        ("http:///a.png", 400, "with a host"),
        ("http://", 400, "with a host"),
        ("http://photos.example/a.png" + "x" * 9000, 400, "9,027 characters"),
        ("http://photos.example/\r\nX: y", 400, "not a valid address"),
        ("http://photos.example/missing.png?sign=geheim", 404, "no such file there"),
        ("http://photos.example/broken", 502, "status 500"),
        ("http://photos.example/partial", 502, "status 206"),
        ("http://photos.example/packed", 502, "packed as gzip"),
        ("http://photos.example/torn", 502, "download failed"),
        ("http://unknown.example/", 502, "no such host"),
    ],
)
def test_what_cannot_be_downloaded(server, url, status, words):
    server.names = {"unknown.example": []}
    server.add("/broken", b"oops", status=500)
    server.add("/partial", b"part", status=206)
    server.add("/packed", b"\x1f\x8b", "image/png", Content_Encoding="gzip")
    server.add("/torn", "torn", "image/png")
    error = refusal(server, url)
    assert error.status == status, str(error)
    assert words in str(error)
    assert "geheim" not in str(error)
    assert len(str(error)) < 500


@pytest.mark.parametrize("path", ["/hang", "/drip"])
def test_slow_servers_end_with_the_time(server, path):
    """fails when a server that sends one byte now and then holds a download forever"""
    server.add(path, path[1:])
    start = time.monotonic()
    error = refusal(server, f"http://photos.example{path}", SourceLimits(read_s=0.1, total_s=0.2, ports=()))
    assert error.status == 504, str(error)
    assert time.monotonic() - start < 5


def test_a_name_server_that_does_not_answer(server):
    release = threading.Event()
    network = Network(lambda host, port: [PUBLIC] if release.wait(20) else [], server.network.connect)
    with pytest.raises(SourceError, match="name server does not answer"):
        fetch(server, "http://photos.example/a.png", SourceLimits(connect_s=0.1), network)
    release.set()


def test_a_request_that_ends_stops_its_download(server):
    server.add("/drip", "drip")
    ended = threading.Event()
    threading.Timer(0.2, ended.set).start()
    limits, start = SourceLimits(read_s=30, total_s=30), time.monotonic()
    with (
        pytest.raises(SourceError, match="the request ended") as found,
        remote_file("http://photos.example/drip", limits, server.network, ended.is_set) as content,
    ):
        list(content.chunks)
    assert found.value.status == 408
    assert time.monotonic() - start < 10


def test_ports_and_hosts_can_be_limited(server):
    error = refusal(server, "http://photos.example:6379/a.png", SourceLimits())
    assert (error.status, "only 80, 443" in str(error)) == (403, True)
    only = SourceLimits(hosts=("Example.org",))
    assert fetch(server, "http://img.example.org/a.png", only) == b"content"
    assert fetch(server, "http://EXAMPLE.ORG./a.png", only) == b"content"
    for host in ("example.com", "badexample.org", "example.org.evil.example"):
        assert refusal(server, f"http://{host}/a.png", only).status == 403
    server.add("/away", b"", status=302, location="http://evil.example/a.png")
    assert refusal(server, "http://example.org/away", only).status == 403


def test_limits_name_their_mistakes():
    found = SourceLimits(ports=(0, 80), hosts=("https://a.example", "*.example", "fine.example")).problems()
    assert [problem.path for problem in found] == ["ports", "hosts", "hosts"]


def test_an_address_of_this_machine_is_refused(server):
    """fails when a public address of the server's own machine reaches its private services"""
    with pytest.raises(ConnectionRefusedError, match="this server itself"):
        connect("127.0.0.1", server.port, 2.0)


def test_tls_verifies_the_name_not_the_address(tmp_path):
    """fails when the connection to a checked address loses the name for SNI and the certificate"""
    if which("openssl") is None:
        pytest.skip("openssl is not installed; it makes the certificate")
    certificate = _certificate(tmp_path, "photos.example")
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(*certificate)
    seen = []
    serving.sni_callback = lambda _, name, __: seen.append(name)
    with media_server(tls=serving) as server:
        server.tls = ssl.create_default_context(cafile=str(certificate[0]))
        server.add("/a.png", b"content", "image/png")
        assert fetch(server, "https://photos.example/a.png") == b"content"
        assert (seen, server.connected) == (["photos.example"], [(PUBLIC, 443)])
        assert "CERTIFICATE_VERIFY_FAILED" in str(refusal(server, "https://other.example/a.png"))
        assert len(server.asked) == 1


def _certificate(folder: Path, name: str) -> tuple[Path, Path]:
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    line = f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj /CN={name}"
    files = ["-addext", f"subjectAltName=DNS:{name}", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*line.split(), *files], check=True, capture_output=True)
    return certificate, key
