"""Files of metrics that are too large to be those of a run."""

from collections.abc import Callable
from pathlib import Path

import pytest

from rlhf.errors import DataError
from rlhf.tracking.reader import read_events, read_metrics


@pytest.mark.parametrize(
    ("read", "name"), [(read_metrics, "metrics.jsonl"), (read_events, "events.out.tfevents.1.x")]
)
def test_metrics_of_8_gb_are_refused(
    read: Callable[[Path], object], name: str, tmp_path: Path
) -> None:
    with (tmp_path / name).open("wb") as file:
        file.truncate(8 * 10**9)
    with pytest.raises(DataError, match="the file has 8,000,000,000 bytes") as error:
        read(tmp_path)
    assert error.value.where == str(tmp_path / name)
