"""Lists of links become image shards: formats, faults, and the calls of img2dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chatbridge.common.errors import DataError
from chatbridge.config.merge import load
from chatbridge.config.schema import parse
from chatbridge.datasets.builders.web_pairs import WebPairs
from dataset_prep import web_images
from dataset_prep.img2dataset_stats import reason_of
from dataset_prep.link_lists import SETS, Link, WebSet, read_links
from tests.helpers import stage1_inputs as inputs
from tests.helpers.stage1_inputs import manifest_of, without_name

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("name", "listed_faults", "samples"),
    [
        ("cc3m", {"does not have 2 columns": 1, "has no caption": 1}, 5),
        ("cc12m", {"its link does not begin with http": 1}, 5),
        ("sbu", {}, 5),
        ("laion", None, 6),
        ("minigpt4_laion", {"has no url and caption": 1}, 5),
        ("minigpt4_cc_sbu", {}, 5),
    ],
)
def test_lists_of_images(here: Path, name: str, listed_faults: dict[str, int] | None, samples: int):
    """fails when a published list is not read, a link is lost without a reason, or the shards are not in the folder of
    the YAML"""
    lists = inputs.write_lists(here / "raw")
    assert web_images.main([name, "--list", str(lists[name])]) == 0
    out = Path(SETS[name].out)
    manifest = manifest_of(out)
    assert manifest.samples == samples and manifest.name == name
    if listed_faults is not None:
        assert manifest.skipped == {"HTTP error 404": 1}
        assert manifest_of(out / "urls").skipped == listed_faults
    node = load(ROOT / f"configs/datasets/{name}.yaml")[0]["data"]["sources"][name]
    shards = sorted(map(str, out.glob("*.tar")))
    assert node["shards"].startswith(f"{out}/") and len(shards) == 2
    source = WebPairs(parse(WebPairs.Config, {**without_name(node), "shards": shards}), name)
    assert len(source) == samples
    references = source.record(0, np.random.default_rng(0)).references
    assert references[0].startswith("picture number" if name != "laion" else "a picture")


def test_a_download_resumes(here: Path, capfd: pytest.CaptureFixture[str]):
    """fails when img2dataset reads our manifest as statistics, or an unfinished shard counts as finished"""
    source = inputs.write_lists(here / "raw")["cc3m"]
    arguments = ["cc3m", "--list", str(source), "--out", "out"]
    assert web_images.main(arguments) == 0
    before = (here / "out/manifest.json").read_text()
    (here / "out/00001_stats.json").unlink()  # img2dataset was killed in its second shard
    assert web_images.main([*arguments, "--collect"]) == 0
    assert "not finished: 00001.tar: has no _stats.json" in capfd.readouterr().out
    assert web_images.main(arguments) == 0
    assert (here / "out/manifest.json").read_text() == before
    with pytest.raises(DataError, match="--limit applies to a list"):
        web_images.main(["laion", "--list", str(source.parent / "laion400m-meta"), "--limit", "5"])
    with pytest.raises(DataError, match="image_size: 256 before, 224 now"):
        web_images.main([*arguments, "--image-size", "224", "--collect"])


def test_without_img2dataset_the_command_is_shown(here: Path, monkeypatch: pytest.MonkeyPatch):
    """fails when a user without the program does not get the exact call, or MiniGPT-4's differs from the original"""
    source = inputs.write_lists(here / "raw")["minigpt4_laion"]
    monkeypatch.setenv("PATH", str(here))
    with pytest.raises(DataError) as error:
        web_images.main(["minigpt4_laion", "--list", str(source), "--", "--timeout", "20", "--retries=2"])
    message = str(error.value)
    assert "pip install img2dataset" in message and "--collect" in message
    reference = "--image_size=224 --resize_mode=border --resize_only_if_bigger=False --number_sample_per_shard=10000"
    assert reference in message and "--processes_count=16 --thread_count=128 " in message
    assert message.endswith("--timeout=20 --retries=2") and "--output_folder=data/laion/laion_dataset" in message


@pytest.mark.parametrize(("distributor", "session"), [("pyspark", "SparkSession.builder"), ("ray", "ray.init")])
def test_the_script_for_a_cluster(here: Path, distributor: str, session: str):
    """fails when a cluster gets different arguments from a single machine, or img2dataset reads our manifest"""
    source = inputs.write_lists(here / "raw")["cc3m"]
    command = ["cc3m", "--list", str(source)]
    assert web_images.main(command) == 0
    assert web_images.main([*command, "--distributor", distributor, "--", "--timeout", "20"]) == 0
    assert not list(Path("data/cc3m").glob("manifest.json"))
    script = Path("data/cc3m/download.py").read_text()
    assert session in script and f"distributor='{distributor}'" in script and "timeout=20," in script
    compile(script, "download.py", "exec")
    asked: dict[str, Any] = {}
    exec(script[script.index("    download(") :].replace("    download", "download", 1), {"download": asked.update})
    assert asked["output_folder"] == str(here / "data/cc3m") and asked["resize_only_if_bigger"] is True
    assert Path(asked["url_list"]).is_dir() and asked["thread_count"] == 64
    assert web_images.main([*command, "--collect"]) == 0 and manifest_of(Path("data/cc3m")).samples == 5


def test_lists_of_any_size_and_their_faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """fails when a JSON list is split at a chunk of the file, or a damaged one has no message"""
    monkeypatch.setattr("dataset_prep.link_lists.CHUNK", 7)
    path = tmp_path / "list.json"
    path.write_text('\n [ {"url": "http://a/1", "caption": "x ]} \\" , é"} ,\n{"url":"http://a/2","caption":"b"}]\n')
    links = [Link("record 0", "http://a/1", 'x ]} " , é'), Link("record 1", "http://a/2", "b")]
    assert list(read_links(path, SETS["sbu"])) == links
    path.write_text('[{"url": "http://a/1", "caption"')
    with pytest.raises(DataError, match="is not valid JSON from"):
        list(read_links(path, SETS["sbu"]))
    table = tmp_path / "list.tsv"
    table.write_bytes('\ufeffcaption\turl\n"dog" says\thttp://a\n'.encode() + b"\xff\thttp://b\n\n")
    found = list(read_links(table, WebSet(columns=("caption", "url"), out="x")))
    assert found == [Link("line 2", "http://a", '"dog" says'), Link("line 3", fault="is not UTF-8 text")]
    with pytest.raises(DataError, match="unpack it first"):
        list(read_links(tmp_path / "list.tsv.gz", SETS["cc3m"]))


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        ("HTTP Error 403: Forbidden", "HTTP error 403"),
        ("<urlopen error [Errno -2] Name or service not known>", "cannot be reached"),
        ("The read operation timed out", "timed out"),
        ("Image decoding error", "is not a usable image"),
        ("Use of image disallowed by X-Robots-Tag directive", "its site does not allow it"),
        ("<urlopen error [SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed>", "its certificate is not valid"),
        ("IncompleteRead(0 bytes read)", "a different download error"),
    ],
)
def test_reasons_of_lost_links(status: str, reason: str):
    """fails when an error is counted with the wrong reason"""
    assert reason_of(status) == reason
