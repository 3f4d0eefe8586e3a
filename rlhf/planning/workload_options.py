"""The workload of `rlhf ppo`, `rlhf reward` and `rlhf sft`, from their options."""

from importlib.util import find_spec
from typing import Any

from rlhf.config.resolve import kl_choice, weights_dtype
from rlhf.config.schema import Config
from rlhf.functional import ADVANTAGE_ESTIMATORS
from rlhf.models.locations import locate_model
from rlhf.planning.devices import Kind
from rlhf.planning.model_dims import ModelDims
from rlhf.planning.workload import RewardPlacement, Stage, Workload


def workload_of(
    config: Config,
    dims: ModelDims,
    *,
    starts_from_adapter: bool,
    stage: Stage = "ppo",
    device: Kind = "cuda",
) -> Workload:
    """The workload of a command with these options, every response at its longest.

    Args:
        config: the options of the run.
        dims: sizes of the model it trains.
        starts_from_adapter: `model.path` names a trained adapter.
        stage: the command.
        device: kind of device that it runs on.
    """
    model = config.model
    trained = config.reward.train if stage == "reward" else model.train
    full = trained == "full"
    fields = {"ppo": _ppo_fields, "reward": _reward_fields, "sft": _sft_fields}[stage](config)
    return Workload(
        prompt_tokens=dims.image_tokens + config.plan.prompt_tokens,
        max_new_tokens=config.sampling.max_new_tokens,
        dtype=weights_dtype(config, device, trains_fully=full),  # type: ignore[arg-type]
        quantization=model.quantization,
        train="full" if full else "lora",
        lora_rank=model.lora_rank,
        lora_type=model.lora_type,
        gradient_checkpointing=model.gradient_checkpointing is True,
        starts_from_adapter=starts_from_adapter and not full,
        triton=device == "cuda" and find_spec("triton") is not None,
        max_prefill_tokens=model.max_prefill_tokens,
        prefix_cache_gib=model.prefix_cache_gib,
        processes=config.parallel.processes,
        parts=config.parallel.parts or config.parallel.processes,
        shard=config.parallel.shard,
        stage=stage,
        device=device,
        trains_backbone=trained in ("lora", "full"),
        **fields,
    )


def _ppo_fields(config: Config) -> dict[str, Any]:
    ppo = config.ppo
    needs_critic = ADVANTAGE_ESTIMATORS[ppo.advantage_estimator].needs_critic
    return {
        "rollout_batch_size": ppo.rollout_batch_size,
        "minibatch_size": ppo.minibatch_size,
        "microbatch_tokens": ppo.microbatch_tokens,
        "sampling_batch_size": config.sampling.batch_size,
        "ppo_epochs": ppo.ppo_epochs,
        "critic": ppo.critic,
        "critic_head": ppo.critic_head,
        "fits_critic": needs_critic and ppo.critic_fit == "ridge",
        "exact_kl": kl_choice(ppo)[1] == "exact",
        "optimizer": ppo.optimizer,
        "reward": _placement(config, "reward.path", config.reward.path),
        "judge": _judge_placement(config),
        "samples_per_prompt": ppo.samples_per_prompt,
        "recompute_logprobs": ppo.recompute_logprobs or ppo.engine != "native",
    }


def _reward_fields(config: Config) -> dict[str, Any]:
    """Two responses to the prompt of a pair, which is read once."""
    reward = config.reward
    batch = _batch_fields(2 * reward.batch_size, reward.microbatch_tokens, reward.optimizer)
    return {**batch, "samples_per_prompt": 2}


def _sft_fields(config: Config) -> dict[str, Any]:
    sft = config.sft
    return _batch_fields(sft.batch_size, sft.microbatch_tokens, sft.optimizer)


def _batch_fields(rows: int, microbatch_tokens: int, optimizer: str) -> dict[str, Any]:
    """Fields of one optimizer step over a batch, without rollout, reference or critic."""
    return {
        "rollout_batch_size": rows,
        "minibatch_size": rows,
        "sampling_batch_size": rows,
        "microbatch_tokens": microbatch_tokens,
        "ppo_epochs": 1,
        "optimizer": optimizer,
        "reward": "none",
    }


def _judge_placement(config: Config) -> RewardPlacement:
    """Where the held-out judge runs; an external one is not on the GPU."""
    path = config.reward.judge_path
    return _placement(config, "reward.judge_path", path) if path else "none"


def _placement(config: Config, option: str, path: str) -> RewardPlacement:
    """Where a reward model runs; if no path names one, where `rlhf reward` would train it.

    A text model that reads captions is another model and is not counted.
    """
    kind: str = config.reward.kind
    shares_base_model = config.model.train != "full"
    if path:
        from rlhf.rewards.reward_card import RewardCard  # needs msgspec, which sizes do not

        directory, card = RewardCard.read(path, option)
        kind = card.kind
        if kind == "llava_head":
            base = locate_model(config.model.path, config.model.base).base
            shares_base_model &= card.backbone_path(directory, config.model.base) == base
    if kind != "llava_head":
        return "none"
    return "adapter" if shares_base_model else "base_model"
