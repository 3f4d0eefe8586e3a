"""What goes wrong on one process of a PPO run: all take the same decision."""

import errno
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from rlhf.errors import ResourceError, RlhfError
from rlhf.parallel.world import World
from rlhf.storage.checkpoint import load_checkpoint
from rlhf.types import PromptBatch, Responses
from tests.ppo.test_processes import DirectionReward, result, trainer, weights, whole_run
from tests.support.processes import on_processes

FULL = OSError(errno.ENOSPC, "No space left on device")


class Failing(DirectionReward):
    """Fails in the second iteration."""

    calls = 0

    def scores(self, prompts: PromptBatch, responses: Responses, *, max_tokens: int) -> Tensor:
        self.calls += 1
        if self.calls == 4:  # of two parts an iteration
            raise ResourceError("the scorer failed", "here", "repair it")
        return super().scores(prompts, responses, max_tokens=max_tokens)


def failing_scorer(world: World, tiny: Path, directory: Path, rank: int) -> tuple[str, int, bool]:
    run = trainer(world, tiny, directory)
    if world.rank == rank:
        run.reward.__class__ = Failing
    with pytest.raises(ResourceError) as error:
        run.run()
    world.leave(together=False)
    return error.value.what, error.value.exit_code, error.value.on_every_process


@pytest.mark.parametrize("rank", [0, 1])
def test_a_scorer_that_fails_on_one_process_ends_all(tiny: Path, tmp_path: Path, rank: int) -> None:
    other = ("another process of this run does not answer", 5, False)
    expected = [other, other]
    expected[rank] = ("the scorer failed", 5, False)
    assert on_processes(2, failing_scorer, tiny, tmp_path, rank) == expected
    assert load_checkpoint(tmp_path / "checkpoints").step == 1


def full_disk(world: World, tiny: Path, directory: Path, writer: str) -> dict[str, Any]:
    run = trainer(world, tiny, directory)

    def fail(*_: Any, **__: Any) -> Any:
        assert world.is_first
        raise FULL

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, fail)
        run.run()
    return result(run)


@pytest.mark.processes
@pytest.mark.parametrize(
    "writer",
    ["rlhf.tracking.writer.write_whole", "rlhf.tracking.writer.TensorBoardTracker.scalars"],
)
def test_curves_that_cannot_be_written_change_nothing_else(
    tiny: Path, tmp_path: Path, writer: str
) -> None:
    expected = whole_run(World(), tiny, tmp_path / "whole")
    assert on_processes(2, full_disk, tiny, tmp_path / "full", writer) == [expected] * 2


def unsaved_model(world: World, tiny: Path, directory: Path) -> tuple[str, str, int, str]:
    run = trainer(world, tiny, directory)
    run.run()

    def fail(*_: Any) -> None:
        assert world.is_first
        raise FULL

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rlhf.ppo.trainer.save_policy", fail)
        with pytest.raises(RlhfError) as error:
            run.save()
    assert error.value.on_every_process
    return type(error.value).__name__, error.value.what, error.value.exit_code, weights(run)


def test_a_model_that_cannot_be_saved_ends_every_process(tiny: Path, tmp_path: Path) -> None:
    first, second = on_processes(2, unsaved_model, tiny, tmp_path)
    what = "the system refuses: No space left on device"
    assert first[:3] == ("ResourceError", what, 5)
    assert second[:3] == ("OtherProcessError", what, 5)
    assert first[3] == second[3]


def opened_files(world: World, tiny: Path, directory: Path) -> set[str]:
    """Names of the files that a process opens in the run directory; "events" of TensorBoard."""
    names = set[str]()

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and not isinstance(arguments[0], int):
            path = Path(os.fsdecode(arguments[0]))
            if path.is_relative_to(directory):
                names.add(re.sub(r"^\.|\.out\..*$|\.tmp-.*$", "", path.name))

    sys.addaudithook(audit)
    whole_run(world, tiny, directory)
    return names


def test_only_process_0_opens_files_of_the_run(tiny: Path, tmp_path: Path) -> None:
    first, *others = on_processes(4, opened_files, tiny, tmp_path)
    assert {"metrics.jsonl", "events", "manifest.json"} <= first
    assert others == [set[str]()] * 3
