"""The options of `rlhf ppo` under trl's names. Needs no trl."""

from dataclasses import fields
from typing import Any, TypeVar

from baselines.train_job import TrainJob
from rlhf.config.schema import Config
from rlhf.config.validation import suggest_name
from rlhf.errors import UsageError
from rlhf.models.torch_device import find_torch_device

T = TypeVar("T")
NO_CLIP = 1e9  # a range of values that never clips, since ours has none by default


def steps_per_iteration(config: Config) -> int:
    """Return the optimizer steps of an iteration."""
    ppo = config.ppo
    return ppo.ppo_epochs * (ppo.rollout_batch_size // ppo.minibatch_size)


def shared_options(job: TrainJob) -> dict[str, Any]:
    """Return the options that all of trl's configurations share."""
    ppo, on_cpu = job.config.ppo, find_torch_device(job.config.device).type == "cpu"
    return {
        "output_dir": str(job.run_dir / "trl"),
        "seed": job.config.seed,
        "learning_rate": ppo.lr,
        "lr_scheduler_type": ppo.lr_schedule,
        "adam_epsilon": ppo.adam_eps,
        "gradient_checkpointing": job.config.model.gradient_checkpointing is True,
        "bf16": False,
        "use_cpu": on_cpu,
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "steps",
        "logging_steps": 1,
        "disable_tqdm": True,
    }


def ppo_options(job: TrainJob) -> dict[str, Any]:
    """Return the options of trl's PPO, with one optimizer step each minibatch."""
    ppo, sampling = job.config.ppo, job.config.sampling
    penalty = ppo.missing_eos_penalty if ppo.missing_eos == "penalty" else None
    return shared_options(job) | {
        "per_device_train_batch_size": ppo.rollout_batch_size,
        "gradient_accumulation_steps": 1,
        "num_mini_batches": ppo.rollout_batch_size // ppo.minibatch_size,
        "local_rollout_forward_batch_size": ppo.rollout_batch_size,
        "total_episodes": ppo.rollout_batch_size * ppo.iterations,
        "num_ppo_epochs": ppo.ppo_epochs,
        "response_length": sampling.max_new_tokens,
        "temperature": sampling.temperature,
        "stop_token": "eos",
        "missing_eos_penalty": penalty,
        "gamma": ppo.gamma,
        "lam": ppo.gae_lambda,
        "cliprange": ppo.clip_range,
        "cliprange_value": ppo.clip_range_value or NO_CLIP,
        "vf_coef": ppo.vf_coef,
        "kl_coef": ppo.kl_coef,
        "kl_estimator": "k1",
        "num_sample_generations": 0,
        "logging_strategy": "no",  # it logs each iteration by itself
    }


def group_options(job: TrainJob) -> dict[str, Any]:
    """Return the options of RLOO and GRPO, with one optimizer step each minibatch."""
    ppo, sampling = job.config.ppo, job.config.sampling
    options = shared_options(job) | {
        "per_device_train_batch_size": ppo.minibatch_size // accumulation(job.settings),
        "generation_batch_size": ppo.rollout_batch_size,
        "num_generations": ppo.samples_per_prompt,
        "num_iterations": ppo.ppo_epochs,
        "max_steps": ppo.iterations * steps_per_iteration(job.config),
        "max_completion_length": sampling.max_new_tokens,
        "temperature": sampling.temperature,
        "beta": ppo.kl_coef,
        "epsilon": ppo.clip_range,
        "max_grad_norm": ppo.max_grad_norm,
    }
    if job.trainer == "trl_grpo":
        options["epsilon_high"] = ppo.clip_range_high
    return options


def dpo_options(job: TrainJob) -> dict[str, Any]:
    """Return the options of DPO, whose pairs are read as by `rlhf reward`."""
    reward = job.config.reward
    return shared_options(job) | {
        "per_device_train_batch_size": reward.batch_size // accumulation(job.settings),
        "num_train_epochs": reward.epochs,
        "label_smoothing": reward.label_smoothing,
        "beta": job.config.ppo.kl_coef,
        "max_grad_norm": job.config.ppo.max_grad_norm,
        "max_length": None,
        "remove_unused_columns": False,
    }


def online_dpo_options(job: TrainJob) -> dict[str, Any]:
    """Return the options of online DPO, with one optimizer step each minibatch."""
    ppo, sampling = job.config.ppo, job.config.sampling
    steps = ppo.iterations * (ppo.rollout_batch_size // ppo.minibatch_size)
    return shared_options(job) | {
        "per_device_train_batch_size": ppo.minibatch_size // 2,
        "max_steps": steps,
        "max_new_tokens": sampling.max_new_tokens,
        "temperature": sampling.temperature,
        "beta": ppo.kl_coef,
        "max_grad_norm": ppo.max_grad_norm,
    }


def accumulation(settings: dict[str, Any]) -> int:
    """Return the backward passes of an optimizer step."""
    return int(settings.get("gradient_accumulation_steps", 1))


def trl_config(kind: type[T], options: dict[str, Any], settings: dict[str, Any]) -> T:
    """Return trl's configuration, of `options` and `settings`.

    Raises:
        UsageError: trl has no option of a name, refuses a value, or rlhf has an option for it.
    """
    known = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    for name, value in settings.items():
        if name not in known:
            what, where = f"{kind.__name__} has no option {name}", f"--set {name}={value}"
            raise UsageError(what, where, suggest_name(name, known))
        if name in options or name == "steps_per_generation":
            fix = "set rlhf's own, e.g. ppo.lr for learning_rate, ppo.kl_coef for beta"
            raise UsageError(
                f"{name} follows from the options of rlhf", f"--set {name}={value}", fix
            )
    try:
        return kind(**options | settings)
    except (ValueError, TypeError) as error:
        what, where = f"{kind.__name__} refuses its options", str(error).split("\n")[0]
        raise UsageError(what, where, "change the options that it names") from error
