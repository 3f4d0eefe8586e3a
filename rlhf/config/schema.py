"""Every option of every command: type, range, unit and default, in one schema.

A YAML file or an override may only name these options; `rlhf.config.validation` checks that. The
comment on an option's line is its help text: `rlhf COMMAND --help` reads it from this source.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

from rlhf.config.ranges import Count, CountOrZero, Fraction, NonNegative, Positive, Range

GIB = 2**30  # bytes; the unit of options whose name ends in _gib
# Bounds of ppo.kl_coef while ppo.adaptive_kl_target moves it.
KL_COEF_LOWEST, KL_COEF_HIGHEST = 1e-4, 10.0

OptimizerKind = Literal["adamw", "adamw_8bit", "paged_adamw_8bit"]
LoraType = Literal["lora", "alora"]
PairChoice = Literal["all", "best_vs_worst", "closest", "uncertain"]
EngineKind = Literal["native", "transformers"]
# k3, abs and clamp are read only to be refused with the reason, by rlhf.functional.kl.
KLEstimatorKind = Literal["", "k1", "k2", "exact", "k3", "abs", "clamp"]
CriticKind = Literal["shared_detached", "shared", "adapter", "separate"]


class Section:
    """A group of options; each subclass is one section of the configuration."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Section):
    """The model: where it is, what trains, how it is stored."""

    path: str = ""  # LLaVA directory, hub id, or run directory to start from
    train: Literal["lora", "full"] = "lora"  # what an update changes
    lora_rank: Count = 16  # columns of each LoRA factor
    lora_alpha: Positive = 32  # LoRA scale is alpha / rank
    lora_type: LoraType = "lora"  # alora: prompt and image run without LoRA
    quantization: Literal["none", "int8", "nf4"] = "none"  # storage of the frozen base model
    gradient_checkpointing: bool | Literal["auto"] = "auto"  # auto: if the GPU is small
    max_prefill_tokens: Count = 8192  # tokens of prompts read at once
    vision_cache_gib: NonNegative = 4.0  # GiB of main memory for the vision tower's features
    vision_cache_dir: str = ""  # directory that keeps features for later runs; empty: none
    prefix_cache_gib: NonNegative = 4.0  # lora_type=alora: GiB of prompts kept for all passes


@dataclass(frozen=True, kw_only=True)
class DataConfig(Section):
    """Files of records and how they are read."""

    root: str = ""  # directory image paths are relative to; empty: the directory of the JSONL file
    demonstrations: str = ""  # JSONL with image_path, instruction, response
    prompts: str = ""  # JSONL with image_path, instruction; or a directory of images
    preferences: str = ""  # JSONL with image_path, instruction, response_a, response_b, preference
    validation_preferences: str = ""  # held-out pairs; empty: a share of the images
    validation_fraction: Fraction = 0.1  # share of images held out when no file is given
    on_bad_image: Literal["error", "skip"] = "error"  # skip counts and reports what it drops
    max_prompt_tokens: Count = 2048  # longer prompts are refused, never cut
    label_encoding: Literal["", "1/2", "0/1"] = ""  # import: what numbers as labels mean


@dataclass(frozen=True, kw_only=True)
class SamplingConfig(Section):
    """How responses are sampled."""

    temperature: NonNegative = 1.0  # divides the logits; 0 is greedy (not in training)
    top_k: CountOrZero = 0  # keep the k likeliest tokens; 0 keeps all (0 in training)
    top_p: Annotated[float, Range(gt=0, le=1)] = 1.0  # nucleus mass (1 in training)
    max_new_tokens: Count = 64  # longest response, tokens
    batch_size: Count = 64  # prompts generated together


@dataclass(frozen=True, kw_only=True)
class SFTConfig(Section):
    """Supervised training."""

    epochs: Count = 1  # passes over the demonstrations
    batch_size: Count = 32  # demonstrations per optimizer step
    optimizer: OptimizerKind = "adamw"  # 8 bits: a quarter of the memory
    lr: Positive = 2e-5  # peak learning rate, linear warm-up and decay
    warmup_steps: CountOrZero = 50  # optimizer steps of linear warm-up
    weight_decay: NonNegative = 0.0  # decoupled, per step
    max_grad_norm: Positive = 1.0  # L2 norm the gradient is clipped to
    save_every: CountOrZero = 100  # optimizer steps between checkpoints; 0: only at the end


@dataclass(frozen=True, kw_only=True)
class RewardConfig(Section):
    """The reward model and its training."""

    kind: Literal["llava_head", "caption_text"] = "llava_head"  # what the scalar head reads
    path: str = ""  # trained reward model or its run directory, for ppo and evaluate
    train: Literal["none", "head", "lora", "full"] = "lora"  # besides the head; none: nothing
    use_logprob_feature: bool = True  # llava_head: also feed the head the log-likelihood
    text_model: str = ""  # caption_text: directory or hub id of the text model
    caption_instruction: str = "Describe the picture."  # caption_text: asked of the captioner
    captions: str = ""  # caption_text: JSONL whose response is the caption; empty: LLaVA describes
    epochs: Count = 1  # passes over the pairs
    batch_size: Count = 32  # pairs per optimizer step
    optimizer: OptimizerKind = "adamw"  # 8 bits: a quarter of the memory
    lr: Positive = 1e-4  # peak learning rate, linear warm-up and decay
    warmup_steps: CountOrZero = 20  # optimizer steps of linear warm-up
    weight_decay: NonNegative = 0.0  # decoupled, per step
    max_grad_norm: Positive = 1.0  # L2 norm the gradient is clipped to
    label_smoothing: Annotated[float, Range(ge=0, lt=0.5)] = 0.0  # believed share of wrong labels
    save_every: CountOrZero = 100  # optimizer steps between checkpoints; 0: only at the end
    ties: Literal["half", "drop"] = "half"  # a tie counts half for each side, or is left out
    margin: NonNegative = 0.0  # score units by which chosen should lead
    center_coef: NonNegative = 0.0  # weight of the mean of (sum of a pair's scores)², which centres
    evaluate_every: CountOrZero = 0  # steps between held-out evaluations; 0: each epoch
    early_stopping_patience: CountOrZero = 0  # evaluations without a gain before stopping; 0: never
    cv_folds: CountOrZero = 0  # 2 or more: train that many times, each image held out once


@dataclass(frozen=True, kw_only=True)
class ScorerConfig(Section):
    """Calls of an external scorer, named by `--scorer=`."""

    timeout: Positive = 30.0  # seconds one call of an external scorer may take
    retries: CountOrZero = 3  # calls repeated after a failure
    on_failure: Literal["stop", "drop"] = "stop"  # drop counts the responses without a score


@dataclass(frozen=True, kw_only=True)
class PPOConfig(Section):
    """PPO: rollouts, advantages, losses, KL penalty, safeguards."""

    iterations: Count = 100  # rollouts, each followed by its updates
    rollout_batch_size: Count = 64  # responses per iteration
    minibatch_size: Count = 16  # responses per optimizer step
    microbatch_tokens: Count = 8192  # tokens per backward pass; a shared prompt counts once
    samples_per_prompt: Count = 1  # responses to each prompt of an iteration
    ppo_epochs: Count = 4  # passes over each rollout
    optimizer: OptimizerKind = "adamw"  # 8 bits: a quarter of the memory
    lr: Positive = 1e-5  # policy learning rate
    lr_schedule: Literal["constant", "linear"] = "constant"  # linear falls to 0 at the last step
    critic: CriticKind = "shared_detached"  # what values are read from and train
    critic_init: Literal["model", "reward"] = "model"  # what the LoRA of a critic starts from
    critic_lr: Positive | None = None  # critic learning rate; null: 5 × ppo.lr
    adam_eps: Positive = 1e-5  # term in Adam's denominator
    advantage_estimator: str = "gae"  # gae with a critic; rloo, grpo without: samples_per_prompt
    grpo_eps: Positive = 1e-4  # grpo: added to a group's standard deviation, reward units
    gamma: Fraction = 1.0  # discount per token
    gae_lambda: Fraction = 0.95  # of the policy's advantages
    gae_lambda_value: Fraction = 1.0  # of the critic's targets
    gae_lambda_alpha: Positive | None = None  # policy's λ is 1 - 1/(alpha·length), at least 0
    clip_range: Annotated[float, Range(gt=0, lt=1)] = 0.2  # of the probability ratio
    clip_range_high: NonNegative | None = None  # upper clip of the ratio; null: clip_range
    dual_clip: Annotated[float, Range(ge=1)] | None = None  # loss at most this times |advantage|
    clip_range_value: Positive | None = None  # reward units; null: values are not clipped
    vf_coef: NonNegative = 0.1  # weight of the value loss
    ent_coef: NonNegative = 0.0  # weight of the entropy bonus
    kl_coef: NonNegative = 0.05  # reward units per nat of KL to the reference
    kl_placement: Literal["reward", "loss"] = "reward"  # where the KL penalty stands
    kl_estimator: KLEstimatorKind = ""  # reward: k1; loss: k2 or exact; empty: k1 or k2
    adaptive_kl_target: Positive | None = None  # nats a response kl_coef aims at; null: it is fixed
    kl_horizon: Positive = 10_000  # responses over which kl_coef moves by the error
    target_kl: Positive | None = None  # nats per token; stops an iteration's updates above it
    max_grad_norm: Positive = 1.0  # L2 norm the gradient is clipped to, per parameter group
    missing_eos: Literal["none", "penalty", "replace", "bootstrap"] = "penalty"  # if cut short
    missing_eos_penalty: NonNegative = 1.0  # reward units
    normalize_scores: bool = False  # divide scores by their running standard deviation
    clip_scores: Positive | None = None  # with normalize_scores: largest magnitude of a score
    whiten_advantages: bool = True  # KL in the reward, no groups: over the tokens of a rollout
    whiten_minibatches: bool = False  # over the tokens of each optimizer step as well
    whiten_min_std: Positive = 0.1  # least standard deviation to divide by, reward units
    critic_warmup_iterations: CountOrZero = 5  # first iterations that move the critic only
    engine: EngineKind = "native"  # what samples; transformers: its generate
    recompute_logprobs: bool = True  # old log-probabilities by the training forward, not generation
    sanity_checks: bool = True  # check the set-up before the first step
    max_skipped_steps: Count = 10  # steps with non-finite gradients before the run stops
    save_every: CountOrZero = 10  # iterations between checkpoints; 0: only at the end
    on_warning: Literal["continue", "stop"] = "continue"  # stop: a health warning ends the run
    profile: bool | Literal["trace"] = False  # where time goes; trace: a Chrome trace as well
    log_samples_every: Count = 10  # iterations between logged samples and histograms


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig(Section):
    """Comparison of models."""

    judge: Literal["", "rule-v1", "person"] = ""  # empty: the reward model of reward.path
    judgments: str = ""  # judge=person: the preference file that came of blind.jsonl
    best_of: CountOrZero = 0  # also the best of so many samples of the first model; 0: no
    limit: CountOrZero = 0  # prompts used; 0: all
    max_report_images: CountOrZero = 200  # images shown in the report


@dataclass(frozen=True, kw_only=True)
class CollectConfig(Section):
    """Candidates to rank, and the pairs chosen from them."""

    responses_per_prompt: Annotated[int, Range(ge=2)] = 4  # candidates asked for per prompt
    temperatures: tuple[float, ...] = ()  # one after the other; empty: sampling.temperature
    num_beams: CountOrZero = 0  # width of a beam search that adds its best response; 0: none
    pair_selection: PairChoice = "all"  # pairs people see; all but "all" need reward.path
    limit: CountOrZero = 0  # pairs chosen at most; 0: no limit
    label_noise: Annotated[float, Range(ge=0, lt=0.5)] = 0.0  # share of rule-v1 labels flipped
    annotator: Literal["", "rule-v1"] = ""  # rule-v1 also writes preferences.jsonl


@dataclass(frozen=True, kw_only=True)
class AnnotateConfig(Section):
    """The ranking page."""

    annotator: str = ""  # who judges when the page names nobody; empty: the login name
    overlap: Count = 1  # people who judge each pair
    lease: Positive = 600.0  # seconds a pair waits for the one who was shown it
    host: str = "127.0.0.1"  # address to listen at; another lets other machines in
    port: Annotated[int, Range(ge=0, le=65535)] = 8765  # 0: any free one
    output: str = ""  # preference file to write from a log, instead of serving the page


@dataclass(frozen=True, kw_only=True)
class ValidateConfig(Section):
    """Checks of files of records."""

    check_images: bool = True  # decode each distinct image once
    fix_output: str = ""  # JSONL to write the usable rows to, with a report beside it


@dataclass(frozen=True, kw_only=True)
class ExportConfig(Section):
    """What `rlhf export` writes."""

    merge: bool = False  # add a run's adapter to the weights it was trained on


@dataclass(frozen=True, kw_only=True)
class DemoConfig(Section):
    """The embedded demo: images drawn and steps trained."""

    sft_images: Count = 4000  # drawn for supervised training
    preference_images: Count = 1500  # drawn for preference pairs and PPO prompts
    evaluation_images: Count = 256  # never seen in training
    tower_steps: Count = 500  # optimizer steps that teach the vision tower


@dataclass(frozen=True, kw_only=True)
class SmolConfig(Section):
    """The LLaVA built around SmolLM2."""

    demonstrations: Count = 1200  # of shapes; with stamps a third each: shapes, scenes, captions
    lessons: Count = 3000  # images that teach the vision tower and the projector
    lesson_steps: Count = 500  # optimizer steps of the tower, and again of the projector
    preference_images: Count = 128  # drawn for preference pairs and PPO prompts
    evaluation_images: Count = 64  # never seen in training


@dataclass(frozen=True, kw_only=True)
class PlanConfig(Section):
    """The forecast of memory and time."""

    gpu: str = ""  # such as "RTX 4090"; empty: this machine's, or all that are known
    prompt_tokens: Count = 64  # of a prompt, beside those of its image


@dataclass(frozen=True, kw_only=True)
class Config(Section):
    """Every option: those of all commands, and the sections."""

    seed: Annotated[int, Range(ge=0)] = 0  # of every random choice
    name: str = "run"  # of the run's parent directory
    output_dir: str = "runs"  # where run directories are made
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"  # auto: cuda, then mps, then cpu
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"  # of frozen weights; auto: by device
    resume: str = ""  # sft, reward, ppo: run directory to continue; auto: the newest unfinished one
    resume_allow: tuple[str, ...] = ()  # options that may differ from those the run began with
    instruction: str = "Describe the picture."  # of generate, and of each image of a directory
    output: str = ""  # collect and commands without a run directory: file or directory to write
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    sampling: SamplingConfig = SamplingConfig()
    sft: SFTConfig = SFTConfig()
    reward: RewardConfig = RewardConfig()
    scorer: ScorerConfig = ScorerConfig()
    ppo: PPOConfig = PPOConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    collect: CollectConfig = CollectConfig()
    annotate: AnnotateConfig = AnnotateConfig()
    validate: ValidateConfig = ValidateConfig()
    export: ExportConfig = ExportConfig()
    demo: DemoConfig = DemoConfig()
    smol: SmolConfig = SmolConfig()
    plan: PlanConfig = PlanConfig()


def defaults() -> dict[str, Any]:
    """Every option with its default, as a nested mapping."""
    return asdict(Config())


def leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted name and value of each leaf of a nested mapping.

    Args:
        values: the mapping.
        prefix: what every name begins with.
    """
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
