"""Each kernel beside what is usually written instead: time and peak memory.

    python benchmarks/kernel_speed.py             three to four minutes on two cores
    python benchmarks/kernel_speed.py --quick     the default sizes only, few repeats

Prints a table and writes benchmarks/results/kernels.json. On a GPU, when there is one: there
torch.compile of the usual way and Liger-Kernel (when installed) run beside.
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
BARS = {"time": 1.1, "memory": 0.15}  # most, as a share of the usual way
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
MEASURABLE = 8  # MiB: below it pages that the allocator keeps hide what the call takes
Ways = dict[str, Callable[[], Tensor]]  # "usual", "ours" and others: the same job


class Case(NamedTuple):
    kernel: str
    sizes: dict[str, Any]
    bars: dict[str, float]


def cases(quick: bool) -> list[Case]:
    """What is measured: every kernel at the default sizes, then over N, V and skew of lengths."""
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
        plain = {"frozen": True, "entropy": False}
        rows.append(Case("token_logprobs", VOCABULARY | sizes | plain, {}))
    return rows


# --- the ways


def ragged(tokens: int, spans: int, longest: int) -> Spans:
    """Spans of 1 to `longest` tokens whose mean is tokens / spans: most are short, few long."""
    power = (longest - 1) / (tokens / spans - 1) - 1
    lengths = (1 + (longest - 1) * torch.linspace(0, 1, spans) ** power).round().long()
    lengths[-2] += tokens - lengths.sum()
    return Spans.from_lengths(lengths).to(DEVICE)


def usual_discounted(padded: Tensor, factor: float) -> Tensor:
    """A step a column, from the last."""
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
    """Forward only; masks and offsets are at hand, as they are in a trainer."""
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
    """Forward and backward to hidden and, unless frozen, to weight."""
    hidden, ref_hidden = torch.randn(2, tokens, dim, device=DEVICE)
    weight = (torch.randn(vocabulary, dim, device=DEVICE) / dim**0.5).requires_grad_(not frozen)
    ids, leaves = torch.randint(vocabulary, (tokens,), device=DEVICE), [hidden.requires_grad_()]

    def gradient(loss: Tensor) -> Tensor:
        return torch.autograd.grad(loss, leaves if frozen else [*leaves, weight])[0]

    def kl(function: Callable[..., Tensor]) -> Tensor:
        return gradient(function(hidden, ref_hidden, weight).mean())

    def logprobs(function: Callable[..., tuple[Tensor, Tensor]]) -> Tensor:
        got, entropies = function(hidden, weight, ids)
        return gradient(got.mean() + 0.01 * entropies.mean() if entropy else got.mean())

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


# --- the measures


def seconds(ways: Ways, rounds: int) -> dict[str, list[float]]:
    """Every way once a round, in turn forwards and backwards, so that noise hits all alike."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    results = [way().double().square().sum().item() for way in ways.values()]  # the warm-up
    if max(results) - min(results) > 1e-3 * max(results):
        raise RuntimeError(f"the ways disagree: {results}")
    began = time.perf_counter()
    while rounds > 0 or time.perf_counter() - began < 0.3:
        for name in list(ways)[:: 1 if rounds % 2 else -1]:
            start = time.perf_counter()
            ways[name]()
            if DEVICE == "cuda":
                torch.cuda.synchronize()
            taken[name].append(time.perf_counter() - start)
        rounds -= 1
    return taken


def peak_mib(case: Case, name: str) -> float:
    """Memory that one call takes at its peak, over what is held before it.

    On the CPU the mark that the kernel keeps of resident memory, in a process that has run nothing
    else: unlike the events of the profiler it holds what the matrix library takes, too.
    """
    way = ways_of(case)[name]
    if DEVICE == "cuda":
        way()  # compiles
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        way()
        return (torch.cuda.max_memory_allocated() - held) / 2**20
    small = {"tokens": 256, "spans": 16, "longest": 64, "vocabulary": 256}
    sizes = case.sizes | {key: small[key] for key in small if key in case.sizes}
    ways_of(Case(case.kernel, sizes, {}))[name]()  # loads the libraries' pages
    Path("/proc/self/clear_refs").write_text("5")  # the peak's mark falls to what is held
    held = resident("VmRSS")
    way()
    return resident("VmHWM") - held


def resident(field: str) -> float:
    """MiB, as Linux counts them."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def spread(numbers: list[float]) -> dict[str, float]:
    low, middle, high = statistics.quantiles(numbers, n=4)
    return {"median": middle, "iqr": high - low}


def measured(case: Case, rounds: int, context: Any) -> dict[str, Any]:
    """One row of the result: every way's time and memory, and their ratios to the usual way's."""
    ways = ways_of(case)
    if DEVICE == "cuda":
        peaks = {name: peak_mib(case, name) for name in ways}
    else:
        with context.Pool(1, maxtasksperchild=1) as fresh:
            peaks = {name: fresh.apply(peak_mib, (case, name)) for name in ways}
    taken = seconds(ways, rounds)
    pairs = zip(taken["ours"], taken["usual"], strict=True)
    ratios = {"time": spread([ours / usual for ours, usual in pairs])}
    if peaks["usual"] >= MEASURABLE:
        ratios["memory"] = {"median": peaks["ours"] / peaks["usual"]}
    times = {name: spread(values) for name, values in taken.items()}
    met = all(ratios[name]["median"] <= bar for name, bar in case.bars.items())
    return {**case._asdict(), "seconds": times, "mib": peaks, "ratios": ratios, "met": met}


def cells(row: dict[str, Any]) -> list[str]:
    """What the table shows of a row."""
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
        print("Left out: Liger-Kernel, which wants a GPU and to be installed")
    context = get_context("forkserver")  # its processes have imported torch and run nothing
    context.set_forkserver_preload(["torch", "rlhf.functional"])
    rounds = 2 if arguments.quick else 4
    rows = [measured(case, rounds, context) for case in cases(arguments.quick)]
    threads = f"cpu, {os.cpu_count()} cores, threads used: {torch.get_num_threads()}"
    device = torch.cuda.get_device_name() if DEVICE == "cuda" else threads
    facts = {"torch": torch.__version__, "device": device, "rows": rows}
    arguments.out.write_text(json.dumps(facts, indent=1) + "\n")
    table = Table("kernel", "sizes", "way: ms, MiB", "time", "memory", "bars", show_lines=True)
    for row in rows:
        table.add_row(*cells(row))
    Console(width=130).print(table)


if __name__ == "__main__":
    main()
