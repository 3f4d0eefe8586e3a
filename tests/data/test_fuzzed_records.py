"""Damaged record files give problems with a place, never a traceback."""

import json
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.fuzzed_records import Counts, check, check_round_trip, run

TEXTS = st.text(max_size=5) | st.sampled_from(["a", "tie", "response_a", "\0", "\u2028", " "])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
REQUIRED = ("image_path", "instruction", "response", "responses", "response_a", "response_b")
NAMES = st.sampled_from([*REQUIRED, "preference", "id", "meta", "seconds", "sampling"])
OBJECTS = st.dictionaries(NAMES | TEXTS, VALUES, max_size=8)


def test_ten_thousand_damaged_files(tmp_path: Path) -> None:
    counts = run(10_000, 0, tmp_path)
    assert counts.crashes == []
    assert counts.lines_refused > 5_000 and counts.lines_accepted > 2_000


def test_the_seed_decides(tmp_path: Path) -> None:
    first, repeated, other_seed = (run(50, seed, tmp_path) for seed in (1, 1, 2))
    first.seconds = repeated.seconds = other_seed.seconds = 0.0
    assert first == repeated != other_seed


@settings(
    max_examples=200,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(rows=st.lists(OBJECTS | VALUES, min_size=1, max_size=3), plain=st.booleans())
def test_made_json(tmp_path: Path, rows: list[object], plain: bool) -> None:
    path = tmp_path / "file.jsonl"
    lines = (json.dumps(row, ensure_ascii=not plain) for row in rows)
    path.unlink(missing_ok=True)
    path.write_bytes("\n".join(lines).encode(errors="surrogatepass"))
    check_round_trip(check(path, Counts()), path)
