"""Media inside a request."""

from __future__ import annotations

import base64

import pytest

from chatbridge.serve.media_sources.content import Content
from chatbridge.serve.media_sources.data_urls import audio_data, data_url
from chatbridge.serve.media_sources.source_error import SourceError

DATA = bytes(range(256)) * 4
TEXT = base64.b64encode(DATA).decode()
MOST = 10_000


def read(content: Content) -> bytes:
    return b"".join(content.chunks)


@pytest.mark.parametrize(
    "url",
    [
        f"data:image/png;base64,{TEXT}",
        f"DATA:Image/PNG;charset=utf-8;BASE64,{TEXT}",
        f"data:image/png;base64,{TEXT.rstrip('=')}",
        f"data:image/png;base64, {TEXT[:76]}\r\n{TEXT[76:]}\n",
        f"data:image/png;base64,{base64.urlsafe_b64encode(DATA).decode()}",
        f"data:image/png;base64,{TEXT.replace('+', '%2B').replace('/', '%2F').replace('=', '%3D')}",
    ],
)
def test_base64_in_every_usual_spelling(url):
    content = data_url(url, MOST)
    assert read(content) == DATA
    assert (content.type, content.length) == ("image/png", len(DATA))


def test_data_without_base64_is_percent_encoded():
    content = data_url("data:,a%20b%00%ff", MOST)
    assert (read(content), content.type) == (b"a b\0\xff", "")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("data:image/png;base64", "no comma"),
        (f"data:image/png;base64{TEXT}", "no comma"),
        (f"data:image/png;base64,{TEXT[:-3]}*", "not valid"),
        ("data:image/png;base64,abcde", "not valid"),
        ("data:image/png;base64,ab=cd", "not valid"),
        ("data:image/png;base64,ab==cdef", "not valid"),
        ("data:image/png;base64,abcd\x00abc", "not valid"),
        ("data:image/png;base64,aü==", "not ASCII"),
        (f"data:{'x' * 600},a", "no comma"),
    ],
)
def test_damaged_data_is_refused(url, words):
    """fails when a cut-off upload is read as a shorter file"""
    with pytest.raises(SourceError, match=words) as found:
        read(data_url(url, MOST))
    assert found.value.status == 400
    assert len(str(found.value)) < 400


@pytest.mark.parametrize(
    "url",
    [
        f"data:image/png;base64,{'A' * 14_000}",
        f"data:image/png;base64,{'A' * 40_000}",
        f"data:image/png;base64,{'A' * 14_000 + ' ' * 9}",
        f"data:image/png,{'%41' * 10_001}",
    ],
)
def test_data_beyond_the_limit_is_refused_before_it_is_decoded(url, monkeypatch):
    monkeypatch.setattr("chatbridge.serve.media_sources.data_urls.binascii.a2b_base64", None)
    with pytest.raises(SourceError, match="0.01 MB are accepted") as found:
        data_url(url, MOST)
    assert found.value.status == 413


@pytest.mark.parametrize("piece", [1, 3, 7, 1 << 18])
@pytest.mark.parametrize("length", [0, 1, 2, 3, 4, 100])
def test_pieces_join_to_the_whole(piece, length, monkeypatch):
    """fails when a piece that ends within four characters, or within a line break, loses a byte"""
    monkeypatch.setattr("chatbridge.serve.media_sources.data_urls.PIECE", piece)
    content = data_url("data:;base64," + base64.encodebytes(DATA[:length]).decode().replace("B", "\r\n B"), MOST)
    assert read(content) == DATA[:length]
    assert content.length == length


def test_whitespace_does_not_count_as_data():
    assert len(read(data_url(f"data:;base64,{TEXT}{' ' * 19_000}", MOST))) == len(DATA)


def test_input_audio_has_a_format():
    content = audio_data(TEXT, "WAV", MOST)
    assert (read(content), content.type) == (DATA, "audio/wav")
    with pytest.raises(SourceError, match=r"input_audio.format is 'flacc'.*wav, mp3.*did you mean flac") as found:
        audio_data(TEXT, "flacc", MOST)
    assert found.value.status == 400
