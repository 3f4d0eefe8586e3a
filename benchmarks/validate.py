"""`rlhf validate` on a million preference lines: seconds and memory, beside a loop of json.loads.

    python benchmarks/validate.py              1,000,000 lines, best of 3: a minute or two
    python benchmarks/validate.py --lines N --repeats N

Images are not opened. Each run is a process of its own, start and imports included. Prints a
table and writes benchmarks/results/validate.json.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

RESULTS = Path(__file__).parent / "results" / "validate.json"
BARS = {"seconds": 15, "peak_mb": 300}
VOCABULARY = (
    "the",
    "a",
    "one",
    "two",
    "red",
    "green",
    "small",
    "large",
    "circle",
    "square",
    "is",
    "left",
)
JSON_LOOP = "import json, sys\nfor line in open(sys.argv[1], 'rb'):\n    json.loads(line)"


def write_pairs(path: Path, lines: int) -> None:
    """Write distinct pairs of some 350 bytes, a colon in every tenth, each image in five."""
    random = Random(0)
    with path.open("w") as file:
        for number in range(lines):
            a, b = (" ".join(random.choices(VOCABULARY, k=random.randint(5, 35))) for _ in "ab")
            row = {
                "image_path": f"pictures/{number // 5:06d}.png",
                "instruction": f"What is in part {number} of the picture?",
                "response_a": f"Answer: {a}." if number % 10 == 0 else f"{a}.",
                "response_b": f"{b}!",
                "preference": random.choice(("response_a", "response_b", "tie")),
                "id": str(number),
            }
            file.write(json.dumps(row) + "\n")


def measure(command: list[str], repeats: int) -> dict[str, float]:
    """Return seconds and peak resident memory of a process: the least of several runs."""
    runs = []
    for _ in range(repeats):
        start = perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"{' '.join(command)} exited with {process.returncode}")
        runs.append((seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024))
    seconds, cpu_seconds, peak = (round(min(run[column] for run in runs), 2) for column in range(3))
    return {"seconds": seconds, "cpu_seconds": cpu_seconds, "peak_mb": peak}


def table(rows: dict[str, dict[str, float]]) -> str:
    """Return the metrics as a Markdown table."""
    lines = ["| | seconds | CPU seconds | peak MB |", "|---|---|---|---|"]
    for name, row in rows.items():
        lines.append(f"| {name} | {' | '.join(f'{value:.1f}' for value in row.values())} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    with TemporaryDirectory() as directory:
        path = Path(directory) / "pairs.jsonl"
        write_pairs(path, arguments.lines)
        size = path.stat().st_size
        validate = ["-m", "rlhf", "validate", str(path), "validate.check_images=false"]
        commands = {"rlhf validate": validate, "json.loads alone": ["-c", JSON_LOOP, str(path)]}
        rows = {
            name: measure([sys.executable, *command], arguments.repeats)
            for name, command in commands.items()
        }
    ours, json_loop = rows.values()
    results: dict[str, Any] = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "lines": arguments.lines,
        "megabytes": round(size / 1e6),
        "runs": rows,
        "ratio": round(ours["seconds"] / json_loop["seconds"], 2),
        "bars": BARS,
        "passes": all(ours[name] < bar for name, bar in BARS.items()),
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    print(
        table(rows), f"\n{results['ratio']} times the json loop; bars {BARS}: {results['passes']}"
    )


if __name__ == "__main__":
    main()
