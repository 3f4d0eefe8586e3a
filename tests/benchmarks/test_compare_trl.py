"""The comparison with trl where trl is not installed: our side, statistics, parity check, order."""

import importlib
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import LlavaForConditionalGeneration

from rlhf.config.schema import SamplingConfig
from rlhf.generation.sampler import generate
from rlhf.models.llava import Llava

NAMES = ("compare_trl", "baselines.parity", "baselines.timing_statistics", "baselines.spec")
MORE = ("baselines.ours", "baselines.parity_ours", "baselines.image_lookup", "baselines.case_files")
sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
compare_trl, parity, timing_statistics, spec = map(importlib.import_module, NAMES)
ours, parity_ours, image_lookup, case_files = map(importlib.import_module, MORE)
rows, runs = map(importlib.import_module, ("baselines.rows", "baselines.runs"))
clock = importlib.import_module("baselines.clock")
sys.path.pop()

TINY = spec.Case(**rows.TINY)


@pytest.fixture(scope="module")
def tiny_case(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return case_files.write_case_files(tmp_path_factory.mktemp("world"), TINY)


def test_a_case_is_equal_after_json() -> None:
    case = spec.Case(vocab_size=7, lora_type="alora", lr=0.5)
    assert spec.Case.from_json(case.to_json()) == case
    assert str(case) == "vocab_size=7 lora_type=alora lr=0.5"


def test_prompts_are_of_one_length_and_all_different(tiny_case: Any) -> None:
    tensors = tiny_case.tensors()
    ids, pixels = tensors["ids"], tensors["pixels"]
    assert len(ids) == len(pixels) == TINY.iterations * TINY.batch_size
    assert len({tuple(row.tolist()) for row in ids}) == len(ids)
    image = LlavaForConditionalGeneration.from_pretrained(tiny_case.model).config.image_token_id
    assert (ids == image).sum(1).tolist() == [TINY.image_tokens] * len(ids)


def test_our_loop_reports_the_timed_iterations(
    tiny_case: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    ours.main(str(tiny_case.directory))
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    for kind in ("wall", "cpu"):
        assert [*map(set, report[kind])] == [
            {"rollout", "update", "metrics"}
        ] * TINY.timed_iterations
        assert all(min(parts.values()) > 0 for parts in report[kind])
    assert report["peak_bytes"] > 1e8


def test_fixed_lengths_bans_end_of_sequence(tiny_case: Any) -> None:
    llava = Llava.load(str(tiny_case.model), device=torch.device("cpu"), dtype=torch.float32)
    eos_id, banned_ids = llava.eos_ids[0], llava.banned_ids
    with torch.no_grad():
        llava.model.lm_head.weight[eos_id] = 0  # logit 0, so that it is sampled
    sampling, prompts = SamplingConfig(max_new_tokens=60), ours.prompts_of(tiny_case)
    free = generate(llava, prompts, sampling)[0]
    with ours.fixed_lengths():
        fixed = generate(llava, prompts, sampling)[0]
    assert free.finished.any() and free.spans.num_tokens < fixed.spans.num_tokens
    assert fixed.spans.lengths.tolist() == [60] * len(prompts)
    assert llava.banned_ids == banned_ids


def test_images_are_looked_up_by_the_prompt(tiny_case: Any) -> None:
    tensors, dtype = tiny_case.tensors(), torch.float32
    lookup = image_lookup.load_llava(tiny_case, image_lookup.ImageLookup(tensors, dtype)).eval()
    reference = LlavaForConditionalGeneration.from_pretrained(tiny_case.model, dtype=dtype).eval()
    rows = torch.tensor([3, 0])
    ids = torch.cat([tensors["ids"][rows], torch.tensor([[5, 6], [7, 8]])], 1)
    with torch.no_grad():
        expected = reference(input_ids=ids, pixel_values=tensors["pixels"][rows]).logits
        logits = lookup(input_ids=ids).logits
    banned = spec.banned_ids(reference.config)
    allowed = [token for token in range(TINY.vocab_size) if token not in banned]
    torch.testing.assert_close(logits[..., allowed], expected[..., allowed])
    assert (logits[..., banned] == image_lookup.BANNED_LOGIT).all()


def test_mirrored_order_quartiles_and_ratios() -> None:
    assert timing_statistics.mirrored_order("AB") == ["A", "B", "B", "A"]
    assert timing_statistics.quartiles([100, 4, 1, 3, 2]) == (3, 2, 4)
    assert timing_statistics.quartiles([5.0]) == (5, 5, 5)
    assert timing_statistics.ratio([10, 20, 30], [4, 4, 8]) == (5, 15 / 6, 25 / 4)
    parts = [{"a": 1.0, "b": 2.0}, {"a": 3.0, "b": 5.0}]
    assert timing_statistics.seconds(parts, "iteration") == [3, 8]
    assert timing_statistics.seconds(parts, "b") == [2, 5]


def test_the_report_leaves_out_the_warmup_iterations(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([0, 1, 3, 10, 14, 15])
    tick = lambda: next(ticks)  # noqa: E731
    monkeypatch.setattr(clock, "time", SimpleNamespace(perf_counter=tick, process_time=lambda: 0.0))
    stopwatch = clock.Clock()
    for _ in range(2):
        stopwatch.start()
        stopwatch.mark("a")
        stopwatch.mark("b")
    assert stopwatch.wall == [{"a": 1, "b": 2}, {"a": 7, "b": 4}]
    assert stopwatch.report(1)["wall"] == [{"a": 7, "b": 4}]


def metrics_with(**changes: float) -> dict[str, torch.Tensor]:
    """Return metrics of 1 whose second values differ by `changes`."""
    return {name: torch.tensor([1.0, 1.0 + changes.get(name, 0)]) for name in parity.METRICS}


def test_metrics_over_the_limit_are_listed() -> None:
    assert parity.metrics_over_limit(parity.relative_diffs(metrics_with(), metrics_with())) == []
    assert (
        parity.metrics_over_limit(parity.relative_diffs(metrics_with(loss=5e-6), metrics_with()))
        == []
    )
    assert parity.metrics_over_limit(
        parity.relative_diffs(metrics_with(loss=2e-5), metrics_with())
    ) == ["loss"]
    nan = float("nan")
    assert parity.metrics_over_limit(
        parity.relative_diffs(metrics_with(values=nan), metrics_with())
    ) == ["values"]
    large = {name: 1000 * value for name, value in metrics_with().items()}
    shifted = {name: value + 2e-3 for name, value in large.items()}
    assert parity.metrics_over_limit(parity.relative_diffs(shifted, large)) == []


def test_missing_metrics_and_other_shapes_raise() -> None:
    incomplete = metrics_with()
    del incomplete["scores"]
    with pytest.raises(ValueError, match="scores: ours has shape None, theirs"):
        parity.relative_diffs(incomplete, metrics_with())
    with pytest.raises(ValueError, match="logprobs"):
        parity.relative_diffs(metrics_with(), {**metrics_with(), "logprobs": torch.ones(3)})


def test_our_parity_metrics_are_complete(tmp_path: Path) -> None:
    case = parity.parity_case(TINY)
    metrics = parity_ours.metrics(case_files.write_case_files(tmp_path, case))
    assert parity.relative_diffs(metrics, metrics) == dict.fromkeys(parity.METRICS, 0)
    assert (
        metrics["tokens"].shape
        == metrics["values"].shape
        == (case.batch_size, case.response_tokens)
    )
    assert (metrics["logprobs"] - metrics["ref_logprobs"]).abs().max() > 1e-3
    assert (
        len(metrics["loss"]) == case.ppo_epochs
        and metrics["loss"].unique().numel() == case.ppo_epochs
    )


def test_rows_are_chosen_by_name_and_size() -> None:
    assert len(rows.select_rows([])) == len(rows.ROWS) * len(rows.SIZES)
    selected = rows.select_rows(["same/32k", "rloo"])
    assert [(row.name, size) for row, size in selected] == [
        ("rloo", "2k"),
        ("same", "32k"),
        ("rloo", "32k"),
    ]
    with pytest.raises(ValueError, match="no case is called fast"):
        rows.select_rows(["fast"])


class FakeChildren:
    """Replaces child processes; prints and writes what they would."""

    def __init__(self, loss_diff: float = 0.0) -> None:
        self.loss_diff, self.modules = loss_diff, list[str]()

    def run(self, arguments: Sequence[str], **_: Any) -> Any:
        name, directory = arguments[2].removeprefix("baselines."), Path(arguments[3])
        self.modules.append(name)
        if name.startswith("parity_"):
            side = {"parity_ours": "ours", "parity_trl": "theirs"}[name]
            diff = self.loss_diff if side == "ours" else 0.0
            save_file(metrics_with(loss=diff), directory / f"{side}.safetensors")
        wall = [{"rollout": 1.0, "update": 8.0 if name == "trl_ppo" else 2.0}]
        peak = {"base_memory": 100, "trl_ppo": 500}.get(name, 300)
        report = {"wall": wall, "cpu": wall, "peak_bytes": peak}
        return SimpleNamespace(returncode=0, stdout="other words\n" + json.dumps(report))


def run_comparison(
    children: FakeChildren, monkeypatch: pytest.MonkeyPatch, directory: Path, *, installed: bool
) -> tuple[int, Path]:
    """Return exit code and results of a comparison whose child processes are `children`."""
    if installed:
        python = directory / "trl-1.12.0" / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.touch()
    fake = SimpleNamespace(run=children.run, CalledProcessError=subprocess.CalledProcessError)
    monkeypatch.setattr(runs, "subprocess", fake)
    output = directory / "results.json"
    arguments = [
        "--tiny",
        "--cases",
        "same",
        "--environments",
        str(directory),
        "--output",
        str(output),
    ]
    return compare_trl.main(arguments), output


def test_trl_is_skipped_where_it_is_not_installed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    children = FakeChildren()
    code, output = run_comparison(children, monkeypatch, tmp_path, installed=False)
    printed = " ".join(capsys.readouterr().out.split())
    assert code == 0 and children.modules == ["ours", "ours", "base_memory"]
    assert "skipped: trl_ppo needs trl==1.12.0 in" in printed and "--install" in printed
    (row,) = json.loads(output.read_text())["rows"]
    assert row["wall"]["ours"]["median"] == 3 and "ratio" not in row["wall"]


def test_trl_and_ours_run_in_mirrored_order(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    children = FakeChildren()
    code, output = run_comparison(children, monkeypatch, tmp_path, installed=True)
    sides = ["trl_ppo", "ours", "ours", "trl_ppo"]
    assert code == 0
    assert children.modules == ["parity_ours", "parity_trl", *sides, "base_memory", "base_memory"]
    (row,) = json.loads(output.read_text())["rows"]
    assert row["wall"]["ratio"]["median"] == 3
    assert row["memory"] == {"theirs": 400, "ours": 200}
    printed = capsys.readouterr().out
    assert "3.00 [3.00, 3.00]" in printed and "0.50" in printed


def test_nothing_is_timed_where_metrics_differ(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    children = FakeChildren(loss_diff=1e-3)
    code, output = run_comparison(children, monkeypatch, tmp_path, installed=True)
    assert code == 1 and children.modules == ["parity_ours", "parity_trl"] and not output.exists()
    assert "loss by 0.001" in capsys.readouterr().out
