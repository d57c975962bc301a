"""The section `run.trackers` of a YAML."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import ClassVar, Literal
from urllib.parse import urlsplit

from chatbridge.common.errors import Problem
from chatbridge.common.extras import how_to_install

_KEY = "a key does not belong in a file: remove it, and set the environment variable {}"


@dataclass(frozen=True, kw_only=True)
class WandbConfig:
    """Weights & Biases. Its key comes from the environment variable WANDB_API_KEY."""

    ELSEWHERE: ClassVar = dict.fromkeys(("api_key", "key", "token", "password"), _KEY.format("WANDB_API_KEY"))

    project: str = "chatbridge"
    entity: str | None = None  # team or user; null: the default one of the key
    name: str | None = None  # of the run; null: the name of output_dir
    # offline: files in output_dir/wandb, which `wandb sync` uploads later
    mode: Literal["online", "offline"] = "online"

    def problems(self) -> Iterable[Problem]:
        """A package that is not installed."""
        if find_spec("wandb") is None:
            yield Problem("", "needs the package 'wandb'", hint=how_to_install("wandb"))


@dataclass(frozen=True, kw_only=True)
class MlflowConfig:
    """MLflow. User, password or token come from MLFLOW_TRACKING_USERNAME, _PASSWORD and _TOKEN in the environment."""

    ELSEWHERE: ClassVar = {
        **dict.fromkeys(("token", "key", "api_key"), _KEY.format("MLFLOW_TRACKING_TOKEN")),
        "username": _KEY.format("MLFLOW_TRACKING_USERNAME"),
        "password": _KEY.format("MLFLOW_TRACKING_PASSWORD"),
    }

    uri: str  # address of the server, http://host:5000, or a folder: file:///data/mlruns
    experiment: str = "chatbridge"
    name: str | None = None  # of the run; null: the name of output_dir

    def problems(self) -> Iterable[Problem]:
        """A password in the address, an address of another kind, or a package that is not installed."""
        parts = urlsplit(self.uri)
        if parts.password is not None or parts.username is not None:
            hint = "remove user and password from it, and set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
            yield Problem("uri", "holds a user or a password", hint=hint)
        elif parts.scheme not in ("http", "https", "file", "databricks"):
            allowed = ("http://host:5000", "https://host", "file:///folder", "databricks")
            yield Problem("uri", f"is {self.uri!r}, which is no address of a tracking server", allowed=allowed)
        if find_spec("mlflow") is None:
            yield Problem("", "needs the package 'mlflow-skinny'", hint=how_to_install("mlflow"))


@dataclass(frozen=True, kw_only=True)
class TrackersConfig:
    """Where the curves of a run go besides TensorBoard. A tracker that fails never stops a run."""

    wandb: WandbConfig | None = None  # Weights & Biases
    mlflow: MlflowConfig | None = None
