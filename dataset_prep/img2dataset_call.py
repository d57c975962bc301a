"""The call of img2dataset: a command for one machine, or a script for a cluster."""

from __future__ import annotations

import ast
from argparse import Namespace
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from chatbridge.common.errors import DataError
from dataset_prep.link_lists import WebSet

LINKS_PER_SHARD = 10_000
CLUSTER = {
    "pyspark": """# spark-submit --master spark://host:7077 download.py
from img2dataset import download
from pyspark.sql import SparkSession

if __name__ == "__main__":
    session = SparkSession.builder.appName("img2dataset").getOrCreate()  # img2dataset uses the existing session
    print("parallel tasks:", session.sparkContext.defaultParallelism)
""",
    "ray": """# ray start --head, ray start --address=... on the other machines, then: python download.py
import ray
from img2dataset import download

if __name__ == "__main__":
    ray.init(address="auto")  # without a cluster this fails, instead of using one machine
    print("cores:", ray.cluster_resources().get("CPU"))
""",
}


def settings(asked: Namespace, layout: WebSet) -> dict[str, Any]:
    """The arguments of img2dataset that determine the images."""
    return {
        "output_format": "webdataset",
        "image_size": asked.image_size or layout.image_size,
        "resize_mode": asked.resize_mode or layout.resize_mode,
        "resize_only_if_bigger": layout.resize_only_if_bigger,
        "number_sample_per_shard": LINKS_PER_SHARD,
    }


def call(asked: Namespace, layout: WebSet, links: Path, ending: str, more: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of img2dataset."""
    default = (layout.url_col, layout.caption_col) if ending == "parquet" else ("url", "caption")
    return {
        "url_list": str(links),
        "input_format": ending,
        "url_col": asked.url_column or default[0],
        "caption_col": asked.caption_column or default[1],
        "output_folder": str(asked.out),
        **settings(asked, layout),
        "processes_count": asked.processes or layout.processes,
        "thread_count": asked.threads or layout.threads,
        "distributor": asked.distributor,
        "subjob_size": asked.subjob_size,
        "enable_wandb": False,
        **more,
    }


def command(named: Mapping[str, Any]) -> list[str]:
    return ["img2dataset", *(f"--{name}={value}" for name, value in named.items())]


def cluster_script(named: Mapping[str, Any]) -> str:
    """The same call as a script, because the command img2dataset would start Spark on one machine only."""
    full = {**named, **{name: str(Path(named[name]).absolute()) for name in ("url_list", "output_folder")}}
    arguments = "".join(f"        {name}={value!r},\n" for name, value in full.items())
    return CLUSTER[named["distributor"]] + f"    download(\n{arguments}    )\n"


def pairs(words: Sequence[str]) -> dict[str, Any]:
    """--timeout 20 --retries=1 as a mapping. raises DataError for other arguments"""
    found: dict[str, Any] = {}
    waiting = deque(words)
    while waiting:
        name, mark, value = waiting.popleft().partition("=")
        if not name.startswith("--") or not (mark or waiting):
            raise DataError(f"expected --name value for img2dataset after --, got {' '.join(words)!r}")
        found[name[2:].replace("-", "_")] = _value(value if mark else waiting.popleft())
    return found


def _value(text: str) -> Any:
    """The text as a Python literal, or the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
