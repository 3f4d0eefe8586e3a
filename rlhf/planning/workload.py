"""The options of a PPO run that decide its memory and time."""

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

from rlhf.config.resolve import weights_dtype
from rlhf.config.schema import Config
from rlhf.models.locations import locate_model
from rlhf.planning.model_dims import ModelDims

RewardPlacement = Literal["adapter", "base_model", "none"]


@dataclass(frozen=True, kw_only=True)
class Workload:
    """The options of a PPO run that decide its memory and time, named as in the configuration.

    Attributes:
        prompt_tokens: tokens of each prompt, the image's included.
        max_new_tokens: tokens of each response.
        rollout_batch_size: responses of an iteration.
        minibatch_size: responses of an optimizer step.
        microbatch_tokens: most tokens of a forward and backward pass.
        sampling_batch_size: responses generated together.
        ppo_epochs: passes over the rollout in the update.
        dtype: of frozen weights.
        quantization: of the language model's linear layers.
        train: LoRA adapters or all weights of the language model.
        lora_rank: rank of the adapters.
        lora_type: LoRA on all tokens, or aLoRA on response tokens only.
        critic: how the critic shares the policy's model.
        gradient_checkpointing: whether layers are recomputed in the backward pass.
        optimizer: its state is 8 bytes per parameter in float32, 2 in 8 bits.
        starts_from_adapter: the reference is a frozen second copy of the adapter.
        reward: the reward model is an `adapter` on the policy's base model, has a base model of
            its own (`base_model`), or is not on the GPU (`none`).
        judge: the same of the held-out judge; `none`: there is none.
        triton: runs on a GPU with Triton's kernels; otherwise on a CPU.
        samples_per_prompt: responses to each prompt.
        recompute_logprobs: the update's old log-probabilities come from a pass of their own.
        max_prefill_tokens: most prompt tokens of one prefill.
        prefix_cache_gib: GiB for prompts whose KV cache is kept; used under aLoRA only.
        processes: of the run, one GPU each.
        parts: that rollout and minibatch are cut into; each is computed by itself.
        shard: each process holds a shard of every layer, which a pass gathers.
    """

    prompt_tokens: int
    max_new_tokens: int
    rollout_batch_size: int
    minibatch_size: int
    microbatch_tokens: int
    sampling_batch_size: int
    ppo_epochs: int = 4
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    quantization: Literal["none", "int8", "nf4"] = "none"
    train: Literal["lora", "full"] = "lora"
    lora_rank: int = 16
    lora_type: Literal["lora", "alora"] = "lora"
    critic: Literal["shared_detached", "shared", "adapter", "separate"] = "shared_detached"
    gradient_checkpointing: bool = False
    optimizer: Literal["adamw", "adamw_8bit", "paged_adamw_8bit"] = "adamw"
    starts_from_adapter: bool = False
    reward: RewardPlacement = "adapter"
    judge: RewardPlacement = "none"
    triton: bool = True
    samples_per_prompt: int = 1
    recompute_logprobs: bool = True
    max_prefill_tokens: int = 8192
    prefix_cache_gib: float = 4.0
    processes: int = 1
    parts: int = 1
    shard: bool = False

    @property
    def sequence_tokens(self) -> int:
        """Tokens of a prompt and its response."""
        return self.prompt_tokens + self.max_new_tokens

    @property
    def uses_alora(self) -> bool:
        """Whether LoRA acts on response tokens only."""
        return self.lora_type == "alora"

    @property
    def is_sharded(self) -> bool:
        """Whether a process holds only shards of the layers."""
        return self.shard and self.processes > 1

    @property
    def own_parts(self) -> int:
        """Parts of one process."""
        return self.parts // self.processes

    @property
    def own_rollout_rows(self) -> int:
        """Responses that one process generates in an iteration."""
        return self.own_parts * self.rows_of_part(self.rollout_batch_size)

    def rows_of_part(self, rows: int) -> int:
        """Responses of one part, out of `rows` in all; a prompt's responses stay together."""
        return -(-self.prompts_of(rows) // self.parts) * self.samples_per_prompt

    @property
    def activation_width(self) -> int:
        """Bytes per activation; full training keeps the language model in float32."""
        return 4 if self.train == "full" or self.dtype == "float32" else 2

    @property
    def generation_rows(self) -> int:
        """Responses generated together."""
        return min(self.sampling_batch_size, self.rows_of_part(self.rollout_batch_size))

    def prompts_of(self, rows: int) -> int:
        """Distinct prompts of `rows` consecutive responses."""
        return -(-rows // self.samples_per_prompt)

    def forward_tokens(self, rows: int) -> int:
        """Tokens of `rows` responses in a forward pass: each prompt once (none under aLoRA)."""
        prompts = 0 if self.uses_alora else self.prompts_of(rows) * self.prompt_tokens
        return prompts + rows * self.max_new_tokens

    def microbatch_rows(self, max_rows: int) -> int:
        """Responses of a micro-batch: as many as fit its tokens, at least 1, at most `max_rows`."""
        group_tokens = self.prompt_tokens + self.samples_per_prompt * self.max_new_tokens
        whole_groups = self.microbatch_tokens // group_tokens * self.samples_per_prompt
        of_one_prompt = (self.microbatch_tokens - self.prompt_tokens) // self.max_new_tokens
        return min(max_rows, whole_groups or max(1, of_one_prompt))

    def prefill_prompts(self, rows: int) -> int:
        """Prompts of one prefill, out of the distinct prompts of `rows` responses."""
        return min(self.prompts_of(rows), max(1, self.max_prefill_tokens // self.prompt_tokens))


def workload_of(config: Config, dims: ModelDims, *, starts_from_adapter: bool) -> Workload:
    """The workload of `rlhf ppo` with these options, every response at its longest.

    Args:
        config: the options of the run.
        dims: sizes of the model it trains.
        starts_from_adapter: `model.path` names a trained adapter.
    """
    model, ppo, full = config.model, config.ppo, config.model.train == "full"
    return Workload(
        prompt_tokens=dims.image_tokens + config.plan.prompt_tokens,
        max_new_tokens=config.sampling.max_new_tokens,
        rollout_batch_size=ppo.rollout_batch_size,
        minibatch_size=ppo.minibatch_size,
        microbatch_tokens=ppo.microbatch_tokens,
        sampling_batch_size=config.sampling.batch_size,
        ppo_epochs=ppo.ppo_epochs,
        dtype=weights_dtype(config, "cuda", trains_fully=full),  # type: ignore[arg-type]
        quantization=model.quantization,
        train=model.train,
        lora_rank=model.lora_rank,
        lora_type=model.lora_type,
        critic=ppo.critic,
        gradient_checkpointing=model.gradient_checkpointing is True,
        optimizer=ppo.optimizer,
        starts_from_adapter=starts_from_adapter and not full,
        reward=_placement(config, "reward.path", config.reward.path),
        judge=_judge_placement(config),
        triton=find_spec("triton") is not None,
        samples_per_prompt=ppo.samples_per_prompt,
        recompute_logprobs=ppo.recompute_logprobs or ppo.engine != "native",
        max_prefill_tokens=model.max_prefill_tokens,
        prefix_cache_gib=model.prefix_cache_gib,
        processes=config.parallel.processes,
        parts=config.parallel.parts or config.parallel.processes,
        shard=config.parallel.shard,
    )


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
