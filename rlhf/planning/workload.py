"""What of a run's options decides its memory and time."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What of a run's options decides memory and time; names as in the configuration.

    Attributes:
        prompt_tokens: P, the image's tokens among them.
        max_new_tokens: R.
        sampling_batch_size: rows generated together.
        reward: `adapter` on the policy's trunk, a `trunk` of its own, or `none` on the card.
        starts_from_adapter: the reference is a frozen second copy of the adapter.
        triton: on a GPU: the head's chunks are Triton's, and attention joins keys of two places.
        prefix_cache: GiB of prompts that are kept; only where LoRA is on responses alone.
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
    reward: Literal["adapter", "trunk", "none"] = "adapter"
    triton: bool = True
    samples_per_prompt: int = 1
    recompute_logprobs: bool = True
    max_prefill_tokens: int = 8192
    prefix_cache_gib: float = 4.0

    @property
    def row(self) -> int:
        """S, tokens of a prompt and its response."""
        return self.prompt_tokens + self.max_new_tokens

    @property
    def uses_alora(self) -> bool:
        """Whether the adapter starts after the prompt."""
        return self.lora_type == "alora"

    @property
    def prompts(self) -> int:
        """Different prompts of an iteration."""
        return self.rollout_batch_size // self.samples_per_prompt

    @property
    def width(self) -> int:
        """Bytes of an activation: full training makes the language model float32."""
        return 4 if self.train == "full" or self.dtype == "float32" else 2

    @property
    def generated_together(self) -> int:
        return min(self.sampling_batch_size, self.rollout_batch_size)

    def distinct(self, rows: int) -> int:
        """Different prompts of so many rows, of which those of one prompt are neighbours."""
        return -(-rows // self.samples_per_prompt)

    def tokens(self, rows: int) -> int:
        """Tokens of so many rows that run through trunk and adapter, with a gradient in updates."""
        prompts = 0 if self.uses_alora else self.distinct(rows) * self.prompt_tokens
        return prompts + rows * self.max_new_tokens

    def rows(self, most: int) -> int:
        """Rows of a micro-batch of at most `most` rows; one row at the least."""
        group = self.prompt_tokens + self.samples_per_prompt * self.max_new_tokens
        fitting = self.microbatch_tokens // group * self.samples_per_prompt
        alone = (self.microbatch_tokens - self.prompt_tokens) // self.max_new_tokens
        return min(most, fitting or max(1, alone))

    def prefilled(self, rows: int) -> int:
        """Of the prompts of so many rows, those that are read at once."""
        return min(self.distinct(rows), max(1, self.max_prefill_tokens // self.prompt_tokens))
