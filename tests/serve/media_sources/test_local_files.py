"""file:// URLs: below one folder, whatever the path says and whatever changes meanwhile."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import pytest

from chatbridge.serve.media_sources.local_files import check_root, local_file
from chatbridge.serve.media_sources.source_error import SourceError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with files and links, beside a file that nobody may read."""
    folder = tmp_path / "media"
    (folder / "inner").mkdir(parents=True)
    (tmp_path / "secret.png").write_bytes(b"secret")
    (tmp_path / "media-of-others").mkdir()
    (tmp_path / "media-of-others" / "a.png").write_bytes(b"secret")
    (folder / "a b%.png").write_bytes(b"first")
    (folder / "inner" / "ü.png").write_bytes(b"second")
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "inside.png").symlink_to(folder / "a b%.png")
    (folder / "out").symlink_to(tmp_path)
    os.mkfifo(folder / "pipe.png")
    return folder


def read(url: str, root: Path) -> bytes:
    with local_file(url, check_root(root)) as content:
        return b"".join(content.chunks)


def test_files_below_the_folder(root):
    assert read(f"file://{root}/a%20b%25.png", root) == b"first"
    assert read(f"file://localhost{root}/inner/%C3%BC.png", root) == b"second"
    assert read(f"FILE://{root}//inner/./ü.png", root) == b"second"
    with local_file(f"file://{root}/inner/ü.png", check_root(root)) as content:
        assert (content.name, content.length) == ("ü.png", 6)


def test_the_folder_may_be_named_through_a_link(root, tmp_path):
    (tmp_path / "shortcut").symlink_to(root)
    for spelling in (root, tmp_path / "shortcut"):
        assert read(f"file://{spelling}/inner/ü.png", tmp_path / "shortcut") == b"second"


@pytest.mark.parametrize(
    ("url", "status"),
    [
        ("file://{above}/secret.png", 403),
        ("file://{above}/not-there.png", 403),  # the same as for a file that is there
        ("file://{root}/../secret.png", 403),
        ("file://{root}/inner/../a%20b%25.png", 403),
        ("file://{root}/%2e%2e/secret.png", 403),
        ("file://{root}/..%2fsecret.png", 403),
        ("file://{root}%2f..%2fsecret.png", 403),
        ("file://{above}/media-of-others/a.png", 403),
        ("file://{root}", 403),
        ("file://{root}/", 403),
        ("file:///etc/passwd", 403),
        ("file:///proc/self/environ", 403),
        ("file://{root}/link.png", 403),
        ("file://{root}/inside.png", 403),
        ("file://{root}/out/secret.png", 403),
        ("file://{root}/out", 403),
        ("file://{root}/no.png", 404),
        ("file://{root}/no/no.png", 404),
        ("file://{root}/a%20b%25.png/x", 404),
        ("file://{root}/" + "x" * 5000, 404),
        ("file://{root}/inner", 400),
        ("file://{root}/pipe.png", 400),
        ("file://{root}/a%20b%25.png%00.txt", 400),
        ("file://{root}/a.png?x=1", 400),
        ("file://elsewhere{root}/a.png", 400),
        ("file://[::1/a.png", 400),
        ("file:relative.png", 400),
        ("file:", 400),
    ],
)
def test_everything_else_is_refused(root, url, status):
    """fails when a request reads a file that is not below --media-root, or learns whether there is one"""
    text = url.format(root=root, above=root.parent)
    with pytest.raises(SourceError) as found:
        read(text, root)
    assert found.value.status == status, str(found.value)
    assert "secret" not in str(found.value).replace("secret.png", "")


def test_a_file_without_permission(root):
    (root / "locked.png").write_bytes(b"x")
    (root / "locked.png").chmod(0)
    if os.access(root / "locked.png", os.R_OK):
        pytest.skip("this user reads every file")
    with pytest.raises(SourceError, match="permission"):
        read(f"file://{root}/locked.png", root)


def test_without_a_folder_no_file_is_read(root):
    with pytest.raises(SourceError, match="--media-root") as found, local_file(f"file://{root}/a.png", None):
        pass
    assert found.value.status == 403


def test_the_folder_must_be_one(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file"):
        check_root(tmp_path / "file")
    with pytest.raises(ValueError, match="cannot be opened"):
        check_root(tmp_path / "nothing")


@pytest.mark.parametrize(("moment", "outcome"), [(b"swapped", 403), (b"a.png", b"inside")])
def test_a_path_that_changes_while_it_is_opened(root, tmp_path, monkeypatch, moment, outcome):
    """fails when the check and the opening are two steps: another process swaps a folder for a link in between

    moment   the folder is swapped right before this part of the path is opened
    """
    (root / "swapped").mkdir()
    (root / "swapped" / "a.png").write_bytes(b"inside")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "a.png").write_bytes(b"outside")
    really_open, swaps = os.open, []

    def swap_first(name, flags, *more, **named):
        if name == moment and not swaps:
            (root / "swapped").rename(root / "aside")
            (root / "swapped").symlink_to(tmp_path / "outside")
            swaps.append(name)
        return really_open(name, flags, *more, **named)

    monkeypatch.setattr(os, "open", swap_first)
    monkeypatch.setattr(os, "supports_dir_fd", {swap_first})
    try:
        found: bytes | int = read(f"file://{root}/swapped/a.png", root)
    except SourceError as error:
        found = error.status
    assert (found, swaps) == (outcome, [moment])


def test_no_descriptor_is_left_open(root):
    count = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else None
    for url in (f"file://{root}/inner/ü.png", f"file://{root}/out/secret.png", f"file://{root}/inner", "file:///x"):
        for _ in range(3):
            with suppress(SourceError):
                read(url, root)
    assert count is None or len(os.listdir("/proc/self/fd")) <= count
