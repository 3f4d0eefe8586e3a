"""Tables of the documentation, from the files in benchmarks/results/."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from docs.generators.markdown import table

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
BEFORE_AFTER = {  # metric of the demo, without _before and _after: row
    "accuracy": "accuracy of the responses",
    "blind_accuracy": "accuracy when shown another image",
    "rule": "score by the rule",
    "reward": "score by the reward model",
    "length": "words per response",
}
SETTINGS = {  # row of compare_trl.json: what ours is, against what
    "same": ("the same algorithm, separate critic", "trl 1.12 PPO"),
    "same-bf16": ("the same algorithm", "trl 1.12 PPO"),
    "shared": ("shared critic", "trl 1.12 PPO"),
    "groups": ("shared critic, four responses a prompt", "trl 1.12 PPO"),
    "groups-bf16": ("the same, ours in bfloat16", "trl 1.12 PPO, float32"),
    "alora-update": ("LoRA on the response alone, four responses: update", "trl 1.12 PPO, LoRA"),
    "alora": ("the same, whole iteration", "trl 1.12 PPO, LoRA"),
    "rloo": ("RLOO, same samples, epochs, beta", "trl 1.16 RLOO"),
    "grpo": ("GRPO, the same", "trl 1.16 GRPO"),
    "decode": ("decoding 32 rows", "`generate`"),
    "decode-bf16": ("decoding 32 rows", "`generate`"),
}
KERNELS = 11  # rows of the kernel table; the file has more sizes


def read(name: str) -> Any:
    """Return the results of a benchmark."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def demo() -> str:
    """Return the demo's default seed, before and after."""
    return _before_after(read("demo_seeds")["seeds"]["0"])


def stamps() -> str:
    """Return the default seed of the demo on photographs, before and after."""
    return _before_after(read("demo_stamps")["seeds"]["0"])


def _before_after(summary: Mapping[str, Any]) -> str:
    rows = [
        (row, *(_shown(name, summary[f"{name}_{when}"]) for when in ("before", "after")))
        for name, row in BEFORE_AFTER.items()
    ]
    counts = (summary["distinct_responses_before"], summary["distinct_responses"])
    rows.append(("different responses (of 512)", *map(str, counts)))
    return table(("", "before PPO", "after"), rows, numbers=2)


def _shown(name: str, value: float) -> str:
    if "accuracy" in name:
        return _percent(value)
    return f"{value:.1f}" if name == "length" else f"{value:.2f}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def demo_seeds() -> str:
    """Return each seed of the demo."""
    return _by_seed(read("demo_seeds"))


def stamps_seeds() -> str:
    """Return each seed of the demo on photographs."""
    return _by_seed(read("demo_stamps"))


def _by_seed(results: Mapping[str, Any]) -> str:
    header = ("seed", "win rate", "became right", "wrong", "accuracy", "KL, nats", "reward model")
    return table(header, map(_demo_seed, results["seeds"].items()), numbers=6)


def _demo_seed(item: tuple[str, Mapping[str, float]]) -> tuple[object, ...]:
    seed, x = item
    accuracy = f"{_percent(x['accuracy_before'])} → {_percent(x['accuracy_after'])}"
    right, wrong = x["wins_by_correctness"], x["losses_by_correctness"]
    reward = _percent(x["reward_model_accuracy"])
    win_rate = _percent(x["win_rate"])
    return seed, win_rate, f"{right:.0f}", f"{wrong:.0f}", accuracy, f"{x['kl']:.2f}", reward


def compare_trl() -> str:
    """Return speed and memory beside trl's."""
    found = {record["case"]: record for record in read("compare_trl")["rows"]}
    header = ("ours", "against", "dtype", "2k / 64", "32k / 576", "memory")
    rows = []
    for name, (ours, against) in SETTINGS.items():
        sizes = [found[f"{name}/{size}"] for size in ("2k", "32k")]
        dtypes = {sizes[0]["sizes"][side]["dtype"] for side in ("ours", "theirs")}
        dtype = dtypes.pop() if len(dtypes) == 1 else ""
        memory = ", ".join(filter(None, map(_memory_ratio, sizes)))
        rows.append((ours, against, dtype, *map(_time_ratio, sizes), memory))
    return table(header, rows, numbers=3)


def _time_ratio(record: Mapping[str, Any]) -> str:
    star = "\\*" if "Xeon" in record["processor"] else ""
    bar = f" ({record['bar']})" if record["bar"] else ""
    return f"{record['wall']['ratio']['median']:.2f}{star}{bar}"


def _memory_ratio(record: Mapping[str, Any]) -> str:
    memory = record["memory"]
    return f"{memory['ours'] / memory['theirs']:.2f}" if memory.get("theirs", 0) > 0 else ""


def learning() -> str:
    """Return what ours and trl's trainers learn."""
    return _learning(read("learning_vs_trl"))


def ablation() -> str:
    """Return what other critics and kinds of LoRA learn."""
    return _learning(read("learning_ablation"))


def _learning(results: Mapping[str, Any]) -> str:
    header = ("", "win rate", "accuracy", "KL, nats", "seconds")
    return table(header, (_learned(*item) for item in results["runs"].items()), numbers=4)


def _learned(title: str, by_seed: Mapping[str, Any]) -> tuple[str, ...]:
    metrics = [run["metrics"] for run in by_seed.values()]

    def column(name: str) -> list[float]:
        return [x[name] for x in metrics]

    before = f"{100 * median(column('accuracy_before')):.1f}"
    after = _spread([100 * x for x in column("accuracy_after")], "{:.1f}", " %")
    seconds = _spread([run["curve"]["seconds"][-1] for run in by_seed.values()], "{:.0f}")
    win_rate = _spread([100 * x for x in column("win_rate")], "{:.1f}", " %")
    return title, win_rate, f"{before} → {after}", _spread(column("kl"), "{:.2f}"), seconds


def _spread(values: Sequence[float], form: str, unit: str = "") -> str:
    """Return the median and, in brackets, the range."""
    middle, least, most = (form.format(f(values)) for f in (median, min, max))
    return middle + unit + (f" [{least}, {most}]" if least != most else "")


def reward_models() -> str:
    """Return each reward model on each number of pairs, medians over seeds."""
    header = ("data", "pairs", "reward model", "accuracy", "right-wrong", "style", "lost blind")
    rows = []
    for key, runs in read("reward_models")["runs"].items():
        values = [median(run[name] for run in runs.values()) for name in _REWARD_COLUMNS]
        shares = [f"{100 * x:.1f}" for x in values[:4]]
        rows.append((*key.split("/"), *shares, f"{values[4]:.0f}", f"{values[5]:.0f}"))
    return table((*header, "seconds", "MB"), rows, numbers=6)


_REWARD_COLUMNS = ("accuracy", "right-wrong", "style", "gap", "seconds", "peak_mb")


def kernels() -> str:
    """Return time and memory of each kernel beside what is usually written."""
    header = ("kernel, forward and, with a vocabulary, backward", "usual", "ours", "time", "memory")
    return table(header, map(_kernel, read("kernels")["rows"][:KERNELS]), numbers=4)


def _kernel(row: Mapping[str, Any]) -> tuple[str, ...]:
    sizes, ratios = row["sizes"], row["ratios"]
    frozen = {True: ", weight frozen", False: ", weight trained", None: ""}[sizes.get("frozen")]
    entropy = ", entropy in the loss" if sizes.get("entropy") else ""
    times = [_milliseconds(row["seconds"][way]["median"]) for way in ("usual", "ours")]
    memory = f"{ratios['memory']['median']:.2f} ×" if "memory" in ratios else ""
    return (
        f"`{row['kernel']}`{frozen}{entropy}",
        *times,
        f"{ratios['time']['median']:.2f} ×",
        memory,
    )


def _milliseconds(seconds: float) -> str:
    value = 1000 * seconds
    return f"{value:,.0f} ms" if value >= 1000 else f"{value:.3g} ms"


def few_pairs() -> str:
    """Return what a reward model learns of 150 pairs, by multiples of the preset learning rate."""
    found = {tuple(key.split("/")): values for key, values in read("few_pairs").items()}
    names = {"demo": "drawn shapes", "stamps": "photographs"}
    tasks = [name for name in names if any(key[0] == name for key in found)]
    rates = sorted({key[2] for key in found if key[1] == "150"}, key=float)
    rows = [
        (f"× {rate}", *(_shares(found.get((task, "150", rate), [])) for task in tasks))
        for rate in rates
    ]
    return table(("learning rate", *(names[task] for task in tasks)), rows, numbers=len(tasks))


def _shares(values: Sequence[float]) -> str:
    return _spread([100 * value for value in values], "{:.1f}", " %") if values else ""


def crash_safety() -> str:
    """Return what kills cost other ways to save."""
    rows = ((name, row["kills"], row["lost"]) for name, row in read("crash_safety").items())
    return table(("who", "kills", "lost"), rows, numbers=2)


def sampling_gap() -> str:
    """Return how far log-probabilities of sampling and of training are apart."""
    header = ("engine", "dtype", "storage", "tokens", "mean, nats a token", "largest")
    return table(header, map(_gap, read("sampling_gap")), numbers=3)


def _gap(row: Mapping[str, Any]) -> tuple[object, ...]:
    names = (row[name] for name in ("engine", "dtype", "storage", "tokens"))
    return *names, f"{row['mean']:.1e}", f"{row['largest']:.1e}"


def validate() -> str:
    """Return the time and memory of `rlhf validate` on a million lines."""
    rows = (
        (name, *(f"{row[x]:.1f}" for x in ("seconds", "peak_mb")))
        for name, row in read("validate")["runs"].items()
    )
    return table(("a million lines", "seconds", "peak MB"), rows, numbers=2)


TABLES: Iterable[Callable[[], str]] = (
    demo,
    demo_seeds,
    stamps,
    stamps_seeds,
    compare_trl,
    learning,
    ablation,
    reward_models,
    kernels,
    few_pairs,
    crash_safety,
    sampling_gap,
    validate,
)
