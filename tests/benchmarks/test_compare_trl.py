"""The side by side with trl, where trl is not installed: our side, the pairing, the refusals."""

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

NAMES = ("compare_trl", "baselines.parity", "baselines.pairing", "baselines.spec")
MORE = ("baselines.ours", "baselines.parity_ours", "baselines.shown_llava", "baselines.world")
sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
compare_trl, parity, pairing, spec = map(importlib.import_module, NAMES)
ours, parity_ours, shown_llava, world = map(importlib.import_module, MORE)
rows, runs = map(importlib.import_module, ("baselines.rows", "baselines.runs"))
clock = importlib.import_module("baselines.clock")
sys.path.pop()

TINY = spec.Case(**rows.TINY)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return world.build_world(tmp_path_factory.mktemp("world"), TINY)


def test_a_case_is_the_same_after_json() -> None:
    case = spec.Case(vocabulary=7, lora_type="alora", lr=0.5)
    assert spec.Case.from_json(case.to_json()) == case
    assert str(case) == "vocabulary=7 lora_type=alora lr=0.5"


def test_prompts_are_of_one_length_and_all_different(tiny: Any) -> None:
    tensors = tiny.tensors()
    ids, pixels = tensors["ids"], tensors["pixels"]
    assert len(ids) == len(pixels) == TINY.iterations * TINY.batch
    assert len({tuple(row.tolist()) for row in ids}) == len(ids)
    image = LlavaForConditionalGeneration.from_pretrained(tiny.model).config.image_token_id
    assert (ids == image).sum(1).tolist() == [TINY.image_tokens] * len(ids)


def test_our_loop_reports_the_timed_iterations(
    tiny: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    ours.main(str(tiny.directory))
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    for kind in ("wall", "cpu"):
        assert [*map(set, report[kind])] == [{"rollout", "update", "figures"}] * TINY.timed
        assert all(min(one.values()) > 0 for one in report[kind])
    assert report["peak_bytes"] > 1e8


def test_no_response_ends_by_itself(tiny: Any) -> None:
    llava = Llava.load(str(tiny.model), device=torch.device("cpu"), dtype=torch.float32)
    end, before = llava.eos_ids[0], llava.banned_ids
    with torch.no_grad():
        llava.model.lm_head.weight[end] = 0  # as likely as any
    sampling, prompts = SamplingConfig(max_new_tokens=60), ours.prompts_of(tiny)
    free = generate(llava, prompts, sampling)[0]
    with ours.fixed_lengths():
        fixed = generate(llava, prompts, sampling)[0]
    assert free.finished.any() and free.spans.num_tokens < fixed.spans.num_tokens
    assert fixed.spans.lengths.tolist() == [60] * len(prompts)
    assert llava.banned_ids == before


def test_images_are_found_by_the_prompt(tiny: Any) -> None:
    tensors, dtype = tiny.tensors(), torch.float32
    found = shown_llava.load_llava(tiny, shown_llava.Images(tensors, dtype)).eval()
    stock = LlavaForConditionalGeneration.from_pretrained(tiny.model, dtype=dtype).eval()
    rows = torch.tensor([3, 0])
    ids = torch.cat([tensors["ids"][rows], torch.tensor([[5, 6], [7, 8]])], 1)
    with torch.no_grad():
        wanted = stock(input_ids=ids, pixel_values=tensors["pixels"][rows]).logits
        got = found(input_ids=ids).logits
    banned = spec.banned_ids(stock.config)
    kept = [token for token in range(TINY.vocabulary) if token not in banned]
    torch.testing.assert_close(got[..., kept], wanted[..., kept])
    assert (got[..., banned] == shown_llava.NEVER).all()


def test_there_and_back_and_ratios() -> None:
    assert pairing.there_and_back("AB") == ["A", "B", "B", "A"]
    assert pairing.spread([100, 4, 1, 3, 2]) == (3, 2, 4)
    assert pairing.spread([5.0]) == (5, 5, 5)
    assert pairing.ratio([10, 20, 30], [4, 4, 8]) == (5, 15 / 6, 25 / 4)
    parts = [{"a": 1.0, "b": 2.0}, {"a": 3.0, "b": 5.0}]
    assert pairing.seconds(parts, "iteration") == [3, 8]
    assert pairing.seconds(parts, "b") == [2, 5]


def test_a_clock_leaves_out_warmups(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([0, 1, 3, 10, 14, 15])
    tick = lambda: next(ticks)  # noqa: E731
    monkeypatch.setattr(clock, "time", SimpleNamespace(perf_counter=tick, process_time=lambda: 0.0))
    watch = clock.Clock()
    for _ in range(2):
        watch.start()
        watch.mark("a")
        watch.mark("b")
    assert watch.wall == [{"a": 1, "b": 2}, {"a": 7, "b": 4}]
    assert watch.report(1)["wall"] == [{"a": 7, "b": 4}]


def made_up(**changes: float) -> dict[str, torch.Tensor]:
    """Metrics of 1, with some of them changed."""
    return {name: torch.tensor([1.0, 1.0 + changes.get(name, 0)]) for name in parity.METRICS}


def test_parity_refuses_what_differs() -> None:
    assert parity.differing(parity.gaps(made_up(), made_up())) == []
    assert parity.differing(parity.gaps(made_up(loss=5e-6), made_up())) == []
    assert parity.differing(parity.gaps(made_up(loss=2e-5), made_up())) == ["loss"]
    nan = float("nan")
    assert parity.differing(parity.gaps(made_up(values=nan), made_up())) == ["values"]
    large = {name: 1000 * value for name, value in made_up().items()}
    near = {name: value + 2e-3 for name, value in large.items()}
    assert parity.differing(parity.gaps(near, large)) == []


def test_parity_refuses_what_is_not_there() -> None:
    lacking = made_up()
    del lacking["scores"]
    with pytest.raises(ValueError, match="scores: ours has shape None, theirs"):
        parity.gaps(lacking, made_up())
    with pytest.raises(ValueError, match="logprobs"):
        parity.gaps(made_up(), {**made_up(), "logprobs": torch.ones(3)})


def test_our_metrics_are_those_that_are_compared(tmp_path: Path) -> None:
    case = parity.parity_case(TINY)
    found = parity_ours.metrics(world.build_world(tmp_path, case))
    assert parity.gaps(found, found) == dict.fromkeys(parity.METRICS, 0)
    assert found["tokens"].shape == found["values"].shape == (case.batch, case.response)
    assert (found["logprobs"] - found["ref_logprobs"]).abs().max() > 1e-3
    assert len(found["loss"]) == case.epochs and found["loss"].unique().numel() == case.epochs


def test_rows_are_chosen_by_name_and_size() -> None:
    assert len(rows.chosen([])) == len(rows.ROWS) * len(rows.SIZES)
    picked = rows.chosen(["same/32k", "rloo"])
    assert [(row.name, size) for row, size in picked] == [
        ("rloo", "2k"),
        ("same", "32k"),
        ("rloo", "32k"),
    ]
    with pytest.raises(ValueError, match="no case is called fast"):
        rows.chosen(["fast"])


class Children:
    """In place of processes: what they would print, or write."""

    def __init__(self, apart: float = 0.0) -> None:
        self.apart, self.ran = apart, list[str]()

    def run(self, words: Sequence[str], **_: Any) -> Any:
        name, directory = words[2].removeprefix("baselines."), Path(words[3])
        self.ran.append(name)
        if name.startswith("parity_"):
            side = {"parity_ours": "ours", "parity_trl": "theirs"}[name]
            apart = self.apart if side == "ours" else 0.0
            save_file(made_up(loss=apart), directory / f"{side}.safetensors")
        wall = [{"rollout": 1.0, "update": 8.0 if name == "trl_ppo" else 2.0}]
        peak = {"loaded": 100, "trl_ppo": 500}.get(name, 300)
        report = {"wall": wall, "cpu": wall, "peak_bytes": peak}
        return SimpleNamespace(returncode=0, stdout="other words\n" + json.dumps(report))


def compared(
    children: Children, monkeypatch: pytest.MonkeyPatch, directory: Path, *, installed: bool
) -> tuple[int, Path]:
    """Exit code and results of a comparison whose processes are `children`."""
    if installed:
        python = directory / "trl-1.12.0" / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.touch()
    fake = SimpleNamespace(run=children.run, CalledProcessError=subprocess.CalledProcessError)
    monkeypatch.setattr(runs, "subprocess", fake)
    output = directory / "found.json"
    words = ["--tiny", "--cases", "same", "--environments", str(directory), "--output", str(output)]
    return compare_trl.main(words), output


def test_theirs_is_skipped_where_it_is_not_installed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    children = Children()
    code, output = compared(children, monkeypatch, tmp_path, installed=False)
    said = " ".join(capsys.readouterr().out.split())
    assert code == 0 and children.ran == ["ours", "ours", "loaded"]
    assert "skipped: trl_ppo needs trl==1.12.0 in" in said and "--install" in said
    (row,) = json.loads(output.read_text())["rows"]
    assert row["wall"]["ours"]["middle"] == 3 and "ratio" not in row["wall"]


def test_theirs_and_ours_run_there_and_back(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    children = Children()
    code, output = compared(children, monkeypatch, tmp_path, installed=True)
    sides = ["trl_ppo", "ours", "ours", "trl_ppo"]
    assert code == 0
    assert children.ran == ["parity_ours", "parity_trl", *sides, "loaded", "loaded"]
    (row,) = json.loads(output.read_text())["rows"]
    assert row["wall"]["ratio"]["middle"] == 3
    assert row["memory"] == {"theirs": 400, "ours": 200}
    printed = capsys.readouterr().out
    assert "3.00 [3.00, 3.00]" in printed and "0.50" in printed


def test_no_time_is_taken_where_metrics_differ(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    children = Children(apart=1e-3)
    code, output = compared(children, monkeypatch, tmp_path, installed=True)
    assert code == 1 and children.ran == ["parity_ours", "parity_trl"] and not output.exists()
    assert "loss by 0.001" in capsys.readouterr().out
