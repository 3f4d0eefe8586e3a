"""Runs side by side: their names, their last and best values, and what their curves run along."""

import json
from math import nan
from pathlib import Path

from rlhf.evaluation.charts import line_chart
from rlhf.evaluation.comparison_page import arranged, by_episode, constant
from rlhf.evaluation.run_comparison import Run, last_and_best
from rlhf.evaluation.run_names import distinct_names, model_names, run_names


def test_names_are_the_shortest_ends_that_differ() -> None:
    paths = [Path(name) for name in ("/a/x/run", "/b/x/run", "/b/other", "/b/other/")]
    assert distinct_names(paths) == ["a/x/run", "b/x/run", "other (1)", "other (2)"]
    assert distinct_names([Path("/"), Path("/run")])[1] == "run"


def test_values_that_are_not_finite_count_for_nothing() -> None:
    run = Run("a", {"objective/scores": [(0, nan), (1, 3.0), (2, 1.0), (3, nan)]}, nan)
    assert last_and_best(run) == {"score": 1.0, "best": 3.0}


def test_curves_run_along_responses_only_if_all_counted_them() -> None:
    counted = Run("a", {"lr": [(0, 1.0), (1, 2.0)], "episode": [(0, 64.0), (1, 128.0)]}, 0)
    plain = Run("b", {"lr": [(0, 1.0)]}, 0)
    x_label, (by_responses,) = by_episode([counted])
    assert x_label == "responses sampled" and by_responses["lr"] == [(64, 1.0), (128, 2.0)]
    x_label, curves = by_episode([counted, plain])
    assert x_label == "step" and curves[0]["lr"] == [(0, 1.0), (1, 2.0)]


def test_many_runs_have_a_line_and_a_colour_each() -> None:
    chart = line_chart("lr", "", {str(n): [(0, float(n)), (1, 0.0)] for n in range(12)})
    assert len(chart.lines) == 12 == len({line.color for line in chart.lines})


def run_of(name: str, **curves: list[float]) -> Run:
    named = {key.replace("__", "/"): list(enumerate(values)) for key, values in curves.items()}
    return Run(name, named, nan)


def test_six_curves_come_first_and_the_others_are_folded_by_their_beginning() -> None:
    changing = [1.0, 2.0]
    names = ("objective__scores", "objective__kl", "policy__entropy_avg", "policy__clipfrac_avg")
    curves = {**dict.fromkeys(names, changing), "lr": [0.1, 0.1], "loss__kl_avg": [0.0, 0.0]}
    plots, groups = arranged([run_of("a", **curves), run_of("b", **curves)])
    assert [x.title for x in plots] == ["objective/scores", "objective/kl", "policy/entropy_avg"]
    folded = {group.name: [chart.title for chart in group.plots] for group in groups}
    assert folded == {"policy": ["policy/clipfrac_avg"], "loss": [], "lr": []}
    assert [x.constants for x in groups] == [[], [("loss/kl_avg", 0.0)], [("lr", 0.1)]]


def test_a_value_is_constant_only_if_all_runs_have_it() -> None:
    a, b = run_of("a", lr=[1.0, nan, 1.0]), run_of("b", lr=[2.0])
    assert constant("lr", [a.curves]) == 1.0 and constant("lr", [a.curves, b.curves]) is None
    assert constant("lr", [{}]) is None


def stored_run(directory: Path, options: dict[str, object], metric: str = "") -> Path:
    directory.mkdir(parents=True)
    (directory / "config.yaml").write_text(json.dumps(options))
    if metric:
        (directory / "metrics.jsonl").write_text(json.dumps({"step": 0, metric: 1.0}) + "\n")
    return directory


def test_runs_are_named_by_the_options_in_which_they_differ(tmp_path: Path) -> None:
    options: dict[str, object] = {"name": "x", "seed": 1, "ppo": {"lr": 0.1, "kl_coef": 0.05}}
    first = stored_run(tmp_path / "a", options)
    second = stored_run(tmp_path / "b", {**options, "name": "y", "ppo": {"lr": 0.2}})
    names = ["ppo.lr=0.1, ppo.kl_coef=0.05", "ppo.lr=0.2, ppo.kl_coef=None"]
    assert run_names([first, second]) == names
    (tmp_path / "trl").mkdir()  # without options
    assert run_names([first, tmp_path / "trl"]) == ["a", "trl"]
    assert run_names([first, stored_run(tmp_path / "c", options)]) == ["a", "c"]
    assert run_names([first]) == ["a"]
    many: dict[str, object] = {f"option{number}": 1 for number in range(4)}
    assert run_names([first, stored_run(tmp_path / "d", many)]) == ["a", "d"]


def test_models_are_named_by_their_part_and_training(tmp_path: Path) -> None:
    sft = stored_run(tmp_path / "sft", {"seed": 0}, "sft/loss")
    ppo = [
        stored_run(tmp_path / f"ppo{seed}", {"seed": seed}, "objective/scores") for seed in (1, 2)
    ]
    assert model_names([sft, ppo[0]]) == ["before: SFT", "after: PPO"]
    assert model_names([Path("hub/llava"), ppo[0]]) == ["before: llava", "after: PPO"]
    names = ["before: SFT", "after: PPO seed=1", "after: PPO seed=2"]
    assert model_names([sft, *ppo]) == names
