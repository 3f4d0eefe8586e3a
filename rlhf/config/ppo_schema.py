"""Every option of PPO: type, range, unit and default; part of `rlhf.config.schema`.

The comment on an option's line is its help text.
"""

from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from rlhf.config.choices import (
    CriticHead,
    CriticKind,
    EngineKind,
    KLEstimatorKind,
    OptimizerKind,
    ValueFeature,
)
from rlhf.config.ranges import Count, CountOrZero, Fraction, NonNegative, Positive, Range
from rlhf.config.section import Section


@dataclass(frozen=True, kw_only=True)
class PPOConfig(Section):
    """PPO: rollouts, advantages, losses, KL penalty, safeguards."""

    iterations: Count = 100  # rollouts, each followed by updates
    rollout_batch_size: Count = 64  # responses per iteration
    minibatch_size: Count = 16  # responses per optimizer step
    microbatch_tokens: Count = 8192  # tokens per backward pass; a shared prompt counts once
    samples_per_prompt: Count = 1  # responses to each prompt of an iteration
    ppo_epochs: Count = 4  # passes over each rollout
    optimizer: OptimizerKind = "adamw"  # 8bit: states take a quarter of the memory
    lr: Positive = 1e-5  # policy learning rate
    lr_schedule: Literal["constant", "linear"] = "constant"  # linear: to 0 at the last planned step
    critic: CriticKind = "shared_detached"  # model that the value head reads
    critic_init: Literal["model", "reward"] = "model"  # initial LoRA of the critic
    critic_fit: Literal["ridge", "gradient"] = "ridge"  # of the head: closed form; Adam
    critic_head: CriticHead = "linear"  # mlp: one hidden layer, with critic_fit=gradient
    critic_lr: Positive | None = None  # critic learning rate; null: 5 × ppo.lr
    critic_min_explained_variance: Fraction | None = 0.05  # pooled; below: V = 0, λ = 1; null: off
    value_features: tuple[ValueFeature, ...] = get_args(ValueFeature)  # beside the hidden state
    value_huber_delta: Positive | None = None  # larger errors count linearly; null: squared
    adam_eps: Positive = 1e-5  # term in Adam's denominator
    advantage_estimator: str = "gae"  # no critic: reinforce; rloo, grpo (samples_per_prompt ≥ 2)
    grpo_eps: Positive = 1e-4  # grpo: added to a group's standard deviation, reward units
    gamma: Fraction = 1.0  # discount per token
    gae_lambda: Fraction = 1.0  # λ of the policy's advantages
    gae_lambda_value: Fraction = 1.0  # λ of the critic's targets
    gae_lambda_alpha: Positive | None = None  # sets gae_lambda to 1 - 1/(alpha·length)
    clip_range: Annotated[float, Range(gt=0, lt=1)] = 0.2  # of the probability ratio
    clip_range_high: NonNegative | None = None  # clip of the ratio above 1; null: clip_range
    dual_clip: Annotated[float, Range(ge=1)] | None = None  # clip of the ratio if advantage < 0
    clip_range_value: Positive | None = None  # clip of the values, reward units; null: none
    vf_coef: NonNegative = 0.1  # weight of the value loss
    ent_coef: NonNegative = 0.0  # weight of the entropy bonus
    kl_coef: NonNegative = 0.05  # reward units per nat of KL to the reference
    kl_placement: Literal["reward", "loss"] = "reward"  # where the KL penalty is added
    kl_estimator: KLEstimatorKind = ""  # reward: k1; loss: k2, exact; empty: k1 or k2
    adaptive_kl_target: Positive | None = None  # nats per response; null: kl_coef is fixed
    kl_horizon: Positive = 10_000  # responses over which kl_coef adapts to the target
    target_kl: Positive | None = None  # nats per token; above it, an iteration's updates stop
    max_grad_norm: Positive = 1.0  # L2 norm that policy and critic gradients are clipped to
    missing_eos: Literal["none", "penalty", "replace", "bootstrap"] = "penalty"  # for cut responses
    missing_eos_penalty: NonNegative = 1.0  # penalty, or the score with replace; reward units
    normalize_scores: bool = False  # divide scores by their running standard deviation
    clip_scores: Positive | None = None  # with normalize_scores: largest absolute score
    whiten_advantages: bool = True  # with gae and KL in the reward: over each rollout
    whiten_minibatches: bool = False  # also over the tokens of each optimizer step
    whiten_min_std: Positive = 0.1  # least standard deviation to divide by, reward units
    critic_warmup_iterations: CountOrZero = 0  # first iterations update the critic only
    engine: EngineKind = "native"  # what generates; transformers: its generate()
    recompute_logprobs: bool = True  # old log-probabilities by the training forward pass
    sanity_checks: bool = True  # before the first step
    max_skipped_steps: Count = 10  # steps with non-finite gradients until the run stops
    save_every: CountOrZero = 10  # iterations between checkpoints; 0: only at the end
    on_warning: Literal["continue", "stop"] = "continue"  # stop: a health warning ends the run
    profile: bool | Literal["trace"] = False  # time per phase; trace: also a Chrome trace
    log_samples_every: Count = 10  # iterations between logged samples and histograms
