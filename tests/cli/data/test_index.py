"""`chatbridge data index`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from chatbridge.cli.data.index import main
from chatbridge.common.errors import ConfigError, DataError
from chatbridge.conversation.modalities import MODALITIES
from chatbridge.datasets.tars.index import find_index
from tests.helpers.tiny_media import jpeg, pairs, write_tar


@pytest.fixture
def tars(tmp_path: Path) -> Path:
    folder = tmp_path / "tars"
    write_tar(folder / "a.tar", pairs(3))
    members = [*pairs(2), ("x.txt", "no picture"), ("y.jpg", jpeg()), ("z.jpg", b""), ("z.txt", "nothing")]
    write_tar(folder / "deep" / "b.tar", members)
    return folder


def test_a_folder_is_indexed_and_what_samples_lack_is_named(tars: Path, capsys):
    """fails when counts are wrong, a sample without its picture goes unnamed, or what exists is made again"""
    assert main([str(tars)]) == 1
    said, kinds = capsys.readouterr().out, " or ".join(MODALITIES.names())
    assert "a.tar: 3 samples (image 3, txt 3), new index" in said
    for line in (
        f"1 without {kinds}: x",
        "1 without text: y",
        f"1 with an empty {kinds}: z",
    ):
        assert line in said
    assert "total: 8 samples (image 7, txt 7), 2 new indexes" in said
    assert main([str(tars / "a.tar")]) == 0
    assert "0 new indexes" in capsys.readouterr().out
    assert all(find_index(tar) for tar in tars.rglob("*.tar"))


def test_files_of_no_sample_are_told(tars: Path, capsys):
    """fails when the index passes over a file that it cannot place; such a file alone is no fault"""
    write_tar(tars / "a.tar", [*pairs(3), ("00000.cls", "3"), ("._00000.jpg", b"x"), ("00001.seg.png", b"x")])
    assert main([str(tars / "a.tar")]) == 0
    said = "3 files belong to no sample: with the ending .cls 1 (00000.cls), hidden 1 (._00000.jpg)"
    assert said in capsys.readouterr().out
    assert main([str(tars)]) == 1
    assert capsys.readouterr().out.count(said) == 2, "of the tar, and of all together"


def test_check_writes_nothing(tars: Path, capsys):
    """fails when --check leaves an index behind, or calls a folder without indexes complete"""
    assert main(["--check", str(tars)]) == 1
    assert "tars without a current index: 2" in capsys.readouterr().out
    assert not list(tars.rglob("*.index"))
    main([str(tars / "a.tar")])
    assert main(["--check", str(tars / "a.tar")]) == 0


def test_the_sources_of_a_configuration(tars: Path, tmp_path: Path, capsys):
    """fails when a YAML's modality is ignored, a remote source is opened, or a broken tar hides the others"""
    (tars / "broken.tar").write_bytes(b"no tar" * 300)
    config = tmp_path / "c.yaml"
    config.write_text(
        f"data: {{sources: {{p: {{name: web_pairs, modality: video, shards: '{tars}/*.tar'}}, "
        "q: {name: web_pairs, modality: image, shards: 'https://host/{0..3}.tar'}}}\n"
    )
    assert main([str(config), "--all"]) == 1
    said = capsys.readouterr().out
    assert "data.sources.q: remote shards" in said
    assert "3 without video: 00000, 00001, 00002" in said
    assert "broken.tar: cannot be read: it is not an uncompressed tar" in said


def test_many_sound_tars_are_summed_up(tmp_path: Path, capsys):
    """fails when ten thousand tars print ten thousand lines"""
    for number in range(45):
        write_tar(tmp_path / f"{number}.tar", [("0.jpg", b"x"), ("0.txt", "x")])
    assert main([str(tmp_path / "{0..44}.tar"), "--workers", "1"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_what_names_no_tar_is_refused(tmp_path: Path):
    """fails when a misspelled name is silently nothing"""
    write_tar(tmp_path / "images.tar", pairs(1))
    with pytest.raises(DataError, match="did you mean"):
        main([str(tmp_path / "image.tar")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no tars found"):
        main([str(tmp_path / "empty")])
    with pytest.raises(ConfigError):
        main([str(tmp_path / "no.yaml")])
    (tmp_path / "x.yaml").write_text("run: {max_steps: 3}")
    with pytest.raises(DataError, match="no source of tar shards"):
        main([str(tmp_path / "x.yaml")])


def test_a_missing_shard_does_not_keep_the_others(tmp_path: Path, capsys):
    """fails when a source that is not there yet hides the next one, or ends with a code that says all is well"""
    write_tar(tmp_path / "b.tar", pairs(2))
    sources = {name: {"name": "web_pairs", "shards": str(tmp_path / f"{name}.tar")} for name in ("a", "b", "c")}
    (tmp_path / "x.yaml").write_text(json.dumps({"data": {"sources": sources}}))
    with pytest.raises(DataError, match=r"sources.a: .*a.tar does not exist.*\n.*sources.c: .*c.tar does not exist"):
        main([str(tmp_path / "x.yaml")])
    assert "total: 2 samples" in capsys.readouterr().out
