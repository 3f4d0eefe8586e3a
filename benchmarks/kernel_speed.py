"""Time and peak memory of each kernel, beside plain PyTorch.

    python benchmarks/kernel_speed.py             three to four minutes on two cores
    python benchmarks/kernel_speed.py --quick     the default sizes only, few repeats

Prints a table and writes benchmarks/results/kernels.json. Runs on a GPU where there is
one, and there also measures torch.compile and Liger-Kernel (if installed).
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from itertools import accumulate, product
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from rlhf import kernels
from rlhf.functional import generalized_advantages
from rlhf.kernels.token_kl import token_kl
from rlhf.spans import Spans

RESULTS = Path(__file__).parent / "results" / "kernels.json"
SPANS = {"tokens": 4096, "spans": 64, "longest": 512}
SPAN_KERNELS = ("gather_spans", "scatter_spans", "span_sum", "span_mean")
SPAN_KERNELS += ("span_discounted_sum", "generalized_advantages")
VOCABULARY = {"tokens": 4096, "dim": 256, "vocabulary": 32_000}
BARS = {"time": 1.1, "memory": 0.15}  # upper bounds, relative to plain PyTorch
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
MEASURABLE = 8  # MiB: below it the allocator's cached pages hide what the call takes
Ways = dict[str, Callable[[], Tensor]]  # by name: "usual" (plain PyTorch), "ours" and others


class Case(NamedTuple):
    kernel: str
    sizes: dict[str, Any]
    bars: dict[str, float]


def cases(quick: bool) -> list[Case]:
    """Return what is measured: every kernel at the default sizes, then over N, V and lengths."""
    loop_bar = {"generalized_advantages": {"time": 0.2}}
    rows = [Case(name, SPANS, loop_bar.get(name, {})) for name in SPAN_KERNELS]
    for frozen, entropy in product((True, False), (False, True)):
        options = {"frozen": frozen, "entropy": entropy}
        rows.append(Case("token_logprobs", VOCABULARY | options, BARS))
    rows.append(Case("token_kl", VOCABULARY | {"tokens": 1024, "frozen": True}, {}))
    if quick:
        return rows
    even, long = {"longest": 64}, {"tokens": 65_536, "spans": 256, "longest": 2048}
    for name, sizes in product(SPAN_KERNELS, (even, {"longest": 2048}, long)):
        rows.append(Case(name, SPANS | sizes, {}))
    for sizes in ({"tokens": 512}, {"vocabulary": 2000}, {"tokens": 512, "vocabulary": 128_000}):
        options = {"frozen": True, "entropy": False}
        rows.append(Case("token_logprobs", VOCABULARY | sizes | options, {}))
    return rows


# --- the implementations


def ragged(tokens: int, spans: int, longest: int) -> Spans:
    """Return spans of 1 to `longest` tokens of mean tokens / spans: most short, few long."""
    power = (longest - 1) / (tokens / spans - 1) - 1
    lengths = (1 + (longest - 1) * torch.linspace(0, 1, spans) ** power).round().long()
    lengths[-2] += tokens - lengths.sum()
    return Spans.from_lengths(lengths).to(DEVICE)


def usual_discounted(padded: Tensor, factor: float) -> Tensor:
    """Return discounted sums, column by column from the last."""
    sums = accumulate(padded.unbind(1)[::-1], lambda later, x: x + factor * later)
    return torch.stack([*sums][::-1], 1)


def usual_advantages(rewards: Tensor, values: Tensor, gamma: float, lam: float) -> Tensor:
    running, columns, width = torch.zeros_like(rewards[:, 0]), [], rewards.shape[1]
    for t in reversed(range(width)):
        following = values[:, t + 1] if t + 1 < width else 0.0
        delta = rewards[:, t] + gamma * following - values[:, t]
        running = delta + gamma * lam * running
        columns.append(running)
    return torch.stack(columns[::-1], 1)


def span_ways(kernel: str, tokens: int, spans: int, longest: int) -> Ways:
    """Return forward passes of a span kernel; masks and offsets are computed beforehand."""
    where = ragged(tokens, spans, longest)
    mask = torch.arange(longest, device=DEVICE) < where.lengths[:, None]
    wide = torch.randn(spans, longest, 64, device=DEVICE) * mask[..., None]
    x, v, starts = wide[..., 0].contiguous(), wide[..., 1].contiguous(), 0 * where.lengths
    flat_wide, flat, flat_v = wide[mask], x[mask], v[mask]
    lengths, pad = where.lengths.tolist(), torch.nn.utils.rnn.pad_sequence
    usual, ours = {
        "gather_spans": (lambda: wide[mask], lambda: kernels.gather_spans(wide, starts, where)),
        "scatter_spans": (
            lambda: pad(flat_wide.split(lengths), batch_first=True),
            lambda: kernels.scatter_spans(flat_wide, where),
        ),
        "span_sum": (lambda: (x * mask).sum(1), lambda: kernels.span_sum(flat, where)),
        "span_mean": (
            lambda: (x * mask).sum(1) / mask.sum(1),
            lambda: kernels.span_mean(flat, where),
        ),
        "span_discounted_sum": (
            lambda: usual_discounted(x, 0.95),
            lambda: kernels.span_discounted_sum(flat, where, 0.95),
        ),
        "generalized_advantages": (
            lambda: usual_advantages(x, v, 1.0, 0.95),
            lambda: generalized_advantages(flat, flat_v, where, gamma=1.0, gae_lambda=0.95)[0],
        ),
    }[kernel]
    return {"usual": usual, "ours": ours}


def usual_logprobs(hidden: Tensor, weight: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    log_p = (hidden @ weight.T).log_softmax(-1)
    return log_p.gather(1, ids[:, None]).squeeze(1), -(log_p.exp() * log_p).sum(-1)


def usual_kl(hidden: Tensor, ref_hidden: Tensor, weight: Tensor) -> Tensor:
    log_p, log_q = ((h @ weight.T).log_softmax(-1) for h in (hidden, ref_hidden))
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def vocabulary_ways(
    kernel: str, tokens: int, dim: int, vocabulary: int, frozen: bool, entropy: bool = False
) -> Ways:
    """Return forward and backward passes to hidden and, unless frozen, to weight."""
    hidden, ref_hidden = torch.randn(2, tokens, dim, device=DEVICE)
    weight = (torch.randn(vocabulary, dim, device=DEVICE) / dim**0.5).requires_grad_(not frozen)
    ids, leaves = torch.randint(vocabulary, (tokens,), device=DEVICE), [hidden.requires_grad_()]

    def gradient(loss: Tensor) -> Tensor:
        return torch.autograd.grad(loss, leaves if frozen else [*leaves, weight])[0]

    def kl(function: Callable[..., Tensor]) -> Tensor:
        return gradient(function(hidden, ref_hidden, weight).mean())

    def logprobs(function: Callable[..., tuple[Tensor, Tensor]]) -> Tensor:
        values, entropies = function(hidden, weight, ids)
        return gradient(values.mean() + 0.01 * entropies.mean() if entropy else values.mean())

    if kernel == "token_kl":
        return {"usual": partial(kl, usual_kl), "ours": partial(kl, token_kl)}
    functions = {"usual": usual_logprobs, "ours": kernels.token_logprobs}
    if DEVICE == "cuda":
        functions["compiled"] = torch.compile(usual_logprobs)
    ways = {name: partial(logprobs, function) for name, function in functions.items()}
    if DEVICE == "cuda" and find_spec("liger_kernel") and not entropy:
        from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy as liger

        ways["liger"] = lambda: gradient(-liger(hidden, weight, ids))
    return ways


def ways_of(case: Case) -> Ways:
    torch.manual_seed(0)
    make = span_ways if case.kernel in SPAN_KERNELS else vocabulary_ways
    return make(case.kernel, **case.sizes)


# --- the measurement


def seconds(ways: Ways, rounds: int) -> dict[str, list[float]]:
    """Time all once a round, in alternating order, so that drift affects all of them alike."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    results = [way().double().square().sum().item() for way in ways.values()]  # the warm-up
    if max(results) - min(results) > 1e-3 * max(results):
        raise RuntimeError(f"the implementations disagree: {results}")
    began = time.perf_counter()
    while rounds > 0 or time.perf_counter() - began < 0.3:
        for name in list(ways)[:: 1 if rounds % 2 else -1]:
            start = time.perf_counter()
            ways[name]()
            if DEVICE == "cuda":
                torch.cuda.synchronize()
            times[name].append(time.perf_counter() - start)
        rounds -= 1
    return times


def peak_mib(case: Case, name: str) -> float:
    """Return the peak memory of one call above what was held before it, in MiB.

    On the CPU it is the peak of resident memory in a fresh process, which, unlike events of the
    profiler, includes what the matrix library takes.
    """
    way = ways_of(case)[name]
    if DEVICE == "cuda":
        way()  # compile
        torch.cuda.reset_peak_memory_stats()
        held_before = torch.cuda.memory_allocated()
        way()
        return (torch.cuda.max_memory_allocated() - held_before) / 2**20
    small = {"tokens": 256, "spans": 16, "longest": 64, "vocabulary": 256}
    sizes = case.sizes | {key: small[key] for key in small if key in case.sizes}
    ways_of(Case(case.kernel, sizes, {}))[name]()  # load the libraries' pages
    Path("/proc/self/clear_refs").write_text("5")  # reset the peak to what is held
    held_before = resident("VmRSS")
    way()
    return resident("VmHWM") - held_before


def resident(field: str) -> float:
    """Return a field of resident memory in MiB, from Linux."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def spread(numbers: list[float]) -> dict[str, float]:
    low, middle, high = statistics.quantiles(numbers, n=4)
    return {"median": middle, "iqr": high - low}


def measure(case: Case, rounds: int, context: Any) -> dict[str, Any]:
    """Measure a case; return time and memory by implementation, and ratios to plain PyTorch."""
    ways = ways_of(case)
    if DEVICE == "cuda":
        peaks = {name: peak_mib(case, name) for name in ways}
    else:
        with context.Pool(1, maxtasksperchild=1) as fresh:
            peaks = {name: fresh.apply(peak_mib, (case, name)) for name in ways}
    seconds_by_way = seconds(ways, rounds)
    pairs = zip(seconds_by_way["ours"], seconds_by_way["usual"], strict=True)
    ratios = {"time": spread([ours / usual for ours, usual in pairs])}
    if peaks["usual"] >= MEASURABLE:
        ratios["memory"] = {"median": peaks["ours"] / peaks["usual"]}
    times = {name: spread(values) for name, values in seconds_by_way.items()}
    met = all(ratios[name]["median"] <= bar for name, bar in case.bars.items())
    return {**case._asdict(), "seconds": times, "mib": peaks, "ratios": ratios, "met": met}


def cells(row: dict[str, Any]) -> list[str]:
    """Return the cells of the table for a row."""
    sizes = ", ".join(f"{name} {size}" for name, size in row["sizes"].items())
    times = {name: time["median"] * 1000 for name, time in row["seconds"].items()}
    ways = "\n".join(f"{name} {ms:.3g}, {row['mib'][name]:.0f}" for name, ms in times.items())
    ratios = {name: f"{ratio['median']:.2f}" for name, ratio in row["ratios"].items()}
    bars = ", ".join(f"{name} ≤ {bar}" for name, bar in row["bars"].items())
    verdict = f"{bars}: {'met' if row['met'] else 'MISSED'}" if bars else ""
    return [row["kernel"], sizes, ways, ratios["time"], ratios.get("memory", "-"), verdict]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    if DEVICE == "cpu" or not find_spec("liger_kernel"):
        print("Left out: Liger-Kernel, which must be installed and needs a GPU")
    context = get_context("forkserver")  # its processes have imported torch and run nothing
    context.set_forkserver_preload(["torch", "rlhf.functional"])
    rounds = 2 if arguments.quick else 4
    rows = [measure(case, rounds, context) for case in cases(arguments.quick)]
    threads = f"cpu, {os.cpu_count()} cores, threads used: {torch.get_num_threads()}"
    device = torch.cuda.get_device_name() if DEVICE == "cuda" else threads
    facts = {"torch": torch.__version__, "device": device, "rows": rows}
    arguments.out.write_text(json.dumps(facts, indent=1) + "\n")
    table = Table(
        "kernel", "sizes", "implementation: ms, MiB", "time", "memory", "bars", show_lines=True
    )
    for row in rows:
        table.add_row(*cells(row))
    Console(width=130).print(table)


if __name__ == "__main__":
    main()
