"""PPO with sharded models: the run of whole models."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForImageTextToText

from rlhf.config.schema import Config, ModelConfig, ParallelConfig, PPOConfig, SamplingConfig
from rlhf.errors import RlhfError, UsageError, expected_error
from rlhf.models.policy import build_policy
from rlhf.models.scalar_head import ScalarHead
from rlhf.models.sharding import ShardedModels, is_sharded
from rlhf.parallel.world import World
from rlhf.ppo.trainer import PPOTrainer
from rlhf.storage.checkpoint import load_checkpoint
from rlhf.storage.hashing import hash_tensors
from tests.ppo.test_processes import PPO, RIDGE, Recorder, result
from tests.ppo.test_trainer import DirectionReward
from tests.support import tiny_models
from tests.support.processes import on_processes

LORA, FULL = ModelConfig(lora_rank=4), ModelConfig(train="full")
# Processes have unequal numbers of microbatches.
SHORT = replace(PPO, iterations=2, ppo_epochs=1, microbatch_tokens=40)
ROUNDING = 1e-6


def trainer(
    world: World,
    tiny: Path,
    directory: Path,
    *,
    shard: bool = True,
    ppo: PPOConfig = SHORT,
    dtype: str = "float32",
    model: ModelConfig = LORA,
) -> PPOTrainer:
    """A run in four parts."""
    llava = tiny_models.load(tiny, dtype, model.quantization)
    torch.manual_seed(0)
    policy = build_policy(llava, model, temperature=1.0, critic=ppo.critic)
    head = ScalarHead(llava.hidden_size)
    torch.nn.init.normal_(head.linear.weight)
    sampling = SamplingConfig(max_new_tokens=6)
    parallel = ParallelConfig(parts=4, shard=shard)
    return PPOTrainer(
        policy,
        DirectionReward(llava, head, llava.builder),
        tiny_models.prompts_of(llava, tiny, 8),
        ppo,
        sampling=sampling,
        callbacks=[Recorder()],
        run_dir=directory,
        run_config=Config(ppo=ppo, model=model, sampling=sampling, parallel=parallel),
        world=world,
    )


def trained(run: PPOTrainer) -> dict[str, Tensor]:
    """Trained weights, whole; nothing on any process but the first."""
    critic = {f"critic.{name}": x for name, x in run.policy.critic_parameters().items()}
    return run.sharding.gather_all({**run.policy.trainable_parameters(), **critic})


def whole_run(world: World, tiny: Path, directory: Path, options: dict[str, Any]) -> dict[str, Any]:
    run = trainer(world, tiny, directory, **options)
    frozen = run._frozen_at_start
    run.run()
    run.save()
    assert run.frozen_hash() == frozen
    return result(run)


def assert_equal(tiny: Path, directory: Path, sizes: list[int], **options: Any) -> None:
    expected = whole_run(World(), tiny, directory / "1", {"shard": False, **options})
    assert any(float.fromhex(m["loss/policy_avg"]) for m in expected["metrics"])
    for size in sizes:
        for got in on_processes(size, whole_run, tiny, directory / str(size), options):
            assert not isinstance(got, str), got
            for kind in ("tokens", "metrics", "weights"):
                assert got[kind] == expected[kind], (size, kind)


def test_a_lora_on_sharded_layers_is_the_same(tiny: Path, tmp_path: Path) -> None:
    assert_equal(tiny, tmp_path, [2], ppo=replace(SHORT, sanity_checks=True))


@pytest.mark.processes
@pytest.mark.parametrize("critic", ["shared_detached", "shared", "adapter", "separate"])
@pytest.mark.parametrize("kind", ["float32", "bfloat16", "nf4"])
def test_every_critic_and_storage_is_the_same(
    tiny: Path, tmp_path: Path, kind: str, critic: Any
) -> None:
    options: dict[str, Any] = {"dtype": kind}
    if kind == "nf4":
        options = {"dtype": "bfloat16", "model": replace(LORA, quantization="nf4")}
    ppo = replace(SHORT, critic=critic, iterations=3, sanity_checks=True)
    assert_equal(tiny, tmp_path, [2, 4], ppo=ppo, **options)


@pytest.mark.processes
def test_with_recomputed_layers_it_is_the_same(tiny: Path, tmp_path: Path) -> None:
    def run(world: World, size: str, shard: bool) -> dict[str, Any]:
        run = trainer(world, tiny, tmp_path / size, shard=shard)
        run.policy.llava.gradient_checkpointing = True
        run.run()
        return result(run)

    expected = run(World(), "1", False)
    assert on_processes(2, run, "2", True) == [expected] * 2


def full_run(
    world: World, tiny: Path, directory: Path, options: dict[str, Any]
) -> tuple[dict[str, Any], list[Any]]:
    """Trained weights on process 0, and the tokens of all iterations."""
    run = trainer(world, tiny, directory, model=FULL, **options)
    run.run()
    run.save()
    values = {name: value.detach().numpy() for name, value in trained(run).items()}
    return values, result_tokens(run)


def result_tokens(run: PPOTrainer) -> list[Any]:
    (recorder,) = run.callbacks
    assert isinstance(recorder, Recorder)
    return recorder.tokens


def assert_near(got: dict[str, Any], expected: dict[str, Any]) -> None:
    assert got.keys() == expected.keys()
    assert max(abs(got[name] - expected[name]).max() for name in expected) <= ROUNDING


def assert_full_near(tiny: Path, directory: Path, sizes: list[int], ppo: PPOConfig) -> None:
    plain = {"ppo": ppo, "shard": False}
    expected, tokens = full_run(World(), tiny, directory / "1", plain)
    for size in sizes:
        place = directory / str(size)
        results = on_processes(size, full_run, tiny, place, {"ppo": ppo})
        for got in results:
            assert not isinstance(got, str), got
            assert got[1] == tokens
        assert_near(results[0][0], expected)
        saved = AutoModelForImageTextToText.from_pretrained(place / "model").state_dict()
        written = [name for name in expected if name in saved]
        assert len(written) == sum(not name.startswith("critic.") for name in expected)
        assert all((saved[name].numpy() == results[0][0][name]).all() for name in written)


def test_full_training_differs_by_rounding_only(tiny: Path, tmp_path: Path) -> None:
    assert_full_near(tiny, tmp_path, [2], replace(SHORT, critic_warmup_iterations=0))


@pytest.mark.processes
@pytest.mark.parametrize("critic", ["shared_detached", "shared", "separate"])
def test_every_critic_of_full_training_differs_by_rounding_only(
    tiny: Path, tmp_path: Path, critic: Any
) -> None:
    ppo = replace(SHORT, critic=critic, iterations=4, ppo_epochs=2, lr=1e-4)
    assert_full_near(tiny, tmp_path, [2, 4], ppo)


@pytest.mark.processes
@pytest.mark.parametrize("fit", ["ridge", "gradient"])
def test_value_features_and_a_fitted_head_stay_whole(tiny: Path, tmp_path: Path, fit: str) -> None:
    ppo = replace(SHORT, **RIDGE | {"critic_fit": fit})
    assert_full_near(tiny, tmp_path / "full", [2], ppo)
    assert_equal(tiny, tmp_path / "lora", [2], ppo=ppo)


def resumed(
    world: World, tiny: Path, directory: Path, options: dict[str, Any]
) -> tuple[str, dict[str, Any]]:
    """Hash of the state after reading a checkpoint; trained weights of the whole run."""
    run = trainer(world, tiny, directory, **options)
    run.resume()
    state = run.state()
    tensors = {f"{part}.{k}": x for part, named in state.tensors.items() for k, x in named.items()}
    state_hash = hash_tensors(tensors.items())
    run.run()
    return state_hash, {name: value.detach().numpy() for name, value in trained(run).items()}


@pytest.mark.processes
@pytest.mark.parametrize("model", [LORA, FULL])
def test_a_checkpoint_of_two_processes_is_read_on_one_and_four(
    tiny: Path, tmp_path: Path, model: ModelConfig
) -> None:
    ppo = replace(SHORT, critic_warmup_iterations=0, lr=1e-4)
    options = {"model": model, "ppo": replace(ppo, iterations=1)}
    on_processes(2, whole_run, tiny, tmp_path / "run", options)
    parts = dict(load_checkpoint(tmp_path / "run/checkpoints").tensors)
    del parts["random"]  # the state of the generators, which is not the trainer's
    saved = {f"{part}.{name}": x for part, named in parts.items() for name, x in named.items()}
    assert any(value.abs().max() > 0 for name, value in saved.items() if "exp_avg_sq" in name)
    weights: list[dict[str, Any]] = []
    for size, shard in ((1, True), (1, model is FULL), (2, True), (4, True)):
        place = tmp_path / f"{size}-{shard}-{len(weights)}"
        shutil.copytree(tmp_path / "run", place)
        continued = {"model": model, "ppo": ppo, "shard": shard}
        state, after = on_processes(size, resumed, tiny, place, continued)[0]
        assert state == hash_tensors(saved.items()), (size, shard)
        weights.append(after)
    for after in weights[1:]:
        assert_near(after, weights[0])
        assert model is FULL or all((after[k] == x).all() for k, x in weights[0].items())


def test_resuming_full_training_refuses_another_shard(tiny: Path, tmp_path: Path) -> None:
    ppo = replace(SHORT, iterations=1)
    whole_run(World(), tiny, tmp_path, {"model": FULL, "shard": True, "ppo": ppo})
    run = trainer(World(), tiny, tmp_path, model=FULL, shard=False)
    with pytest.raises(UsageError, match="other options") as error:
        run.resume()
    assert "parallel.shard: True then, False now" in error.value.where


def failing_run(world: World, tiny: Path, directory: Path, message: str) -> str:
    run, calls = trainer(world, tiny, directory), []
    backward = run.updater._backward

    def fails(loss: Tensor) -> Tensor:
        calls.append(loss)
        if world.rank == 1 and len(calls) == 3:
            raise RuntimeError(message)
        return backward(loss)

    run.updater._backward = fails  # type: ignore[method-assign]
    try:
        run.run()
    except Exception as error:
        world.leave(together=False)  # as `join_processes` does
        told = expected_error(error)
        return f"{told.exit_code}\n{told}" if told else f"bug {error}"
    return "no error"


def test_memory_short_on_one_process_ends_all_at_once(tiny: Path, tmp_path: Path) -> None:
    message = "CUDA out of memory. Tried to allocate 1.00 GiB"
    first, second = on_processes(2, failing_run, tiny, tmp_path, message)
    assert first.startswith("5\nanother process of this run does not answer\nprocess 0 of 2: ")
    assert second.startswith(f"5\nmemory ran out\n{message}\n")
    assert len(first.split("\n")) == len(second.split("\n")) == 4


@pytest.mark.processes
def test_a_bug_on_one_process_stays_a_bug_there(tiny: Path, tmp_path: Path) -> None:
    first, second = on_processes(2, failing_run, tiny, tmp_path, "a shape is wrong")
    assert first.startswith("5\nanother process of this run does not answer\n")
    assert second == "bug a shape is wrong"


def run_with_a_bad_gradient(world: World, tiny: Path, directory: Path) -> list[Any]:
    run, calls = trainer(world, tiny, directory, model=FULL), []
    backward = run.updater._backward

    def poisoned(loss: Tensor) -> Tensor:
        calls.append(loss)
        bad = world.rank == 1 and len(calls) == 1
        return backward(loss * float("nan") if bad else loss)

    run.updater._backward = poisoned  # type: ignore[method-assign]
    run.run()
    finite = all(bool(x.isfinite().all()) for x in trained(run).values())
    return [run.updater.skipped_steps, finite, result_tokens(run)]


@pytest.mark.processes
def test_a_gradient_that_is_not_finite_on_one_process_is_skipped_by_all(
    tiny: Path, tmp_path: Path
) -> None:
    first, second = on_processes(2, run_with_a_bad_gradient, tiny, tmp_path)
    assert first == second and first[:2] == [1, True]


def held(world: World, tiny: Path, directory: Path) -> list[Any]:
    """Whether layers are sharded between iterations, and inside a callback."""
    run = trainer(world, tiny, directory, ppo=replace(SHORT, log_samples_every=1))
    seen: list[Any] = []

    def look() -> None:
        layers = run.policy.llava.language_model.layers
        frozen = [x for name, x in layers.named_parameters() if "lora_" not in name]
        seen.append({is_sharded(value) for value in frozen})

    run.callbacks[0].on_update = lambda *_: look()  # type: ignore[method-assign]
    for _ in run:
        look()
    return seen


@pytest.mark.processes
def test_layers_are_sharded_between_iterations_and_whole_for_callbacks(
    tiny: Path, tmp_path: Path
) -> None:
    assert on_processes(2, held, tiny, tmp_path) == [[{False}, {True}] * 2] * 2


def test_one_process_keeps_the_models_whole_and_says_so(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trainer(World(), tiny, tmp_path)
    assert not run.sharding.active
    assert "there is one process, which holds the models whole" in capsys.readouterr().out


def test_8_bit_moments_of_full_training_are_refused(tiny: Path, tmp_path: Path) -> None:
    ppo = replace(SHORT, optimizer="adamw_8bit")
    with pytest.raises(UsageError) as error:
        trainer(World(), tiny, tmp_path, ppo=ppo, model=FULL)
    assert error.value.exit_code == 2 and len(str(error.value).split("\n")) == 3
    assert not trainer(World(), tiny, tmp_path / "lora", ppo=ppo).sharding.active


def lost_connection(world: World) -> list[str]:
    """What a process says of a gather that no other takes part in."""
    if world.rank:
        return []
    model = ShardedModels()
    model.world, model._units = world, [_Broken()]  # type: ignore[list-item]
    texts = []
    for error in ("[gloo/transport/tcp/pair.cc:537] Connection closed by peer", "a bug"):
        _Broken.error = error
        try:
            with model.whole():
                pass
        except (RlhfError, RuntimeError) as raised:
            texts.append(type(raised).__name__)
    return texts


class _Broken:
    error = ""

    def set_reshard_after_forward(self, value: bool, *, recurse: bool) -> None:
        pass

    def unshard(self) -> None:
        raise RuntimeError(self.error)


def test_only_errors_of_the_exchange_are_told_as_such() -> None:
    assert on_processes(2, lost_connection)[0] == ["LostProcessError", "RuntimeError"]
