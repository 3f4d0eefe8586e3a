"""Every option of every command: type, range, unit and default, in one schema.

The comment on an option's line is its help text: `rlhf COMMAND --help` reads it from this source.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from rlhf.config.choices import CriticHead as CriticHead
from rlhf.config.choices import CriticKind as CriticKind
from rlhf.config.choices import EngineKind as EngineKind
from rlhf.config.choices import MetricName, PairChoice, RecordKind
from rlhf.config.choices import OptimizerKind as OptimizerKind
from rlhf.config.paths import PathText
from rlhf.config.ppo_schema import PPOConfig as PPOConfig
from rlhf.config.ranges import Count, CountOrZero, Fraction, NonNegative, Positive, Range
from rlhf.config.section import Section as Section

GIB = 2**30  # bytes; the unit of options whose names end in _gib
LoraType = Literal["lora", "alora"]


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Section):
    """The model: its path, what is trained, how it is stored."""

    path: PathText = ""  # LLaVA directory, hub id, or run directory to start from
    base: PathText = ""  # base model of the adapter at path; empty: the one the adapter names
    train: Literal["lora", "full"] = "lora"  # lora: a LoRA adapter; full: the language model
    lora_rank: Count = 16  # rank of the LoRA matrices
    lora_alpha: Positive = 32  # the LoRA is scaled by alpha / rank
    lora_type: LoraType = "lora"  # alora: active after the prompt only
    quantization: Literal["none", "int8", "nf4"] = "none"  # of the frozen base model
    gradient_checkpointing: bool | Literal["auto"] = "auto"  # auto: if memory is short
    max_prefill_tokens: Count = 8192  # prompt tokens in one forward pass
    vision_cache_gib: NonNegative = 4.0  # GiB of CPU memory for cached image features
    vision_cache_dir: PathText = ""  # directory of image features for later runs; empty: none
    prefix_cache_gib: NonNegative = 4.0  # training with alora: GiB of cached prompt keys and values


@dataclass(frozen=True, kw_only=True)
class DataConfig(Section):
    """Files of records and how they are read."""

    root: PathText = ""  # image paths are relative to it; empty: the directory of the JSONL file
    demonstrations: PathText = ""  # JSONL with image_path, instruction, response
    prompts: PathText = ""  # JSONL with image_path, instruction; or a folder of images
    preferences: PathText = ""  # JSONL: image_path, instruction, response_a, response_b, preference
    validation_preferences: PathText = ""  # JSONL of held-out pairs; empty: validation_fraction
    validation_fraction: Fraction = 0.1  # share of the images that is held out
    evaluation_fraction: Fraction | None = None  # share kept for evaluate; null: folder 0.1, file 0
    recursive: bool = False  # a folder of images: also the images of the folders inside it
    on_bad_image: Literal["error", "skip"] = "error"  # skip: drop the record, print how many
    on_too_long: Literal["error", "skip"] = "error"  # skip: drop the record, print how many
    max_prompt_tokens: Count = 2048  # tokens; longer prompts are never cut, see on_too_long
    label_encoding: Literal["", "1/2", "0/1"] = ""  # import: code of numeric labels


@dataclass(frozen=True, kw_only=True)
class SamplingConfig(Section):
    """How responses are sampled."""

    temperature: NonNegative = 1.0  # divides the logits; 0: greedy (not in training)
    top_k: CountOrZero = 0  # sample from the k likeliest tokens; 0: all (in training: 0)
    top_p: Annotated[float, Range(ge=1e-9, le=1)] = 1.0  # nucleus probability (in training: 1)
    max_new_tokens: Count = 64  # most tokens of a response
    batch_size: Count = 64  # responses generated together
    cuda_graphs: bool = False  # on CUDA: replay a decode step as a graph, without Python


@dataclass(frozen=True, kw_only=True)
class SFTConfig(Section):
    """Supervised training."""

    epochs: Count = 1  # passes over the demonstrations
    batch_size: Count = 32  # demonstrations per optimizer step
    microbatch_tokens: Count = 8192  # tokens per backward pass; a shared prompt counts once
    optimizer: OptimizerKind = "adamw"  # 8bit: states take a quarter of the memory
    lr: Positive = 2e-5  # peak learning rate, linear warm-up and decay
    warmup_steps: CountOrZero = 50  # optimizer steps of linear warm-up
    weight_decay: NonNegative = 0.0  # decoupled weight decay
    max_grad_norm: Positive = 1.0  # L2 norm that the gradient is clipped to
    save_every: CountOrZero = 100  # optimizer steps between checkpoints; 0: only at the end


@dataclass(frozen=True, kw_only=True)
class RewardConfig(Section):
    """The reward model and its training."""

    kind: Literal["llava_head", "caption_text"] = "llava_head"  # input of the scalar head
    path: PathText = ""  # run of `rlhf reward`, or its reward/, for ppo and evaluate
    judge_path: PathText = ""  # ppo: another such run, whose scores are shown and train nothing
    train: Literal["none", "head", "lora", "full"] = "lora"  # head: only the head; none: nothing
    use_logprob_feature: bool = True  # llava_head: add the log-likelihood to the head's input
    text_model: PathText = ""  # caption_text: directory or hub id of the text model
    caption_instruction: str = "Describe the picture."  # caption_text: prompt for captions
    captions: PathText = ""  # caption_text: JSONL, response is the caption; empty: LLaVA generates
    epochs: Count = 1  # passes over the pairs
    batch_size: Count = 32  # pairs per optimizer step
    microbatch_tokens: Count = 8192  # tokens per backward pass; the prompt of a pair counts once
    optimizer: OptimizerKind = "adamw"  # 8bit: states take a quarter of the memory
    lr: Positive = 1e-4  # peak learning rate, linear warm-up and decay
    warmup_steps: CountOrZero = 20  # optimizer steps of linear warm-up
    weight_decay: NonNegative = 0.0  # decoupled weight decay
    max_grad_norm: Positive = 1.0  # L2 norm that the gradient is clipped to
    label_smoothing: Annotated[float, Range(ge=0, lt=0.5)] = 0.0  # assumed share of wrong labels
    save_every: CountOrZero = 100  # optimizer steps between checkpoints; 0: only at the end
    ties: Literal["half", "drop"] = "half"  # a tie counts half for each side, or is dropped
    margin: NonNegative = 0.0  # score units by which chosen should exceed rejected
    center_coef: NonNegative = 0.0  # weight of the mean squared sum of a pair's scores
    evaluate_every: CountOrZero = 0  # steps between held-out evaluations; 0: each epoch
    early_stopping_patience: CountOrZero = 0  # evaluations without improvement; 0: off
    cv_folds: CountOrZero = 0  # number of cross-validation folds; 0: no cross-validation
    learning_curve: bool = False  # train also on a third and two thirds of the pairs


@dataclass(frozen=True, kw_only=True)
class ScorerConfig(Section):
    """Calls of the external scorers that `--scorer=` and `--judge=` name."""

    timeout: Positive = 30.0  # seconds that one call may take
    retries: CountOrZero = 3  # how often a failed call is repeated
    on_failure: Literal["stop", "drop"] = "stop"  # drop: leave the response without a score


@dataclass(frozen=True, kw_only=True)
class ParallelConfig(Section):
    """One run on several processes, the same on each number of them."""

    parts: CountOrZero = 0  # of a batch, whose gradients are summed in a tree; 0: one a process
    processes: Count = 1  # on this machine; torchrun may start them instead
    shard: bool = False  # FSDP2: a process holds a shard of each layer
    patience: Positive = 600  # seconds until a process that does not answer is given up
    restarts: CountOrZero = 0  # from the newest checkpoint, after a crash; needs processes


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig(Section):
    """Comparison of models."""

    judge: Literal["", "rule-v1", "person"] = ""  # empty: the reward model of reward.path
    judgments: PathText = ""  # judge=person: preferences that people made from blind.jsonl
    best_of: CountOrZero = 0  # n of best-of-n with the first model; 0: none
    limit: CountOrZero = 0  # prompts used; 0: all
    max_report_images: CountOrZero = 200  # images shown in the report


@dataclass(frozen=True, kw_only=True)
class CollectConfig(Section):
    """Candidates to rank, and the pairs selected from them."""

    responses_per_prompt: Annotated[int, Range(ge=2)] = 4  # sampled responses per prompt
    temperatures: tuple[float, ...] = ()  # used in turn; empty: sampling.temperature
    num_beams: CountOrZero = 0  # beams of a search that adds its best response; 0: none
    pair_selection: PairChoice = "all"  # pairs that people compare; needs reward.path unless all
    limit: CountOrZero = 0  # most pairs selected; 0: no limit
    label_noise: Annotated[float, Range(ge=0, lt=0.5)] = 0.0  # share of rule-v1 labels flipped
    annotator: Literal["", "rule-v1"] = ""  # rule-v1: rank by rule, write preferences.jsonl


@dataclass(frozen=True, kw_only=True)
class AnnotateConfig(Section):
    """The ranking page."""

    annotator: str = ""  # name of who judges; empty: the page asks for it
    overlap: Count = 1  # people who judge each pair
    lease: Positive = 600.0  # seconds a shown pair is reserved for its annotator
    host: str = "127.0.0.1"  # address to listen on; other machines need another one
    port: Annotated[int, Range(ge=0, le=65535)] = 8765  # 0: any free one
    output: PathText = ""  # preference file to write from a log, instead of serving the page


@dataclass(frozen=True, kw_only=True)
class ValidateConfig(Section):
    """Checks of files of records."""

    check_images: bool = True  # decode each distinct image once
    fix_output: PathText = ""  # JSONL to write the usable rows to, with a report beside it


@dataclass(frozen=True, kw_only=True)
class ExportConfig(Section):
    """What `rlhf export` writes."""

    merge: bool = False  # merge a run's adapter into the weights it was trained on


@dataclass(frozen=True, kw_only=True)
class DemoConfig(Section):
    """The demo: what its images show, numbers of images and steps."""

    kind: Literal["shapes", "stamps"] = "shapes"  # drawn shapes, or photographs
    photographs: PathText = ""  # stamps: tuxpaint-stamps-default, as a .deb; or a folder of images
    sft_images: Count = 4000  # drawn for supervised training
    preference_images: Count = 1500  # drawn for preference pairs and PPO prompts
    evaluation_images: Count = 256  # not used in training
    tower_steps: Count = 500  # optimizer steps of the vision tower


@dataclass(frozen=True, kw_only=True)
class SmolConfig(Section):
    """The LLaVA built around SmolLM2."""

    demonstrations: Count = 1200  # shapes; with stamps a third each: shapes, scenes, captions
    lessons: Count = 3000  # images to train the vision tower and the projector on
    lesson_steps: Count = 500  # optimizer steps of the tower, and again of the projector
    preference_images: Count = 128  # drawn for preference pairs and PPO prompts
    evaluation_images: Count = 64  # not used in training


@dataclass(frozen=True, kw_only=True)
class PlanConfig(Section):
    """The estimate of memory and time."""

    device: str = ""  # such as "RTX 4090", "M2 Max 64GB" or cpu; empty: this machine, all GPUs
    prompt_tokens: Count = 64  # tokens of a prompt, without its image


@dataclass(frozen=True, kw_only=True)
class SweepConfig(Section):
    """How the runs of a sweep (`--multirun`) are compared."""

    objective: MetricName = ""  # metric in summary.json; empty: the main one of the command
    direction: Literal["auto", "maximize", "minimize"] = "auto"  # auto: minimize losses


@dataclass(frozen=True, kw_only=True)
class Config(Section):
    """All options: those without a section, then the sections."""

    seed: Annotated[int, Range(ge=0)] = 0  # seed of every random choice
    name: str = "run"  # run directories are output_dir/name/…
    output_dir: PathText = "runs"  # directory of run directories
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"  # auto: cuda, then mps, then cpu
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"  # of frozen weights; auto: by device
    resume: PathText = ""  # run directory to resume; auto: the newest unfinished run or sweep
    resume_allow: tuple[str, ...] = ()  # options that may differ from those of the resumed run
    instruction: str = "Describe the picture."  # for generate, and for each image of a folder
    kind: RecordKind = ""  # import: what the records are; empty: what the files hold
    output: PathText = ""  # file or directory to write: collect, commands without run directory
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    sampling: SamplingConfig = SamplingConfig()
    sft: SFTConfig = SFTConfig()
    reward: RewardConfig = RewardConfig()
    scorer: ScorerConfig = ScorerConfig()
    ppo: PPOConfig = PPOConfig()
    parallel: ParallelConfig = ParallelConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    collect: CollectConfig = CollectConfig()
    annotate: AnnotateConfig = AnnotateConfig()
    validate: ValidateConfig = ValidateConfig()
    export: ExportConfig = ExportConfig()
    demo: DemoConfig = DemoConfig()
    smol: SmolConfig = SmolConfig()
    plan: PlanConfig = PlanConfig()
    sweep: SweepConfig = SweepConfig()
