"""Files and addresses as a user names them."""

from __future__ import annotations

import pytest

from chatbridge.common.errors import MediaError
from chatbridge.serve.media_refs import MediaRef, attached, downloaded, problem_of, refs_in
from tests.helpers.shard_server import serving

ACCEPTED = ("image", "audio")


def test_an_address_is_attached_like_its_file(engine, world, tmp_path):
    """fails when a downloaded file is read differently from a local one, or its name does not help to find its kind"""
    with serving(world.files["image"].parent) as server:
        found = attached(engine, MediaRef(f"{server.url}/photo.jpg?width=20"), tmp_path)
        again = attached(engine, MediaRef(f"{server.url}/photo.jpg", "image"), tmp_path)
        with pytest.raises(MediaError, match=r"gone\.jpg: the server answered 404"):
            attached(engine, MediaRef(f"{server.url}/gone.jpg"), tmp_path)
        with pytest.raises(MediaError, match=r"photo\.jpg: larger than 1e-05 MB .evaluation\.chat\.max_file_mb"):
            downloaded(f"{server.url}/photo.jpg", tmp_path, 1e-5)
        server.drop_after = 100
        with pytest.raises(MediaError, match=r"photo\.jpg: the connection"):
            downloaded(f"{server.url}/photo.jpg", tmp_path, 1)
    local = engine.attach(world.files["image"])
    for one in (found, again):
        assert one.media[0].modality == "image" and one.media[0].ref.tensor.equal(local.media[0].ref.tensor)
    assert found.address == f"{server.url}/photo.jpg" and found.path.suffix == ".jpg"
    with pytest.raises(MediaError, match="cannot process smell|no modality is named 'smell'"):
        attached(engine, MediaRef("rose.txt", "smell"), tmp_path)


def test_mistakes_show_without_opening_a_file(tmp_path):
    """fails when a missing file, a wrong modality or an address that is not http is found only after loading a model"""
    (tmp_path / "dog.jpg").write_bytes(b"x")
    near = problem_of(MediaRef(str(tmp_path / "dg.jpg"), "image"), ACCEPTED)
    assert near is not None and near.path == "--image" and near.nearest == "dog.jpg"
    assert problem_of(MediaRef(str(tmp_path / "dog.jpg")), ACCEPTED) is None
    assert problem_of(MediaRef("https://example.org/a.jpg"), ACCEPTED) is None
    assert "not an http" in str(problem_of(MediaRef("s3://bucket/a.jpg"), ACCEPTED))
    assert "has no host" in str(problem_of(MediaRef("http:///a.jpg"), ACCEPTED))
    assert "cannot process video" in str(problem_of(MediaRef("x.mp4", "video"), ACCEPTED))
    assert "did you mean audio?" in str(problem_of(MediaRef("x.wav", "audoi"), ACCEPTED))
    assert "text only" in str(problem_of(MediaRef("x.wav", "audio"), ()))
    assert "not a valid path" in str(problem_of(MediaRef("x" * 5000), ACCEPTED))


def test_file_names_are_read_as_in_a_shell(tmp_path, monkeypatch):
    """fails when a name with blanks, quotes or escapes, as terminals paste dropped files, is taken apart"""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my dog.jpg").write_bytes(b"x")
    assert refs_in("my dog.jpg", "image") == [MediaRef("my dog.jpg", "image")]
    assert refs_in(r"my\ dog.jpg 'it is.wav' b.wav") == [
        MediaRef("my dog.jpg"),
        MediaRef("it is.wav"),
        MediaRef("b.wav"),
    ]
    assert refs_in("it's.jpg") == [MediaRef("it's.jpg")] and refs_in("  ") == []
    assert refs_in("https://example.org/a b.jpg") == [MediaRef("https://example.org/a b.jpg")]
