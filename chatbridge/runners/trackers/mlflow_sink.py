"""MLflow: curves as metrics, settings as parameters, by its client for servers and folders.

Source: https://mlflow.org/docs/latest/api_reference/python_api/mlflow.client.html; mlflow-skinny 3.17.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from chatbridge.common.extras import need
from chatbridge.runners.trackers.background import Point
from chatbridge.runners.trackers.config import MlflowConfig

STATUS = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
MOST_METRICS, MOST_PARAMS, LONGEST = 1000, 100, 500  # of one request; characters of a parameter's value
DEFAULTS = {  # of the library, unless the environment sets them: at most about ten seconds for a server that is down
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_ALLOW_FILE_STORE": "true",  # a folder as the address is a deliberate choice
    "MLFLOW_ENABLE_ASYNC_LOGGING": "false",
}


class MlflowSink:
    """A run of MLflow. name: of our run folder

    A slash in a name becomes a dot: in a folder of MLflow, the curve `loss` is a file and `loss/a` would be below it.
    """

    name = "mlflow"

    def __init__(self, config: MlflowConfig, name: str) -> None:
        self.config = config
        self.run_name = config.name or name
        self.run_id = ""
        self.client: Any = None

    def start(self, run_id: str | None, settings: Mapping[str, Any]) -> str:
        for name, value in DEFAULTS.items():
            os.environ.setdefault(name, value)
        need("mlflow", "run.trackers.mlflow")
        from mlflow.entities import Param
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient

        self.client = MlflowClient(tracking_uri=self.config.uri)
        if run_id is not None:
            try:
                self.client.update_run(run_id, status="RUNNING")
                self.run_id = run_id
                return run_id
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":  # it was removed: a new one
                    raise
        self.run_id = self.client.create_run(self._experiment(), run_name=self.run_name).info.run_id
        params = [Param(key, value[:LONGEST]) for key, value in _flat(settings)]
        for start in range(0, len(params), MOST_PARAMS):
            self.client.log_batch(self.run_id, params=params[start : start + MOST_PARAMS])
        return self.run_id

    def send(self, points: Sequence[Point]) -> None:
        from mlflow.entities import Metric

        metrics = [
            Metric(name.replace("/", "."), float(value), int(seconds * 1000), step)
            for step, seconds, values in points
            for name, value in values.items()
            if math.isfinite(value)
        ]
        for start in range(0, len(metrics), MOST_METRICS):
            self.client.log_batch(self.run_id, metrics=metrics[start : start + MOST_METRICS])

    def finish(self, outcome: str) -> None:
        self.client.set_terminated(self.run_id, STATUS.get(outcome, "FAILED"))

    def _experiment(self) -> str:
        found = self.client.get_experiment_by_name(self.config.experiment)
        return found.experiment_id if found is not None else self.client.create_experiment(self.config.experiment)


def _flat(settings: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    """(dotted key, text) of every setting."""
    for key, value in settings.items():
        inner = f"{path}.{key}" if path else str(key)
        if isinstance(value, Mapping) and value:
            yield from _flat(value, inner)
        else:
            yield inner, str(value)
