"""The options of a run that decide its memory and time."""

from dataclasses import dataclass
from typing import Literal

from rlhf.config.choices import CriticHead, CriticKind
from rlhf.planning.devices import Kind

RewardPlacement = Literal["adapter", "base_model", "none"]
Stage = Literal["ppo", "reward", "sft"]


@dataclass(frozen=True, kw_only=True)
class Workload:
    """The options of a run that decide its memory and time, named as those of PPO.

    A batch of demonstrations stands for a minibatch and a rollout of as many responses, a batch of
    pairs for one with two responses to each prompt.

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
        critic_head: what reads the hidden states of the critic.
        fits_critic: the critic's head is fitted in closed form to states kept in the rollout.
        exact_kl: the rollout keeps the reference's hidden states, for the KL in the loss.
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
        stage: the command, which trains a policy or a reward model.
        device: kind of device that it runs on.
        trains_backbone: the language model or its adapter trains; else only the reward head.
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
    critic: CriticKind = "shared_detached"
    critic_head: CriticHead = "linear"
    fits_critic: bool = False
    exact_kl: bool = False
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
    stage: Stage = "ppo"
    device: Kind = "cuda"
    trains_backbone: bool = True

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
    def compute_dtype(self) -> str:
        """The dtype of activations."""
        return "float32" if self.activation_width == 4 else "bfloat16"

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
        """Responses of a micro-batch: as many as fit its tokens, at least 1, at most `max_rows`.

        The two responses of a pair stay together.
        """
        group_tokens = self.prompt_tokens + self.samples_per_prompt * self.max_new_tokens
        whole_groups = self.microbatch_tokens // group_tokens * self.samples_per_prompt
        if self.stage == "reward":
            return min(max_rows, max(self.samples_per_prompt, whole_groups))
        of_one_prompt = (self.microbatch_tokens - self.prompt_tokens) // self.max_new_tokens
        return min(max_rows, whole_groups or max(1, of_one_prompt))

    def prefill_prompts(self, rows: int) -> int:
        """Prompts of one prefill, out of the distinct prompts of `rows` responses."""
        return min(self.prompts_of(rows), max(1, self.max_prefill_tokens // self.prompt_tokens))
