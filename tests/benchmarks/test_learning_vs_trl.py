"""The learning comparison where trl is not installed: our runs, inputs of trl, tables and plots."""

import importlib
import json
import platform
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import rlhf.ppo.trainer
from rlhf.config.schema import ModelConfig, RewardConfig
from rlhf.data.records import PromptRecord, write_records
from rlhf.models.lora import Adapters
from rlhf.rewards.loading import build_reward, load_reward, save_reward
from rlhf.tracking.metrics import METRICS
from tests.support import tiny_models

PARTS = ("task", "ours", "trl", "token_ids", "runs", "metrics")
sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
script = importlib.import_module("learning_vs_trl")
task_, ours, trl, token_ids, runs, metrics = (
    importlib.import_module(f"baselines.learning_{part}") for part in PARTS
)
sys.path.pop()

CHANGES = {**script.TINY, "ppo.critic_warmup_iterations": 0, "ppo.lr": 0.01}


def run_of(scores: Sequence[float], **changes: float) -> Any:
    """Return a run with these scores; each iteration has 4 samples and 2 seconds."""
    curve = [
        {"samples": 4 * n, "seconds": 2.0 * n, "scores": score, "kl": n - 1.0, "length": 3.0}
        for n, score in enumerate(scores, 1)
    ]
    defaults = dict.fromkeys(("win_rate", "accuracy_before", "accuracy_after", "length_after"), 0.5)
    return runs.Run(curve, {**defaults, "reward_after": 1.0, "kl": 1.5, **changes})


@pytest.fixture(scope="module")
def start(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Prompts with equal instructions about different images, and an untrained reward model."""
    directory = tmp_path_factory.mktemp("learning")
    shutil.copytree(tiny, directory, dirs_exist_ok=True)
    questions = ("What colour is the circle?", "Who?")
    records = [
        PromptRecord(f"pictures/{n:05d}.png", questions[n // 4], id=f"p{n}") for n in range(8)
    ]
    write_records(directory / "preference.jsonl", records)
    llava, options = tiny_models.load(directory), RewardConfig()
    torch.manual_seed(0)
    reward = build_reward(options, ModelConfig(), llava)
    torch.nn.init.normal_(reward.head.linear.weight)
    save_reward(reward, directory / "reward", llava, options, {})
    model, data = str(directory / "model"), str(directory)
    return task_.StartingPoint(model=model, reward=str(directory / "reward"), data=data)


@pytest.fixture(scope="module")
def task(start: Any) -> Any:
    return task_.Task(start=start, seed=0, changes=CHANGES)


@pytest.fixture(scope="module")
def scorer(task: Any) -> Any:
    return trl.PromptScorer(task)


def test_a_task_is_equal_after_its_file_and_has_the_options_of_the_demo(tmp_path: Path) -> None:
    start = task_.StartingPoint(model="m", reward="r", data="d")
    task = task_.Task(start=start, seed=3, changes={"ppo.iterations": 7})
    task.write(tmp_path)
    assert task_.Task.read(tmp_path) == task
    config = task.config
    assert (config.seed, config.ppo.iterations, config.ppo.lr_schedule) == (3, 7, "linear")
    assert (config.ppo.rollout_batch_size, config.sampling.max_new_tokens) == (64, 48)
    assert task.overrides() == [
        "experiment=demo",
        "data.root=d",
        "reward.path=r",
        "ppo.iterations=7",
    ]


def test_the_ablation_changes_critic_groups_and_lora_type_only() -> None:
    start = task_.StartingPoint(model="m", reward="r", data="d")
    configs = [
        task_.Task(start=start, seed=0, changes=baseline.changes).config
        for baseline in runs.ABLATION
    ]
    choices = [(x.ppo.critic, x.ppo.samples_per_prompt, x.model.lora_type) for x in configs]
    assert choices == [
        ("separate", 1, "lora"),
        ("shared", 1, "lora"),
        ("shared", 4, "lora"),
        ("shared", 4, "alora"),
        ("shared_detached", 4, "alora"),
    ]
    others = [replace(x.ppo, critic="shared", samples_per_prompt=1) for x in configs]
    assert all(ppo == others[0] for ppo in others)


def test_ours_leaves_a_curve_and_an_adapter(
    task: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = rlhf.ppo.trainer.PPOTrainer
    metrics: list[dict[str, float]] = []
    step = trainer.step

    def recorded_step(self: Any, iteration: int) -> dict[str, float]:
        metrics.append(step(self, iteration))
        return metrics[-1]

    monkeypatch.setattr(trainer, "step", recorded_step)
    task.write(tmp_path)
    ours.main(str(tmp_path))
    curve = task_.read_curve(tmp_path)
    assert [line["samples"] for line in curve] == [8, 16]
    assert 0 < curve[0]["seconds"] < curve[1]["seconds"]
    assert [line["scores"] for line in curve] == [x["objective/scores"] for x in metrics]
    assert [line["kl"] for line in curve] == [x["objective/kl"] for x in metrics]
    assert [line["length"] for line in curve] == [x["tokens/responses_len_mean"] for x in metrics]
    assert abs(curve[0]["kl"]) < 1e-4 < abs(curve[1]["kl"])
    llava = tiny_models.load(Path(task.start.data))
    llava.adapters.load("policy", tmp_path / "adapter", trains=False)
    assert any(
        value.any() for name, value in llava.adapters.tensors("policy").items() if "B" in name
    )


def test_the_scorer_gives_the_scores_of_the_reward_model(scorer: Any, start: Any) -> None:
    rows = [[7, 8, 1], [9, 1], [7, 8, 9]]
    scores, ends = scorer.scores([2, 0, 5], rows)
    assert ends.tolist() == [True, True, False]
    llava = tiny_models.load(Path(start.data))
    reward = load_reward(start.reward, llava, share_base_model=True)
    for number, row, score in zip([2, 0, 5], rows, scores, strict=True):
        prompt = scorer.prompts.select(torch.tensor([number]))
        spans = trl.Spans.from_lengths([len(row)])
        response = trl.Responses(torch.tensor(row), spans, torch.tensor([True]))
        assert reward.scores(prompt, response, max_tokens=999).item() == pytest.approx(float(score))


def test_the_index_of_a_prompt_stands_for_its_image(scorer: Any, task: Any) -> None:
    banned = scorer.llava.banned_ids
    reference, model = (trl.load_llava(task, banned).eval() for _ in range(2))
    vocabulary = reference.config.text_config.vocab_size
    ids = token_ids.prompt_index_ids(scorer, vocabulary)
    pixels = token_ids.pixel_values_of(scorer)
    model.model.__class__, model.model.pixels = token_ids.PromptIndexModel, pixels
    prompts = [
        row.tolist() for row in scorer.prompts.tokens.split(scorer.prompts.spans.lengths.tolist())
    ]
    assert prompts[0] == prompts[1] and ids[0] != ids[1]
    with torch.no_grad():
        expected = reference(input_ids=torch.tensor(prompts[:2]), pixel_values=pixels[:2]).logits
        logits = model(input_ids=torch.tensor(ids[:2])).logits
        options = {"do_sample": False, "max_new_tokens": 4}
        responses = reference.generate(
            input_ids=torch.tensor(prompts[:2]), pixel_values=pixels[:2], **options
        )
        model_responses = model.generate(input_ids=torch.tensor(ids[:2]), **options)
    assert torch.equal(logits, expected) and not torch.equal(logits[0], logits[1])
    assert (logits[..., banned] == -1e9).all()
    assert torch.equal(responses[:, -4:], model_responses[:, -4:])


def test_padding_is_not_scored(scorer: Any) -> None:
    adapter = token_ids.RewardModelAdapter(scorer, 1000)
    long, short = (token_ids.prompt_index_ids(scorer, 1000)[number] for number in (3, 6))
    assert len(long) > len(short)
    padding = [0] * (len(long) - len(short))
    ids = torch.tensor([[*long, 9, 1, 0, 0], [*padding, *short, 7, 8, 9, 1]])
    mask = ids != 0
    hidden_states = adapter.score_rows(ids, mask, output_hidden_states=True).hidden_states[-1]
    expected, _ = scorer.scores([3, 6], [[9, 1], [7, 8, 9, 1]])
    assert hidden_states.shape == (2, ids.shape[1], 1)
    torch.testing.assert_close(hidden_states[:, 0, 0], expected)
    torch.testing.assert_close(hidden_states[:, -1, 0], expected)
    assert adapter.length == 3.0


def test_trl_trains_the_layers_that_ours_trains(task: Any, tiny: Path) -> None:
    model = trl.load_llava(task, [])
    options = trl.lora(task)
    assert (options.r, options.lora_alpha) == (16, 32)
    wrapped = get_peft_model(model, options)
    names = {name for name, _ in wrapped.named_modules() if name.endswith(".lora_A")}
    adapters = Adapters(tiny_models.load(tiny).model)
    adapters.add("policy", rank=2, alpha=2)
    assert names and {name.removesuffix(".lora_A") for name in names} == {
        f"base_model.model.{name}" for name in adapters.layers
    }


def test_the_last_demo_with_a_reward_model_is_the_starting_point(tmp_path: Path) -> None:
    for stamp, model in (("20250101", "one"), ("20250202", "two")):
        base = tmp_path / "demo" / f"run-{model}" / "model"
        base.mkdir(parents=True)
        note = tmp_path / "demo" / f"base-{model}" / "supervised.json"
        note.parent.mkdir()
        note.write_text(json.dumps({"run": f"runs/demo/run-{model}"}))
        card = tmp_path / "demo" / stamp / "reward" / "reward.json"
        card.parent.mkdir(parents=True)
        card.write_text(json.dumps({"base": str(base)}))
    for directory in (tmp_path, tmp_path / "demo"):
        start = runs.find_starting_point(directory)
        assert Path(start.model).parts[-2:] == ("run-two", "model")
        assert Path(start.reward).name == "20250202"
        assert Path(start.data).parts[-2:] == ("base-two", "data")
    shutil.rmtree(tmp_path / "demo" / "base-two")
    with pytest.raises(FileNotFoundError, match="has no data"):
        runs.find_starting_point(tmp_path)


def test_without_a_finished_demo_nothing_runs(tmp_path: Path) -> None:
    assert script.main(["--from", str(tmp_path), "--runs-dir", str(tmp_path)]) == 2
    assert not list(tmp_path.iterdir())


def test_baselines_that_are_not_installed_are_skipped_with_a_line(tmp_path: Path) -> None:
    lines: list[str] = []
    assert [x.name for x in runs.installed(runs.BASELINES, tmp_path, lines.append)] == ["ours"]
    assert [line.split(" needs ")[1].split()[0] for line in lines] == ["trl==1.12.0", "trl==1.16.0"]
    assert all(line.startswith("skipped: trl") for line in lines)


def test_results_of_a_run_with_equal_options_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []

    def child(command: Sequence[str]) -> str:
        commands.append(list(command))
        (tmp_path / "curve.jsonl").write_text('{"scores": 2.0}\n')
        return '{"win_rate": 0.75, "report": "somewhere"}'

    monkeypatch.setattr(runs, "_child", child)
    start = task_.StartingPoint(model="m", reward="r", data="d")
    task = task_.Task(start=start, seed=0)
    for _ in range(2):
        run = runs.run(runs.BASELINES[0], task, tmp_path, tmp_path)
        assert run == runs.Run([{"scores": 2.0}], {"win_rate": 0.75})
    assert [command[2] for command in commands] == ["baselines.learning_ours", "rlhf"]
    assert commands[1][3:6] == ["evaluate", "m", str(tmp_path)]
    assert "data.prompts=d/evaluation.jsonl" in commands[1]
    runs.run(runs.BASELINES[0], task_.Task(start=start, seed=1), tmp_path, tmp_path)
    assert len(commands) == 4


def test_means_medians_and_ranges() -> None:
    first, second, third = run_of([1, 2], win_rate=0.9), run_of([3, 6], win_rate=0.8), run_of([0])
    middle = metrics.median_curve([first.curve, second.curve])
    assert [line["scores"] for line in middle] == [2.0, 4.0]
    assert [line["seconds"] for line in middle] == [2.0, 4.0]
    assert metrics.trailing_mean([6, 0, 3, 9], count=2) == [6, 3, 1.5, 6]
    assert metrics.cell("win rate", [first, second, third]) == "80.0% [50.0%, 90.0%]"
    assert metrics.cell("seconds", [first, second, third]) == "4 [2, 4]"
    assert metrics.cell("score", [first, second]) == "1.000"


def test_the_table_has_a_line_for_each_baseline() -> None:
    page = StringIO()
    by_title = {"ours": {0: run_of([1, 2]), 1: run_of([1], kl=0.5)}, "theirs": {0: run_of([1])}}
    Console(width=160, file=page).print(script.table(by_title))
    ours_line, their_line = (line for line in page.getvalue().splitlines() if "50.0%" in line)
    cells = [cell.strip() for cell in ours_line.split("│")[1:-1]]
    halves = ["50.0%", "50.0%", "50.0%", "1.000"]
    assert cells == ["ours", *halves, "1.00 [0.50, 1.50]", "0.5", "3 [2, 4]"]
    cells = [cell.strip() for cell in their_line.split("│")[1:-1]]
    assert cells == ["theirs", *halves, "1.50", "0.5", "2"]


def test_the_plot_has_three_panels_and_a_line_for_each_seed(tmp_path: Path) -> None:
    curves = {
        "ours": [run_of([1, 2]).curve, run_of([3, 6]).curve],
        "theirs": [run_of([5, 5]).curve],
    }
    plot = metrics.draw(curves)
    path = tmp_path / "x.png"
    plot.savefig(path)
    assert path.read_bytes()[:4] == b"\x89PNG"
    assert len(plot.axes) == 3
    for axes, last in zip(plot.axes, (0.5, 8, 4.0), strict=True):
        lines = axes.get_lines()
        assert [len(line.get_xdata()) for line in lines] == [2] * 5
        assert (lines[2].get_xdata()[-1], lines[2].get_ydata().tolist()) == (last, [2.0, 3.0])
    labels = [text.get_text() for text in plot.axes[0].get_legend().get_texts()]
    assert labels == ["ours", "theirs"]


def test_a_seed_that_diverges_does_not_hide_the_others() -> None:
    runs_of_seeds = [run_of([1, last]).curve for last in (2, -80, 3)]
    axes = metrics.draw({"ours": runs_of_seeds}).axes[0]
    assert axes.get_lines()[3].get_ydata().tolist() == [1.0, 1.5]
    assert axes.get_ylim() == (0.75, 2.25)


def test_tensorboard_counts_samples_and_seconds_of_training(tmp_path: Path) -> None:
    assert metrics.TAGS.keys() <= METRICS.keys()
    for scores in ([9, 9, 9], [1, 2]):  # the second replaces the first
        metrics.write_tensorboard(tmp_path, run_of(scores).curve)
    board = EventAccumulator(str(tmp_path)).Reload()
    events = board.Scalars("objective/scores")
    assert [(event.step, event.value) for event in events] == [(4, 1.0), (8, 2.0)]
    assert events[1].wall_time - events[0].wall_time == pytest.approx(2.0)
    assert [event.value for event in board.Scalars("objective/kl")] == [0.0, 1.0]


def test_the_results_name_no_machine_and_no_path(tmp_path: Path) -> None:
    start = task_.StartingPoint(model=str(tmp_path), reward=str(tmp_path), data=str(tmp_path))
    record = script.to_json(
        {"ours": {3: run_of([1, 2])}}, task_.Task(start=start, seed=3), runs.BASELINES
    )
    text = json.dumps(record)
    assert str(tmp_path) not in text and f'"{platform.node()}"' not in text
    assert record["runs"]["ours"]["3"]["curve"]["scores"] == [1, 2]
    assert record["options"]["ppo"]["kl_coef"] == 0.05 and "torch" in record["versions"]
