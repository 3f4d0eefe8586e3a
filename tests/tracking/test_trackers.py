"""Trackers besides TensorBoard, against the libraries where they are installed, else stand-ins."""

import json
import sys
from collections.abc import Callable
from math import nan
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
from PIL import Image

from rlhf.errors import UsageError
from rlhf.tracking.mlflow import MLflowTracker
from rlhf.tracking.reader import read_metrics
from rlhf.tracking.tracker import Sample, Tracker
from rlhf.tracking.wandb import WandbTracker
from rlhf.tracking.writer import MetricsWriter

SAMPLE = Sample(Image.new("RGB", (4, 4), "red"), "What?", "red", 1.5)


def track(tracker: Tracker, directory: Path | None = None) -> None:
    """Everything that a run hands to a tracker, through the writer."""
    with MetricsWriter(directory, final_metrics=["lr"], trackers=[tracker]) as writer:
        writer.hparams({"ppo.lr": 0.5, "seed": 0})
        writer.scalars({"lr": 0.25, "objective/kl": nan, "scores/brief": 2.0, "user/mine": 3.0}, 0)
        writer.histograms({"scores": torch.tensor([1.0, 2.0]), "empty": torch.zeros(0)}, 0)
        writer.samples([SAMPLE], 0)
        writer.text("health", "**KL** explodes", 1)
        writer.scalars({"lr": 0.125}, 1)


class FakeWandb(ModuleType):
    """What of wandb is used; every call is recorded."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.run = MagicMock()
        self.init = MagicMock(return_value=self.run)
        self.Histogram = lambda values: ("histogram", values.tolist())
        self.Image = lambda image, caption: ("image", image.size, caption)
        self.Table = lambda columns, data: ("table", columns, data)


def test_wandb_gets_everything_with_the_step_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    track(WandbTracker(project="mine", mode="offline"))
    fake.init.assert_called_once_with(project="mine", mode="offline")
    fake.run.define_metric.assert_called_once_with("*", step_metric="step")
    fake.run.config.update.assert_called_once_with(
        {"ppo.lr": 0.5, "seed": 0}, allow_val_change=True
    )
    logged = [call.args[0] for call in fake.run.log.call_args_list]
    assert [line["step"] for line in logged] == [0, 0, 0, 1, 1]
    assert logged[0]["lr"] == 0.25 and logged[0]["user/mine"] == 3.0
    assert logged[1] == {"step": 0, "scores_histogram": ("histogram", [1.0, 2.0])}
    assert logged[2]["samples"] == [("image", (4, 4), "What?\nred\nscore 1.500")]
    assert logged[3]["health"] == ("table", ["text"], [["**KL** explodes"]])
    fake.run.summary.update.assert_called_once_with({"lr": 0.125})
    fake.run.finish.assert_called_once_with()


def test_wandb_writes_offline(tmp_path: Path) -> None:
    wandb = pytest.importorskip("wandb")
    tracker = WandbTracker(project="test", mode="offline", dir=str(tmp_path))
    track(tracker)
    assert wandb.run is None, "the run has ended"
    assert [*tmp_path.glob("wandb/offline-run-*/run-*.wandb")]
    assert tracker._run.config["ppo.lr"] == 0.5


class FakeClient:
    """What of an MlflowClient is used; every call is recorded."""

    def __init__(self, uri: str | None) -> None:
        self.uri, self.calls = uri, list[tuple[str, tuple[Any, ...]]]()

    def get_experiment_by_name(self, name: str) -> None:
        return None

    def create_experiment(self, name: str) -> str:
        return f"id of {name}"

    def create_run(self, experiment_id: str, run_name: str | None) -> Any:
        self.calls.append(("create_run", (experiment_id, run_name)))
        return SimpleNamespace(info=SimpleNamespace(run_id="run"))

    def __getattr__(self, name: str) -> Callable[..., None]:
        def record(run_id: str, *given: Any, **named: Any) -> None:
            assert run_id == "run"
            self.calls.append((name, (*given, *named.values())))

        return record


@pytest.fixture
def fake_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    entities = ModuleType("mlflow.entities")
    entities.Param = lambda *given: given  # type: ignore[attr-defined]
    entities.Metric = lambda name, value, time, step: (name, value, step)  # type: ignore[attr-defined]
    mlflow = ModuleType("mlflow")
    mlflow.MlflowClient = FakeClient  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    monkeypatch.setitem(sys.modules, "mlflow.entities", entities)


def test_mlflow_gets_finite_values_texts_and_samples(fake_mlflow: None) -> None:
    tracker = MLflowTracker("mine", "first", "sqlite:///x.db")
    track(tracker)
    assert tracker._client.uri == "sqlite:///x.db"
    calls = tracker._client.calls
    assert calls[0] == ("create_run", ("id of mine", "first"))
    assert calls[1] == ("log_batch", ([("ppo.lr", "0.5"), ("seed", "0")],))
    assert calls[2][1][0] == [("lr", 0.25, 0), ("scores/brief", 2.0, 0), ("user/mine", 3.0, 0)]
    assert calls[3][1][1] == "samples/0.json" and calls[4][1][1] == "samples/0-0.png"
    assert calls[5] == ("log_text", ("**KL** explodes", "health-1.md"))
    assert calls[-1] == ("set_terminated", ("FINISHED",))


def test_mlflow_marks_a_run_that_breaks_as_failed(fake_mlflow: None) -> None:
    tracker = MLflowTracker()
    with (
        pytest.raises(RuntimeError),
        MetricsWriter(None, final_metrics=["lr"], trackers=[tracker]),
    ):
        raise RuntimeError
    assert tracker._client.calls[-1] == ("set_terminated", ("FAILED",))


def test_mlflow_writes_to_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = (tmp_path / "runs").as_uri()
    tracker = MLflowTracker("test", tracking_uri=uri)
    track(tracker)
    run = mlflow.MlflowClient(uri).get_run(tracker.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.metrics == {"lr": 0.125, "scores/brief": 2.0, "user/mine": 3.0}
    assert run.data.params == {"ppo.lr": "0.5", "seed": "0"}


@pytest.mark.parametrize(("tracker", "extra"), [(WandbTracker, "wandb"), (MLflowTracker, "mlflow")])
def test_a_missing_library_names_its_extra(
    monkeypatch: pytest.MonkeyPatch, tracker: Callable[[], Tracker], extra: str
) -> None:
    monkeypatch.setitem(sys.modules, extra, None)
    with pytest.raises(UsageError) as caught:
        tracker()
    assert caught.value.fix == f"pip install 'rlhf-llava[{extra}]'"


def test_one_tracker_that_fails_costs_no_other_its_values(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken, sound = MagicMock(), MagicMock()
    broken.scalars.side_effect = ConnectionError(111, "Connection refused")
    with MetricsWriter(tmp_path, trackers=[broken, sound]) as writer:
        for step in range(2):
            writer.scalars({"lr": 1.0}, step)
    assert [call.args[1] for call in sound.scalars.call_args_list] == [0, 1]
    assert len(read_metrics(tmp_path)["lr"]) == 2
    assert capsys.readouterr().out.count("Connection refused") == 1
    assert not list(tmp_path.glob("events.*")), "named trackers stand in place of TensorBoard"


def test_without_a_directory_metrics_reach_the_trackers_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sound = MagicMock()
    with MetricsWriter(None, trackers=[sound]) as writer:
        writer.scalars({"user/mine": 1.0}, 0)
    sound.scalars.assert_called_once_with({"user/mine": 1.0}, 0)
    assert json.dumps(list(map(str, tmp_path.iterdir()))) == "[]"


@pytest.mark.parametrize("name", ["user/", "scores/", "own", "users/x"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="wanted names of METRICS"):
        MetricsWriter(None).scalars({name: 1.0}, 0)
