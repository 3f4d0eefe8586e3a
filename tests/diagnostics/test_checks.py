"""What `rlhf doctor` tries, on this machine's CPU, and the command around it."""

import json
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bitsandbytes
import pytest
import torch
from torch import Tensor

from rlhf.commands.doctor import doctor
from rlhf.commands.job import Job
from rlhf.config.schema import Config, ModelConfig
from rlhf.diagnostics.checks import CheckResult, check_linear, run_check, run_checks
from rlhf.diagnostics.environment import (
    METRICS_WRITER,
    QUANTIZATION,
    Device,
    Environment,
    read_environment,
)
from rlhf.diagnostics.process_check import check_processes, sum_on_processes
from rlhf.diagnostics.report import UnfitError, check_quick, examine
from rlhf.parallel.world import World
from rlhf.storage.run_directory import json_text


def test_a_failing_check_is_reported_and_a_skipped_one_is_not_run() -> None:
    def fails() -> None:
        raise ValueError("\n  first line\nsecond")

    failed = run_check("x", fails)
    assert (failed.state, failed.note) == ("failed", "first line")
    assert run_check("x", fails, "no use") == CheckResult("x", "skipped", 0.0, "no use")
    broken = Environment(import_errors={"torch": "x"}, devices=())
    assert {result.state for result in run_checks(broken, "cpu", "float32")} == {"skipped"}


def test_checks_of_a_library_that_does_not_import_are_skipped() -> None:
    errors = {QUANTIZATION: "broken", METRICS_WRITER: "broken"}
    environment = Environment(import_errors=errors, devices=(Device("cpu"),))
    states = {result.name: result.state for result in run_checks(environment, "cpu", "float32")}
    needing_them = ("nf4", "int8", "8-bit AdamW", "TensorBoard", "Triton")
    assert states == {"float32": "ok", "bfloat16": "ok", "float16": "ok"} | dict.fromkeys(
        needing_them, "skipped"
    )


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (lambda x, w: (x @ w.T).detach() + 0 * x, "the gradient after an eval forward is zero"),
        (lambda x, w: x @ w.T + torch.nan, "the forward is off by nan"),
        (lambda x, w: 2 * x @ w.T, "the forward is off by 1 of its norm"),
        (lambda x, w: 2 * (x @ w.T) - (x @ w.T).detach(), "eval forward is off by 1 of its norm"),
    ],
)
def test_a_wrong_layer_is_found(
    layer: Callable[[Tensor, Tensor], Tensor], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "rlhf.models.quantization.quantized_linear", lambda weight, kind: lambda x: layer(x, weight)
    )
    with pytest.raises(RuntimeError, match=message):
        check_linear("cpu", "float32", "nf4")


@pytest.mark.skipif(
    not bitsandbytes.functional.has_avx512bf16(), reason="only such a CPU repacks the weights"
)
def test_the_lost_gradient_of_nf4_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlhf.models.quantization.prepare_quantized_layers", lambda *_: None)
    with pytest.raises(RuntimeError, match="gradient after an eval forward is zero"):
        check_linear("cpu", "float32", "nf4")


def test_a_missing_torch_does_not_stop_the_doctor(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise OSError('libcudart.so.13: cannot open')")
    code = "import rlhf.diagnostics.report as d, rlhf.config.schema as c;"
    code += " x = d.examine(c.Config());"
    code += "print([f.component for f in x.blocking], {k.state for k in x.checks})"
    program = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {code}"]
    completed = subprocess.run(program, capture_output=True, text=True, check=True)
    assert completed.stdout.strip() == "['libraries'] {'skipped'}"


def test_everything_works_on_this_machine(tmp_path: Path) -> None:
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    config = Config(device="cpu", output_dir=str(tmp_path / "not" / "yet"))
    report = examine(config)
    states = {result.name: result.state for result in report.checks}
    names = ("float32", "bfloat16", "float16", "nf4", "int8", "8-bit AdamW", "TensorBoard")
    assert states == dict.fromkeys(names, "ok") | {"Triton": "skipped"}
    assert report.blocking == []
    assert report.environment.memory["cpu"][0] >= report.environment.memory["cpu"][1] > 10**8
    assert report.environment.disk_free and not (tmp_path / "not").exists()


def test_the_stated_ranges_are_read() -> None:
    facts = read_environment(Config())
    assert "torch>=2.10" in facts.requirements["rlhf-llava"]
    assert not [text for text in facts.requirements["rlhf-llava"] if text.startswith("pytest")]
    assert facts.versions["torch"] == torch.__version__


@pytest.mark.parametrize("kind", ["none", "nf4", "int8"])
def test_the_quick_check_passes_and_draws_nothing(kind: Any) -> None:
    before = torch.get_rng_state()
    check_quick(Config(device="cpu", model=ModelConfig(quantization=kind)))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_quick_check_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(weight: Tensor, kind: str) -> None:
        raise RuntimeError("no native code")

    monkeypatch.setattr("rlhf.models.quantization.quantized_linear", broken)
    check_quick(Config(device="cpu"))
    with pytest.raises(UnfitError, match="nf4 fails: no native code"):
        check_quick(Config(device="cpu", model=ModelConfig(quantization="nf4")))
    other_device: Any = "cuda" if torch.backends.mps.is_available() else "mps"
    with pytest.raises(UnfitError, match=f"device={other_device} is asked for"):
        check_quick(Config(device=other_device))


def job(config: Config) -> Job:
    return Job(config, Path(), [], [], lambda *call: (Path(), {}))


def test_the_command_shows_and_returns_it(capsys: pytest.CaptureFixture[str]) -> None:
    metrics = doctor(job(Config(device="cpu")))
    output = capsys.readouterr().out
    for text in (torch.__version__, metrics["facts"]["bnb_library"], "8-bit AdamW", "skipped"):
        assert text in output
    assert "the chosen options can run here (tried: float32)" in output
    assert json.loads(json_text(metrics))["ready"] is True


def test_the_command_stops_with_all_it_found(capsys: pytest.CaptureFixture[str]) -> None:
    other_device: Any = "cuda" if torch.backends.mps.is_available() else "mps"
    with pytest.raises(UnfitError) as caught:
        doctor(job(Config(device=other_device)))
    assert f"stops the run: device={other_device} is asked for" in capsys.readouterr().out
    assert caught.value.metrics["ready"] is False
    assert sum(problem["stops"] for problem in caught.value.metrics["problems"]) == 1


@pytest.mark.slow
def test_two_processes_sum_a_tensor_and_one_that_fails_is_told() -> None:
    check_processes("cpu", 2)
    with pytest.raises(RuntimeError, match="end with"):
        check_processes("no such device", 2)


def test_a_wrong_sum_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert sum_on_processes("cpu")
    monkeypatch.setattr(World, "sum", lambda self, values: 2 * values)
    assert not sum_on_processes("cpu")
