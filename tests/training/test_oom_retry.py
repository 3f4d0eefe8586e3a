"""Out of memory: the work is repeated in more parts, up to a limit; other errors pass."""

import pytest
import torch

from rlhf.errors import ResourceError, is_out_of_memory, out_of_memory
from rlhf.training.oom_retry import OOMRetry

OOM = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB\nand more")


def test_the_parts_double_until_they_fit(capsys: pytest.CaptureFixture[str]) -> None:
    oom_retry, sizes = OOMRetry(max_splits=8), []

    def work() -> str:
        sizes.append(oom_retry.split(100))
        if sizes[-1] > 30:
            raise OOM
        return "done"

    assert oom_retry.run("update", work) == "done"
    assert sizes == [100, 50, 25]
    assert "out of memory in the update: trying again in 4 parts" in capsys.readouterr().out
    assert oom_retry.run("update", work) == "done"  # and it stays so
    assert sizes == [100, 50, 25, 25]
    assert OOMRetry(max_splits=8).split(0) == 1


def test_the_smallest_parts_are_the_limit() -> None:
    def work() -> None:
        raise OOM

    with pytest.raises(ResourceError) as error:
        OOMRetry(max_splits=4).run("rollout", work)
    assert error.value.exit_code == 5
    assert error.value.where == "CUDA out of memory. Tried to allocate 2.00 GiB"


@pytest.mark.parametrize(
    ("has", "frees"),
    [
        ("torch.cuda.is_available", "torch.cuda.empty_cache"),
        ("torch.backends.mps.is_available", "torch.mps.empty_cache"),
    ],
)
def test_a_gpu_gives_back_what_it_keeps(
    monkeypatch: pytest.MonkeyPatch, has: str, frees: str
) -> None:
    freed, errors = [], [OOM]
    monkeypatch.setattr(has, lambda: True)
    monkeypatch.setattr(frees, lambda: freed.append(frees))

    def work() -> None:
        if errors:
            raise errors.pop()

    OOMRetry(max_splits=4).run("update", work)
    assert freed == [frees]


def test_another_error_is_not_repeated() -> None:
    attempts = []

    def work() -> None:
        attempts.append(1)
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes"):
        OOMRetry(max_splits=4).run("update", work)
    assert len(attempts) == 1


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (OOM, True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 9.00 GiB"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"), True),
        (RuntimeError("shapes"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_counts_as_out_of_memory(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) == expected
    assert out_of_memory(error).exit_code == 5
