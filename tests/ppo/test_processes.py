"""PPO on several processes: tokens, weights and metrics are those of one, to the last bit."""

import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rlhf.config.schema import Config, ModelConfig, ParallelConfig, PPOConfig, SamplingConfig
from rlhf.errors import ResourceError, RlhfError, StoppedError
from rlhf.functional import VALUE_FEATURES
from rlhf.models.policy import build_policy
from rlhf.models.scalar_head import ScalarHead
from rlhf.parallel.world import World
from rlhf.ppo.rollout import collect_rollout
from rlhf.ppo.trainer import PPOTrainer
from rlhf.storage.hashing import hash_tensors
from rlhf.training import checkpoint_manager
from rlhf.training.callbacks import Callback
from rlhf.types import PromptBatch, Responses
from tests.ppo.test_trainer import DirectionReward
from tests.support import tiny_models
from tests.support.processes import on_processes

PPO = PPOConfig(
    iterations=3,
    rollout_batch_size=16,
    minibatch_size=8,
    ppo_epochs=2,
    lr=1e-3,
    critic_fit="gradient",
    critic_min_explained_variance=None,
    value_features=(),
    gae_lambda=0.95,
    critic_warmup_iterations=1,
    log_samples_every=2,
    save_every=1,
    sanity_checks=False,
)
RIDGE: dict[str, Any] = {
    "critic_fit": "ridge",
    "value_features": VALUE_FEATURES,
    "critic_min_explained_variance": None,  # so that its values matter from the start
    "gae_lambda": 1.0,
    "critic_warmup_iterations": 0,
    "samples_per_prompt": 2,
}
TIMED = ("time/", "memory/", "throughput/")


class Recorder(Callback):
    """What a run computes, as texts: responses of each rollout, metrics of each iteration."""

    def __init__(self) -> None:
        self.tokens: list[list[list[int]]] = []
        self.metrics: list[dict[str, str]] = []

    def on_rollout(self, trainer: Any, rollout: Any) -> None:
        self.tokens.append(rollout.responses.rows())

    def on_iteration(self, trainer: Any, metrics: Any) -> None:
        exact = {k: float(x).hex() for k, x in metrics.items() if not k.startswith(TIMED)}
        self.metrics.append(exact)


def trainer(
    world: World, tiny: Path, directory: Path, ppo: PPOConfig = PPO, dtype: str = "float32"
) -> PPOTrainer:
    """A run in four parts; the dtype nf4 is nf4 weights that compute in bfloat16."""
    quantized = dtype == "nf4"
    llava = tiny_models.load(*(tiny, "bfloat16", "nf4") if quantized else (tiny, dtype))
    torch.manual_seed(0)
    policy = build_policy(llava, ModelConfig(lora_rank=4), temperature=1.0, critic=ppo.critic)
    head = ScalarHead(llava.hidden_size)
    torch.nn.init.normal_(head.linear.weight)
    sampling = SamplingConfig(max_new_tokens=6)
    return PPOTrainer(
        policy,
        DirectionReward(llava, head, llava.builder),
        tiny_models.prompts_of(llava, tiny, 8),
        ppo,
        sampling=sampling,
        callbacks=[Recorder()],
        run_dir=directory,
        run_config=Config(ppo=ppo, sampling=sampling, parallel=ParallelConfig(parts=4)),
        world=world,
    )


def weights(run: PPOTrainer) -> str:
    trained = {**run.policy.trainable_parameters(), **run.policy.critic_parameters()}
    return hash_tensors(trained.items())


def result(run: PPOTrainer) -> dict[str, Any]:
    (recorder,) = run.callbacks
    assert isinstance(recorder, Recorder)
    return {"weights": weights(run), "tokens": recorder.tokens, "metrics": recorder.metrics}


def whole_run(
    world: World, tiny: Path, directory: Path, ppo: PPOConfig = PPO, dtype: str = "float32"
) -> dict[str, Any]:
    run = trainer(world, tiny, directory, ppo, dtype)
    run.run()
    run.save()
    return result(run)


def assert_equal(tiny: Path, directory: Path, sizes: list[int], *options: Any) -> None:
    expected = whole_run(World(), tiny, directory / "1", *options)
    assert len(expected["metrics"]) == 3
    for size in sizes:
        for got in on_processes(size, whole_run, tiny, directory / str(size), *options):
            assert not isinstance(got, str), got
            for kind in ("tokens", "metrics", "weights"):
                assert got[kind] == expected[kind], (size, kind)


def test_a_run_is_the_same_on_one_two_and_four_processes(tiny: Path, tmp_path: Path) -> None:
    assert_equal(tiny, tmp_path, [2, 4])
    one, two = (
        tiny_models.timeless_curves(tmp_path / size / "metrics.jsonl") for size in ("1", "2")
    )
    assert one == two
    files = [sorted(path.name for path in (tmp_path / size).iterdir()) for size in ("1", "4")]
    assert len(files[0]) == len(files[1])  # a second writer would have made a second event file


def test_a_fitted_critic_is_the_same_on_one_two_and_four_processes(
    tiny: Path, tmp_path: Path
) -> None:
    assert_equal(tiny, tmp_path, [2, 4], replace(PPO, **RIDGE))


@pytest.mark.processes
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "nf4"])
@pytest.mark.parametrize(
    "options",
    [
        {"critic": "shared"},
        {"critic": "shared_detached"},
        {"critic": "adapter"},
        {"critic": "separate"},
        {"advantage_estimator": "rloo", "samples_per_prompt": 2, "minibatch_size": 8},
        {"advantage_estimator": "grpo", "samples_per_prompt": 2, "kl_placement": "loss"},
        {"kl_placement": "loss", "kl_estimator": "exact"},
        {"missing_eos": "bootstrap", "recompute_logprobs": False, "whiten_minibatches": True},
        {"adaptive_kl_target": 1.0, "normalize_scores": True, "target_kl": 1e-4},
        RIDGE,
        RIDGE | {"critic": "adapter"},
        RIDGE | {"critic": "shared", "missing_eos": "bootstrap"},
    ],
    ids=lambda options: "-".join(str(x) for x in options.values() if not isinstance(x, tuple)),
)
def test_every_estimator_and_critic_is_the_same(
    tiny: Path, tmp_path: Path, options: dict[str, Any], dtype: str
) -> None:
    assert_equal(tiny, tmp_path, [2, 4], replace(PPO, **options), dtype)


class Interrupt(Callback):
    """Sends a signal to one process after an iteration."""

    def __init__(self, world: World, rank: int, iteration: int) -> None:
        self.comes, self.iteration = world.rank == rank, iteration

    def on_iteration(self, trainer: Any, metrics: Any) -> None:
        if self.comes and trainer.iteration == self.iteration:
            os.kill(os.getpid(), signal.SIGUSR1)


def stopped_run(world: World, tiny: Path, directory: Path, rank: int) -> tuple[int, str]:
    run = trainer(world, tiny, directory)
    run.callbacks.append(Interrupt(world, rank, iteration=1))
    with pytest.raises(StoppedError) as error:
        run.run()
    assert error.value.on_every_process
    return error.value.exit_code, weights(run)


def resumed_run(world: World, tiny: Path, directory: Path) -> dict[str, Any]:
    run = trainer(world, tiny, directory)
    run.resume()
    assert run.iteration == 2
    run.run()
    return result(run)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_to_one_process_stops_all_with_one_checkpoint_that_any_number_resumes(
    tiny: Path, tmp_path: Path, rank: int
) -> None:
    stopped = on_processes(2, stopped_run, tiny, tmp_path / "run", rank)
    assert stopped == [stopped[0]] * 2 and stopped[0][0] == 75
    assert max(path.name for path in (tmp_path / "run/checkpoints").iterdir()) == "step-000002"
    expected = whole_run(World(), tiny, tmp_path / "uncut")
    for size in (1, 2, 4):
        shutil.copytree(tmp_path / "run", tmp_path / f"resumed-{size}")
        for got in on_processes(size, resumed_run, tiny, tmp_path / f"resumed-{size}"):
            assert got["weights"] == expected["weights"], (size, got)
            assert got["metrics"] == expected["metrics"][2:]


def short_of_memory(world: World, tiny: Path, directory: Path) -> list[Any]:
    run, calls = trainer(world, tiny, directory), []
    backward, collect = run.updater._backward_microbatch, collect_rollout

    def fails_first(function: Any) -> Any:
        def patched(*given: Any, **options: Any) -> Any:
            calls.append(function)
            if world.rank == 1 and calls.count(function) == 1:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB")
            return function(*given, **options)

        return patched

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run.updater, "_backward_microbatch", fails_first(backward))
        patch.setattr("rlhf.ppo.iteration.collect_rollout", fails_first(collect))
        run.run()
    return [run.updater.oom_retry.num_splits, weights(run), result(run)["metrics"]]


def test_memory_short_on_one_process_splits_the_batches_of_all(tiny: Path, tmp_path: Path) -> None:
    first, second = on_processes(2, short_of_memory, tiny, tmp_path)
    assert first == second and first[0] == 4


def one_bad_gradient(world: World, tiny: Path, directory: Path) -> list[Any]:
    run, calls = trainer(world, tiny, directory), []
    accumulate = run.updater.accumulator._accumulate

    def broken(*given: Any) -> Any:
        calls.append(given)
        outcome = accumulate(*given)
        if world.rank == 1 and len(calls) == 9:
            run.updater.critic_parameters[0].grad.fill_(float("nan"))  # type: ignore[union-attr]
        return outcome

    run.updater.accumulator._accumulate = broken  # type: ignore[assignment, method-assign]
    run.run()
    return [run.updater.skipped_steps, weights(run), result(run)["metrics"]]


def test_a_gradient_that_is_not_finite_on_one_process_is_skipped_by_all(
    tiny: Path, tmp_path: Path
) -> None:
    first, second = on_processes(2, one_bad_gradient, tiny, tmp_path)
    assert first == second and first[0] == 1


def full_disk(world: World, tiny: Path, directory: Path) -> str:
    run = trainer(world, tiny, directory)

    def fail(*_: Any, **__: Any) -> Path:
        assert world.rank == 0
        raise ResourceError("the disk is full", "here", "make room")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint_manager, "save_checkpoint", fail)
        with pytest.raises(RlhfError) as error:
            run.run()
    return f"{type(error.value).__name__} {error.value.exit_code} {error.value.what} {run.done}"


def test_the_third_failed_save_ends_every_process(tiny: Path, tmp_path: Path) -> None:
    assert on_processes(2, full_disk, tiny, tmp_path) == [
        "ResourceError 5 the disk is full 3",
        "OtherProcessError 5 the disk is full 3",
    ]


class Forgetful(DirectionReward):
    """Has no score for the responses to some prompts."""

    can_fail = True
    lost: frozenset[int] = frozenset()

    def scores(self, prompts: PromptBatch, responses: Responses, *, max_tokens: int) -> Tensor:
        scores = super().scores(prompts, responses, max_tokens=max_tokens)
        missing = torch.tensor([key in self.lost for key in prompts.sampling_keys.tolist()])
        return scores.masked_fill(missing, float("nan"))


def forgetful_run(world: World, tiny: Path, directory: Path, count: int) -> dict[str, Any]:
    run = trainer(world, tiny, directory)
    run.reward.__class__ = Forgetful
    keys = run.iteration_prompts(0)[0].sampling_keys.tolist()
    run.reward.lost = frozenset(keys[:count])  # type: ignore[attr-defined]
    run.run()
    return result(run)


def test_a_process_whose_responses_have_no_score_takes_part(tiny: Path, tmp_path: Path) -> None:
    expected = forgetful_run(World(), tiny, tmp_path / "1", 5)
    assert max(float.fromhex(m["rollout/unscored"]) for m in expected["metrics"]) >= 5
    for got in on_processes(2, forgetful_run, tiny, tmp_path / "2", 5):
        assert got == expected
    for text in on_processes(2, forgetful_run, tiny, tmp_path / "0", 16):
        assert "every response of an iteration" in text
