"""Several processes exchange values; one alone does the same without any exchange."""

from typing import Any

import pytest
import torch
from torch.distributed.distributed_c10d import Store

from rlhf.errors import LostProcessError, UsageError
from rlhf.parallel.world import World
from tests.support.processes import on_processes

VALUES = torch.tensor([1e8, 1.0, -1e8, 0.3, 7.7, 2**-30, -0.1, 3.3])  # sums depend on the order


def tree(values: list[torch.Tensor]) -> torch.Tensor:
    """The sum in the order that is promised, written down otherwise than in World."""
    while len(values) > 1:
        pairs = [values[i : i + 2] for i in range(0, len(values), 2)]
        values = [pair[0] + pair[1] if len(pair) == 2 else pair[0] for pair in pairs]
    return values[0]


def everything(world: World) -> dict[str, Any]:
    own = torch.arange(world.rank, dtype=torch.bfloat16).unsqueeze(1).expand(-1, 3)
    share = world.share(7)
    world.same("the weights", lambda: "equal")
    return {
        "share": [*share],
        "gathered": world.gather(own).float().tolist(),
        "flags": world.gather(torch.tensor([world.rank % 2 == 0])).tolist(),
        "sum": world.sum(VALUES[world.rank : world.rank + 1]).tolist(),
        "most": world.most(float(-world.rank)),
        "told": world.tell({"run": f"é{world.rank}"}),
    }


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_every_process_has_the_same_and_shares_are_disjoint(size: int) -> None:
    results = on_processes(size, everything)
    assert sorted(row for result in results for row in result["share"]) == [*range(7)]
    for result in results:
        assert result["gathered"] == [[i] * 3 for rank in range(size) for i in range(rank)]
        assert result["flags"] == [rank % 2 == 0 for rank in range(size)]
        assert result["sum"] == tree([*VALUES[:size].split(1)]).tolist()
        assert result["most"] == 0
        assert result["told"] == {"run": "é0"}


def mapped(world: World, count: int) -> tuple[list[Any], list[int]]:
    """Results of `count` units, the texts of which have several lines, and the units of its own."""
    own = list[int]()

    def work(unit: int) -> list[Any]:
        own.append(unit)
        return [unit, "\n\u2028é" * unit, 2**-30 * unit, float("nan")]

    return [*world.map(work, [*range(count)])], own


@pytest.mark.parametrize(("size", "count"), [(1, 3), (2, 5), (4, 5), (4, 2), (2, 0)])
def test_each_unit_is_computed_once_and_all_results_come_in_order(size: int, count: int) -> None:
    results = on_processes(size, mapped, count)
    expected = [[n, "\n\u2028é" * n, 2**-30 * n, float("nan")] for n in range(count)]
    assert all(repr(values) == repr(expected) for values, _ in results)
    assert sorted(unit for _, own in results for unit in own) == [*range(count)]
    most = max(len(own) for _, own in results)
    assert most == -(-count // size)


def agreed(world: World) -> bool:
    return world.agreed(UsageError("wrong")).on_every_process


def test_an_error_of_every_process_is_printed_by_one() -> None:
    assert on_processes(1, agreed) == [False]
    assert on_processes(2, agreed) == [True, True]


def long_sum(world: World, length: int) -> list[float]:
    generator = torch.Generator().manual_seed(world.rank)
    values = torch.randn(length, generator=generator) * 10.0 ** (world.rank % 3)
    return world.sum(values).tolist()


@pytest.mark.parametrize(("size", "length"), [(2, 1), (2, 7), (4, 3), (4, 1001), (8, 37), (6, 5)])
def test_a_sum_of_any_length_is_that_of_a_tree(size: int, length: int) -> None:
    values = [
        torch.randn(length, generator=torch.Generator().manual_seed(rank)) * 10.0 ** (rank % 3)
        for rank in range(size)
    ]
    assert on_processes(size, long_sum, length) == [tree(values).tolist()] * size


def test_the_order_of_the_sum_matters_to_these_values() -> None:
    values = VALUES[:4].tolist()
    in_order = ((values[0] + values[1]) + values[2]) + values[3]
    assert tree([*VALUES[:4].split(1)]) != in_order


def differing(world: World, what: str) -> None:
    world.same("the prompts", lambda: what if world.rank == 1 else "as on process 0")


def test_a_process_with_other_data_is_named() -> None:
    for text in on_processes(3, differing, "others"):
        lines = text.strip().splitlines()[-3:]
        assert "the prompts: not the same on every process" in lines[0]
        assert lines[1] == "process 1 of 3, against process 0"


def one_fails(world: World) -> float:
    if world.rank == 1:
        raise ValueError("a bug")
    return world.most(1.0)


def test_an_error_of_one_process_ends_the_others_in_three_lines() -> None:
    first, second = on_processes(2, one_fails)
    assert "ValueError: a bug" in second
    lines = first.strip().splitlines()[-3:]
    assert "another process of this run does not answer" in lines[0]
    assert lines[1].startswith("process 0 of 2: ")


@pytest.mark.parametrize(("gpus", "backend"), [(0, "gloo"), (1, "gloo"), (2, "cpu:gloo,cuda:nccl")])
def test_nccl_is_there_if_each_process_has_a_gpu_and_gloo_for_what_is_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch, gpus: int, backend: str
) -> None:
    used: list[str] = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(
        torch.distributed, "init_process_group", lambda name, **options: used.append(name)
    )
    World.connect(Store(), 0, 2, 1.0)
    assert used == [backend]


def one_is_silent(world: World, rank: int) -> str:
    store = world._failures.store
    assert store
    others = [f"seen-{other}" for other in range(world.size) if other != rank]
    if world.rank == rank:
        store.wait(others)
        return "silent"
    with pytest.raises(LostProcessError) as error:
        world.most(1.0)
    store.set(f"seen-{world.rank}", "")
    return error.value.what


@pytest.mark.parametrize("rank", [0, 2])
def test_a_silent_process_is_named_by_all_others(
    rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlhf.parallel.failures.GRACE", 0.5)
    expected = [f"process {rank} of this run does not answer"] * 3
    expected[rank] = "silent"
    assert on_processes(3, one_is_silent, rank, patience=1.0) == expected


@pytest.mark.parametrize(
    ("message", "silent"),
    [
        ("[gloo/transport/tcp/pair.cc:537] Connection closed by peer", False),
        ("[gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 600000ms for recv", True),
    ],
)
def test_who_is_silent_is_told_by_the_error_of_a_collective(
    monkeypatch: pytest.MonkeyPatch, message: str, silent: bool
) -> None:
    world, seen = World(0, 2), list[bool]()
    monkeypatch.setattr(world._failures, "leave", lambda *, timed_out: seen.append(timed_out))
    with pytest.raises(LostProcessError), world.collectives():
        raise RuntimeError(message)
    with pytest.raises(RuntimeError, match="a shape is wrong"), world.collectives():
        raise RuntimeError("a shape is wrong")
    assert seen == [silent]
