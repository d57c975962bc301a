"""From the names in a tar to samples: keys, further files, files of no sample."""

from __future__ import annotations

import tarfile
from pathlib import Path

from chatbridge.datasets.tars.index import find_index, open_index
from tests.helpers.tar_files import file, keys, link, outcomes, pack
from tests.helpers.tiny_media import jpeg, pairs, write_tar


def test_a_key_ends_at_the_last_ending(tmp_path: Path):
    """fails when a name with dots, spaces or capitals is not found in a tar, or loses its caption"""
    names = ["Track 2.0 (Clean)", "img_v1.5_7", "a..b", "Dr. No.1962", "x.y/2.5.1", "0"]
    tar = write_tar(
        tmp_path / "k.tar",
        [member for n in names for member in ((f"{n}.JPG", jpeg(len(n))), (f"{n}.Txt", f"c{len(n)}"))],
    )
    assert keys(tar) == names
    assert outcomes(tar) == [(jpeg(len(n)), f"c{len(n)}") for n in names]
    assert open_index(tar).left_out == 0


def test_further_files_of_a_sample_are_not_samples(tmp_path: Path):
    """fails when a mask beside its image becomes a separate sample, or the caption `0.caption.txt` is lost"""
    tar = write_tar(
        tmp_path / "f.tar",
        [
            ("p/0.jpg", jpeg(1)), ("p/0.seg.png", b"mask"), ("p/0.caption.txt", "named caption"),
            ("1.jpg", jpeg(2)), ("1.jpg.txt", "beside the file"),
            ("2.jpg", jpeg(3)), ("2.txt", "own"), ("2.caption.txt", "other"), ("2.left.png", b"x"),
            ("3.0.jpg", jpeg(4)), ("3.0.txt", "own sample"), ("3.jpg", jpeg(5)), ("3.txt", "three"),
            ("4.5.jpg", jpeg(6)),
        ],
    )  # fmt: skip
    assert keys(tar) == ["p/0", "1", "2", "3.0", "3", "4.5"]
    assert outcomes(tar) == [
        (jpeg(1), "named caption"), (jpeg(2), "beside the file"), (jpeg(3), "own"), (jpeg(4), "own sample"),
        (jpeg(5), "three"), "the tar has no text of 4.5 (txt or json)",
    ]  # fmt: skip
    left = open_index(tar).left()
    assert left.kinds == {"further files of a sample": (3, ["p/0.seg.png", "2.caption.txt", "2.left.png"])}


def test_files_of_no_sample_are_counted_and_named(tmp_path: Path, caplog):
    """fails when a file of no sample is missing in the index or in the log of a run"""
    tar = pack(
        tmp_path / "n.tar",
        [
            file("./0.jpg", jpeg(1)), file("./0.txt", "zero"), file("0.png", b"x"),
            file("./0.cls", "3"), file("1.cls", "3"), file("README", "x"), file("x.json.gz", b"x"),
            file("y.heic", b"x"), file("z.Mr. Very Long Name", b"x"),
            file("._0.jpg", b"x"), file("__MACOSX/0.jpg", b"x"), file("d/.DS_Store", b"x"), file(".cache/0.jpg", b"x"),
            link("pipe.jpg", "", tarfile.FIFOTYPE), link("folder.jpg", "", tarfile.DIRTYPE),
        ],
    )  # fmt: skip
    caplog.set_level("INFO")
    assert keys(tar) == ["0"]
    assert open_index(tar).left().kinds == {
        "a second image of a sample": (1, ["0.png"]),
        "with the ending .cls": (2, ["./0.cls", "1.cls"]),
        "without an ending": (1, ["README"]),
        "with the ending .json.gz": (1, ["x.json.gz"]),
        "with the ending .heic": (1, ["y.heic"]),
        "with other endings": (1, ["z.Mr. Very Long Name"]),
        "hidden": (4, ["._0.jpg", "__MACOSX/0.jpg", "d/.DS_Store"]),
        "devices and pipes": (1, ["pipe.jpg"]),
    }
    assert (
        "source pairs: 12 files belong to no sample: hidden 4 (._0.jpg, __MACOSX/0.jpg, d/.DS_Store, ...)"
        in caplog.text
    )
    assert find_index(tar) == open_index(tar), "what was written is found again"


def test_odd_endings_do_not_fill_the_index(tmp_path: Path):
    """fails when every file of a tar is a kind, and the list in the index is as long as the tar"""
    tar = write_tar(tmp_path / "o.tar", [*pairs(1), *((f"{n}.e{n}", b"x") for n in range(500))])
    left = open_index(tar).left()
    assert left.count == 500 and len(left.kinds) <= 21
    assert "500 files belong to no sample" in str(left)


def test_equal_keys_get_different_names(tmp_path: Path):
    """fails when two samples of a tar have one name: a quarantine list would exclude the wrong one"""
    one = [("0.jpg", jpeg(1)), ("0.txt", "a")]
    assert keys(write_tar(tmp_path / "e.tar", [*one, ("0#2.jpg", jpeg(2)), ("0#2.txt", "b"), *one, *one])) == [
        "0", "0#2", "0#3", "0#4",
    ]  # fmt: skip


def test_composed_and_decomposed_letters_are_one_name(tmp_path: Path):
    """fails when an image packed on macOS (e and accent as two characters) loses a caption from elsewhere"""
    tar = write_tar(tmp_path / "u.tar", [("cafe\u0301.jpg", jpeg(1)), ("caf\u00e9.txt", "coffee")])
    assert outcomes(tar) == [(jpeg(1), "coffee")] and keys(tar) == ["caf\u00e9"]


def test_repeated_keys_and_several_images_of_one_sample(tmp_path: Path):
    """fails when a repeated key hides a sample, or a preview beside the image becomes a separate sample"""
    tar = write_tar(
        tmp_path / "d.tar",
        [
            ("0.gif", b"preview"), ("0.jpg", jpeg(1)), ("0.png", b"mask"), ("0.txt", "first"),
            ("0.jpg", jpeg(2)), ("0.txt", "second of the same key"),
            ("1.jpg", b""), ("1.txt", "nothing to see"), ("2.jpg", jpeg(3)), ("2.txt", ""),
            ("3.TIFF", b"tiff"), ("3.txt", "endings in capitals"),
        ],
    )  # fmt: skip
    assert outcomes(tar) == [
        (jpeg(1), "first"),
        (jpeg(2), "second of the same key"),
        "the image of 1 is empty (0 bytes)",
        "the caption of 2 is empty",
        (b"tiff", "endings in capitals"),
    ]
