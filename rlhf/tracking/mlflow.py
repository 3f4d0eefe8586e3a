"""The tracker that sends metrics to MLflow."""

import time
from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

from torch import Tensor

from rlhf.tracking.optional import import_extra
from rlhf.tracking.tracker import Sample

BATCH = 100  # parameters that MLflow takes at once


class MLflowTracker:
    """Sends metrics to MLflow, which has no histograms and no NaN.

    Args:
        experiment: its name; it is made if there is none.
        run_name: of the run; empty: MLflow chooses one.
        tracking_uri: a server, database or directory; empty: as MLflow is configured.

    Raises:
        UsageError: mlflow is not installed.
    """

    def __init__(
        self, experiment: str = "rlhf", run_name: str = "", tracking_uri: str = ""
    ) -> None:
        mlflow = import_extra("mlflow", "mlflow")
        self._entities: Any = import_extra("mlflow.entities", "mlflow")
        self._client = mlflow.MlflowClient(tracking_uri or None)
        found = self._client.get_experiment_by_name(experiment)
        experiment_id = found.experiment_id if found else self._client.create_experiment(experiment)
        run = self._client.create_run(experiment_id, run_name=run_name or None)
        self.run_id: str = run.info.run_id
        self._status = "FAILED"

    def hparams(self, options: Mapping[str, object]) -> None:
        """Record the options of a new run as its parameters."""
        rows = [self._entities.Param(name, str(value)) for name, value in options.items()]
        for start in range(0, len(rows), BATCH):
            self._client.log_batch(self.run_id, params=rows[start : start + BATCH])

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Record the metrics of one step, by name."""
        now = int(time.time() * 1000)
        finite = {name: float(value) for name, value in values.items() if isfinite(value)}
        rows = [self._entities.Metric(name, x, now, step) for name, x in finite.items()]
        self._client.log_batch(self.run_id, metrics=rows)

    def histograms(self, values: Mapping[str, Tensor], step: int) -> None:
        """Record nothing: MLflow has no histograms."""

    def samples(self, rows: Sequence[Sample], step: int) -> None:
        """Record sampled responses: samples/STEP.json, and the images beside it."""
        texts = [
            {"instruction": row.instruction, "response": row.response, "score": row.score}
            for row in rows
        ]
        self._client.log_dict(self.run_id, {"samples": texts}, f"samples/{step}.json")
        for number, row in enumerate(rows):
            self._client.log_image(self.run_id, row.image, f"samples/{step}-{number}.png")

    def text(self, tag: str, markdown: str, step: int) -> None:
        """Record a text as TAG-STEP.md.

        Args:
            tag: its name.
            markdown: the text.
            step: the step that it belongs to.
        """
        self._client.log_text(self.run_id, markdown, f"{tag}-{step}.md")

    def finish(self, values: Mapping[str, float], step: int) -> None:
        """Record that the run has succeeded."""
        self._status = "FINISHED"

    def close(self) -> None:
        """End the run, as failed unless it has succeeded."""
        self._client.set_terminated(self.run_id, self._status)
