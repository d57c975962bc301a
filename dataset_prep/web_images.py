"""Download a list of links and captions as image shards: CC3M, CC12M, SBU, LAION and the two lists of MiniGPT-4.

    python -m dataset_prep.web_images cc3m --list Train_GCC-training.tsv

Three steps; each resumes when the same command runs again:
  1. the list is checked and written as OUT/urls/links/00000.jsonl ... ({"url", "caption"}, a million lines each). A
     folder of .parquet (LAION) or .jsonl files is used directly;
  2. img2dataset (pip install img2dataset; tested with 1.47.0) downloads OUT/00000.tar ... of jpg + txt + json, with
     00000_stats.json and 00000.parquet (the status of every link) for each. Without img2dataset its command is printed;
  3. OUT/manifest.json is written: samples, bytes and checksums per tar, and the reasons of failed links.

Several machines: img2dataset distributes its shards over a cluster, which requires a session, so the call is written as
a script, OUT/download.py, for you to start. OUT and the list must be on storage that all machines share.
  --distributor multiprocessing   one machine, --processes of them (the default)
  --distributor pyspark           spark-submit --master spark://host:7077 OUT/download.py; every machine needs pyspark
                                  and img2dataset. Shards are assigned in groups of --subjob-size
  --distributor ray               `ray start` on every machine, then python OUT/download.py; every machine needs ray and
                                  img2dataset
  manually                        give every machine a part of OUT/urls/links in its own folder as --list and its own
                                  --out, and name all of these folders in the YAML:
                                  shards: ["data/laion_a/*.tar", "data/laion_b/*.tar"]
Then run the same command with --collect. A failed shard is repeated when the script is started again.
Arguments after `--` are passed to img2dataset:  ... -- --timeout 20 --retries 1
A local resolver on each machine (bind9, knot) avoids failed look-ups; with systemd-resolved use --threads 64.
Sites that forbid the use in their headers (X-Robots-Tag: noai, noindex ...) are skipped, the default of img2dataset.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from chatbridge.common.errors import DataError
from chatbridge.common.file_names import is_hidden
from dataset_prep.common import arguments
from dataset_prep.common.manifest import NAME, sha256, write_text
from dataset_prep.common.preparation import Preparation
from dataset_prep.img2dataset_call import LINKS_PER_SHARD, call, cluster_script, command, pairs, settings
from dataset_prep.img2dataset_stats import collect
from dataset_prep.link_lists import DIRECT_FORMATS, SETS, WebSet, read_links

PROGRAM = "dataset_prep.web_images"
LINKS_PER_FILE = 100 * LINKS_PER_SHARD  # a multiple, so that no shard has links of two files
ASIDE = "manifest.before"  # img2dataset reads every .json of its folder as statistics of a shard
HELP_TO_INSTALL = """img2dataset is not on the PATH. It pins old packages, so install it in a separate environment:

    python3 -m venv img2dataset-env && img2dataset-env/bin/pip install img2dataset
    export PATH=$PATH:$PWD/img2dataset-env/bin

and run the same command again; or run this command, on any machine, and then the same command with --collect:

    {command}"""


def write_links(made: Preparation, source: Path, layout: WebSet, limit: int | None) -> None:
    """Write the usable links as .jsonl files of a million lines; the others are skipped with their fault."""

    def good() -> Iterator[str]:
        for link in read_links(source, layout):
            if link.fault is None:
                yield json.dumps({"url": link.url, "caption": link.caption}, ensure_ascii=False) + "\n"
            else:
                made.skip(link.place, link.fault, link.url, file="")

    lines, number = islice(good(), limit), 0
    while group := list(islice(lines, LINKS_PER_FILE)):
        path = f"links/{number:05d}.jsonl"
        if not made.has(path):
            with made.writing(path) as part:
                part.write_text("".join(group), encoding="utf-8")
            made.add(path, len(group))
        print(f"{made.folder / path}: {len(group)} links", flush=True)
        number += 1
        if made.stops:
            return
    if not number:
        raise DataError(f"{source}: no link can be used; see {made.folder / 'skipped.jsonl'}")


def links_of(asked: Namespace, layout: WebSet) -> tuple[Path, str]:
    """The input of img2dataset: a folder and the ending of its files, to which the list is converted if necessary."""
    source: Path = asked.list
    if asked.limit and (source.is_dir() or source.suffix == ".parquet"):
        raise DataError(
            "--limit applies to a list; for a folder of parts use one part as --list, or a folder with fewer parts"
        )
    if source.is_dir():
        return source, _ending_of_parts(source)
    if source.suffix == ".parquet":
        return source, "parquet"
    made_with = {"list": fingerprint(source), "limit": asked.limit}
    with Preparation(asked.out / "urls", f"{asked.name} links", PROGRAM, made_with) as made:
        write_links(made, source, layout, asked.limit)
    print(made.report())
    return made.folder / "links", "jsonl"


def _ending_of_parts(folder: Path) -> str:
    """The ending of the files that img2dataset reads in a folder of parts.

    raises   DataError without such files, and for hidden files with this ending, which img2dataset would read too
    """
    names = [path.name for path in sorted(folder.iterdir()) if path.is_file()]
    parts = [name for name in names if not is_hidden(name)]
    ending = next((one for one in DIRECT_FORMATS if any(name.endswith(f".{one}") for name in parts)), None)
    if ending is None:
        raise DataError(f"{folder}: the folder contains no .{', .'.join(DIRECT_FORMATS)} file")
    hidden = [name for name in names if is_hidden(name) and name.endswith(f".{ending}")]
    if hidden:
        shown = ", ".join(hidden[:3]) + (", ..." if len(hidden) > 3 else "")
        raise DataError(
            f"{folder}: contains {len(hidden)} hidden files ({shown}), which are not lists, but img2dataset would "
            "read them; move them out of the folder"
        )
    return ending


def fingerprint(source: Path) -> dict[str, Any]:
    """The identity of a list: its checksum, or the names and sizes in a folder, because LAION's has 50 GB."""
    if source.is_dir():
        files = (file for file in sorted(source.iterdir()) if file.is_file() and not is_hidden(file.name))
        return {"files": {file.name: file.stat().st_size for file in files}}
    return {"name": source.name, "sha256": sha256(source)}


def download(named: Mapping[str, Any], out: Path) -> None:
    """Run img2dataset while the manifest has a different name. raises DataError if it is not installed or fails"""
    words = command(named)
    program = shutil.which(words[0])
    if program is None:
        raise DataError(HELP_TO_INSTALL.format(command=shlex.join(words)))
    out.mkdir(parents=True, exist_ok=True)
    _put_aside(out)
    try:
        code = subprocess.run([program, *words[1:]]).returncode
    finally:
        _put_back(out)
    if code:
        raise DataError(f"img2dataset ended with code {code}; finished shards are kept, run the same command to resume")


def _put_aside(out: Path) -> None:
    if (out / NAME).exists():
        (out / NAME).replace(out / ASIDE)


def _put_back(out: Path) -> None:
    """Restore the manifest, also after a kill in step 2."""
    if (out / ASIDE).exists() and not (out / NAME).exists():
        (out / ASIDE).replace(out / NAME)


def read_arguments(given: Sequence[str] | None = None) -> tuple[Namespace, dict[str, str]]:
    """The arguments, and those for img2dataset."""
    parser = arguments.parser(__doc__, PROGRAM, "the folder that its YAML names", workers=False)
    parser.set_defaults(out=None)
    parser.add_argument("name", choices=sorted(SETS))
    parser.add_argument("--list", type=Path, required=True, help="the published list, or a folder of its parts")
    parser.add_argument("--url-column", help="in .parquet (default: URL for LAION, else url)")
    parser.add_argument("--caption-column", help="in .parquet (default: TEXT for LAION, else caption)")
    parser.add_argument("--processes", type=arguments.positive, help="processes of img2dataset (default: 16)")
    parser.add_argument(
        "--threads", type=arguments.positive, help="threads per process (default: 64; LAION, MiniGPT-4: 128)"
    )
    parser.add_argument("--image-size", type=arguments.positive, help="pixels (default: 256; MiniGPT-4's sets: 224)")
    modes = ("no", "border", "keep_ratio", "keep_ratio_largest", "center_crop")
    parser.add_argument("--resize-mode", choices=modes, help="(default: keep_ratio, the short side; MiniGPT-4: border)")
    parser.add_argument("--distributor", choices=("multiprocessing", "pyspark", "ray"), default="multiprocessing")
    parser.add_argument(
        "--subjob-size", type=arguments.positive, default=1000, help="shards per group of pyspark (default: 1000)"
    )
    parser.add_argument("--print", action="store_true", help="only print the call of img2dataset")
    parser.add_argument("--collect", action="store_true", help="only step 3, after img2dataset has run")
    given = sys.argv[1:] if given is None else list(given)
    at = given.index("--") if "--" in given else len(given)
    asked = parser.parse_args(given[:at])
    asked.out = asked.out or Path(SETS[asked.name].out)
    if not asked.list.exists():
        raise DataError(f"there is no {asked.list}; see dataset_prep/cards/{asked.name}.md for its source")
    return asked, pairs(given[at + 1 :])


def main(given: Sequence[str] | None = None) -> int:
    asked, more = read_arguments(given)
    layout = SETS[asked.name]
    is_given = asked.list.is_dir() or asked.list.suffix == ".parquet"
    if asked.print:
        links, ending = links_of(asked, layout) if is_given else (asked.out / "urls/links", "jsonl")
        print(shlex.join(command(call(asked, layout, links, ending, more))))
        return 0
    if not asked.collect:
        named = call(asked, layout, *links_of(asked, layout), more)
        if asked.distributor != "multiprocessing":
            _put_aside(asked.out)
            path = write_text(asked.out / "download.py", cluster_script(named))
            print(f"{path}: start it in the cluster (see its first line), then run the same command with --collect")
            return 0
        download(named, asked.out)
    _put_back(asked.out)
    made_with = {"list": fingerprint(asked.list), "limit": asked.limit, **settings(asked, layout)}
    with Preparation(asked.out, asked.name, PROGRAM, made_with) as made:
        unfinished = collect(made)
    print("\n".join([made.report(), *(f"  not finished: {line}" for line in unfinished)]))
    return 0


if __name__ == "__main__":
    arguments.run(main)
