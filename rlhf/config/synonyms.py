"""Names that other libraries have for options, so that an unknown name gets the right advice."""

from difflib import get_close_matches

from rlhf.config.option_types import defaults, leaves
from rlhf.config.validation import suggest_name

# Names of trl, transformers, stable-baselines3, OpenRLHF and verl: the options here.
SYNONYMS = {
    "learning_rate": "lr",
    "actor_learning_rate": "ppo.lr",
    "critic_learning_rate": "ppo.critic_lr",
    "value_learning_rate": "ppo.critic_lr",
    "lr_scheduler_type": "ppo.lr_schedule",
    "num_train_epochs": "epochs",
    "max_epochs": "epochs",
    "num_ppo_epochs": "ppo.ppo_epochs",
    "n_epochs": "ppo.ppo_epochs",
    "num_iterations": "ppo.iterations",
    "total_episodes": "ppo.iterations",
    "total_timesteps": "ppo.iterations",
    "max_steps": "ppo.iterations",
    "n_steps": "ppo.rollout_batch_size",
    "train_batch_size": "ppo.rollout_batch_size",
    "per_device_train_batch_size": "batch_size",
    "mini_batch_size": "ppo.minibatch_size",
    "num_mini_batches": "ppo.minibatch_size",
    "micro_batch_size": "ppo.microbatch_tokens",
    "init_kl_coef": "ppo.kl_coef",
    "beta": "ppo.kl_coef",
    "kl_penalty": "ppo.kl_placement",
    "target": "ppo.adaptive_kl_target",
    "cliprange": "ppo.clip_range",
    "clip_eps": "ppo.clip_range",
    "epsilon": "ppo.clip_range",
    "epsilon_high": "ppo.clip_range_high",
    "cliprange_value": "ppo.clip_range_value",
    "value_clip": "ppo.clip_range_value",
    "vf_coeff": "ppo.vf_coef",
    "entropy_coef": "ppo.ent_coef",
    "lam": "ppo.gae_lambda",
    "lambd": "ppo.gae_lambda",
    "lambda": "ppo.gae_lambda",
    "whiten_rewards": "ppo.whiten_advantages",
    "num_generations": "ppo.samples_per_prompt",
    "rloo_k": "ppo.samples_per_prompt",
    "n_samples_per_prompt": "ppo.samples_per_prompt",
    "missing_eos_penalty": "ppo.missing_eos_penalty",
    "max_completion_length": "sampling.max_new_tokens",
    "response_length": "sampling.max_new_tokens",
    "max_length": "sampling.max_new_tokens",
    "max_tokens": "sampling.max_new_tokens",
    "max_prompt_length": "data.max_prompt_tokens",
    "model_name_or_path": "model.path",
    "model_name": "model.path",
    "model": "model.path",
    "pretrain": "model.path",
    "reward_model_path": "reward.path",
    "reward_pretrain": "reward.path",
    "dataset": "data.prompts",
    "dataset_name": "data.prompts",
    "image_folder": "data.root",
    "media_dir": "data.root",
    "lora_r": "model.lora_rank",
    "r": "model.lora_rank",
    "load_in_4bit": "model.quantization",
    "load_in_8bit": "model.quantization",
    "optim": "optimizer",
    "bf16": "dtype",
    "torch_dtype": "dtype",
    "run_name": "name",
    "experiment_name": "name",
    "logging_dir": "output_dir",
    "save_steps": "save_every",
    "resume_from_checkpoint": "resume",
}


def suggest_option(name: str, command: str = "") -> str:
    """Return advice for an unknown option: the one that is meant, or where the help is.

    Args:
        name: the name that is unknown, with or without a section.
        command: prefers the option in the section of this name.
    """
    known = [option for option, _ in leaves(defaults())]
    section, _, last = name.rpartition(".")
    meant = SYNONYMS.get(last, last)
    candidates = [option for option in known if option in (meant, f"{section}.{meant}")]
    same_last = [option for option in known if option.rpartition(".")[2] == meant]
    own = [option for option in same_last if option.startswith(f"{command}.")]
    if found := candidates or own or same_last:
        return "did you mean " + " or ".join(found[:3]) + "?"
    names = {option.rpartition(".")[2]: option for option in reversed(known)} | SYNONYMS
    if similar := get_close_matches(last, names, n=1, cutoff=0.8):
        return suggest_option(names[similar[0]], command) if last != similar[0] else ""
    return suggest_name(name, known)
