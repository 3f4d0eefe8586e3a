"""Check options: unknown names, wrong types, values out of range, options that conflict."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from difflib import get_close_matches
from math import isfinite
from typing import Any, get_args, get_type_hints

import msgspec

from rlhf.config.option_types import defaults, describe_type, leaves, option_types
from rlhf.config.ranges import KL_COEF_HIGHEST, KL_COEF_LOWEST, Range
from rlhf.config.schema import Config, PPOConfig, SamplingConfig, Section
from rlhf.errors import UsageError

LARGEST_INTEGER = 2**32 - 1  # the largest seed of NumPy; what is computed from it fits 64 bits
_HELP = "see `rlhf COMMAND --help`"


def load_config(values: Mapping[str, Any]) -> Config:
    """Convert a nested mapping of options to a checked Config.

    Args:
        values: options by section, as Hydra composes them.

    Raises:
        UsageError: an unknown key (with the nearest known one), a wrong type, a value out of
            range, or options that conflict.
    """
    known = [name for name, _ in leaves(defaults())]
    for key, value in leaves(values):
        if key not in known:
            raise UsageError(f"unknown option {key}", f"{key}=…", suggest_name(key, known))
        if isinstance(value, float) and not isfinite(value):
            raise UsageError("this number is not finite", f"{key}={value}", "give a finite one")
        if isinstance(value, int) and abs(value) > LARGEST_INTEGER:
            fix = f"give one of at most {LARGEST_INTEGER:,}"
            raise UsageError("this number is too large", f"{key}={value}", fix)
    try:
        config = msgspec.convert(values, Config)
    except msgspec.ValidationError as error:
        message, _, place = str(error).partition(" - at ")
        name = place.strip("`$.")
        raise UsageError(message, name, _takes(name)) from None
    _check_ranges(config)
    _check_conflicts(config)
    return config


def check_config(config: Config) -> Config:
    """Check options that were set in Python as those of a command line, and return them.

    Raises:
        UsageError: a wrong type, a value out of range, or options that conflict.
    """
    return load_config(asdict(config))


def check_training_sampling(sampling: SamplingConfig) -> None:
    """Refuse sampling options that change the distribution whose log-probabilities PPO uses.

    Raises:
        UsageError: temperature 0, top_k or top_p set.
    """
    if sampling.temperature == 0 or sampling.top_k or sampling.top_p < 1:
        raise UsageError(
            "training needs pure sampling: temperature > 0, top_k=0, top_p=1",
            f"sampling.temperature={sampling.temperature} top_k={sampling.top_k} "
            f"top_p={sampling.top_p}",
            "greedy, top-k and nucleus sampling change probabilities that PPO's ratio "
            "assumes unchanged; keep them for evaluate and generate",
        )


def _check_ranges(values: Section, place: str = "") -> None:
    for name, hint in get_type_hints(type(values), include_extras=True).items():
        value, where = getattr(values, name), f"{place}{name}"
        if isinstance(value, Section):
            _check_ranges(value, f"{where}.")
        elif value is not None and any(value not in allowed for allowed in _ranges(hint)):
            expected = " and ".join(map(str, _ranges(hint)))
            fix = _takes(where)
            raise UsageError(f"this number must be {expected}", f"{where}={value}", fix)


def _takes(name: str) -> str:
    """Return advice on the values of an option."""
    hint = dict(option_types()).get(name.partition("[")[0])
    return _HELP if hint is None else f"{name} takes {describe_type(hint)}"


def _ranges(hint: Any) -> list[Range]:
    """List the ranges that a type, or an argument of it, is annotated with."""
    ranges = [note for note in getattr(hint, "__metadata__", ()) if isinstance(note, Range)]
    return ranges + [inner for part in get_args(hint) for inner in _ranges(part)]


def suggest_name(name: str, known: Iterable[str]) -> str:
    """Return advice for a misspelt word: the closest known one, or where the help is.

    Args:
        name: the word that is unknown.
        known: the words that exist.
    """
    matches = get_close_matches(name, [*known], n=1)
    return f"did you mean {matches[0]}?" if matches else _HELP


def _check_conflicts(config: Config) -> None:
    ppo = config.ppo
    if ppo.rollout_batch_size % ppo.minibatch_size:
        raise UsageError(
            f"ppo.rollout_batch_size={ppo.rollout_batch_size} is not a multiple of "
            f"ppo.minibatch_size={ppo.minibatch_size}",
            "ppo.minibatch_size",
            "choose a minibatch size that divides the rollout, so that every step weighs the same",
        )
    if ppo.rollout_batch_size % ppo.samples_per_prompt:
        raise UsageError(
            f"ppo.rollout_batch_size={ppo.rollout_batch_size} is not a multiple of "
            f"ppo.samples_per_prompt={ppo.samples_per_prompt}",
            "ppo.samples_per_prompt",
            "choose a number of samples that divides the rollout",
        )
    _check_cuda_graphs(config)
    _check_folds(config)
    _check_critic(ppo)
    if (
        ppo.advantage_estimator != PPOConfig.advantage_estimator
    ):  # the default works with all options
        _check_advantage_estimator(ppo)
    if ppo.adaptive_kl_target is not None and not KL_COEF_LOWEST <= ppo.kl_coef <= KL_COEF_HIGHEST:
        raise UsageError(
            f"an adaptive KL coefficient begins between {KL_COEF_LOWEST} and {KL_COEF_HIGHEST}",
            f"ppo.adaptive_kl_target={ppo.adaptive_kl_target} ppo.kl_coef={ppo.kl_coef}",
            "change ppo.kl_coef, or leave ppo.adaptive_kl_target empty",
        )
    if ppo.clip_scores is not None and not ppo.normalize_scores:
        raise UsageError(
            "only normalized scores are clipped",
            f"ppo.clip_scores={ppo.clip_scores} ppo.normalize_scores=false",
            "set ppo.normalize_scores=true, or leave ppo.clip_scores empty",
        )
    if ppo.whiten_minibatches and ppo.kl_placement == "loss":
        raise UsageError(
            "whitened advantages with the KL in the loss change the unit of ppo.kl_coef",
            "ppo.whiten_minibatches=true ppo.kl_placement=loss",
            "set ppo.whiten_minibatches=false",
        )


def _check_cuda_graphs(config: Config) -> None:
    """Refuse CUDA graphs where something else decodes, or where layers are gathered to decode."""
    if not config.sampling.cuda_graphs:
        return
    if config.ppo.engine != "native":
        raise UsageError(
            "only the native engine decodes by CUDA graphs",
            f"sampling.cuda_graphs=true ppo.engine={config.ppo.engine}",
            "set ppo.engine=native, or leave sampling.cuda_graphs out",
        )
    if config.parallel.shard:
        raise UsageError(
            "sharded layers cannot be captured as a CUDA graph",
            "sampling.cuda_graphs=true parallel.shard=true",
            "leave one of them out",
        )


def _check_critic(ppo: PPOConfig) -> None:
    """Refuse options of a gradient where the critic's head is fitted in closed form."""
    if ppo.critic_fit == "gradient":
        return
    fix = "set ppo.critic_fit=gradient, or leave it out"
    if ppo.critic_head != "linear":
        where = f"ppo.critic_head={ppo.critic_head}"
        raise UsageError("only a linear head is fitted in closed form", where, fix)
    if ppo.clip_range_value is not None:
        what = "the values of a fitted head do not move in small steps that could be clipped"
        raise UsageError(what, f"ppo.clip_range_value={ppo.clip_range_value}", fix)
    values = {name: getattr(ppo, name) for name in ("critic_lr", "value_huber_delta")}
    given = [f"ppo.{name}={value}" for name, value in values.items() if value is not None]
    if given and ppo.critic == "shared_detached":
        what = "no gradient trains the critic, whose head is fitted in closed form"
        raise UsageError(what, " ".join(given), fix)


def _check_folds(config: Config) -> None:
    folds, held_out = config.reward.cv_folds, config.data.validation_preferences
    if folds == 1:
        fix = "set reward.cv_folds to 2 or more, or to 0 for one training"
        raise UsageError("one fold leaves nothing to train on", "reward.cv_folds=1", fix)
    if folds and held_out:
        raise UsageError(
            "folds hold out parts of the preferences, not another file",
            f"reward.cv_folds={folds} data.validation_preferences={held_out}",
            "leave one of them empty",
        )
    if config.reward.learning_curve and config.reward.train == "none":
        where = "reward.learning_curve=true reward.train=none"
        raise UsageError("nothing is trained, so nothing is learnt", where, "leave one of them out")


def _check_advantage_estimator(ppo: PPOConfig) -> None:
    """Refuse an unknown estimator, and options that the estimator chosen cannot use."""
    from rlhf.functional import ADVANTAGE_ESTIMATORS  # imports torch, which is slow

    name = f"ppo.advantage_estimator={ppo.advantage_estimator}"
    estimator = ADVANTAGE_ESTIMATORS.get(ppo.advantage_estimator)
    if estimator is None:
        known = f"choose one of {', '.join(ADVANTAGE_ESTIMATORS)}"
        raise UsageError("there is no such advantage estimator", name, known)
    if estimator.needs_groups and ppo.samples_per_prompt == 1:
        raise UsageError(
            f"{name} compares responses to one prompt",
            "ppo.samples_per_prompt=1",
            "set ppo.samples_per_prompt to 2 or more",
        )
    if not estimator.needs_critic:
        _check_without_critic(ppo, name)


def _check_without_critic(ppo: PPOConfig, name: str) -> None:
    if ppo.gae_lambda_alpha is not None:
        raise UsageError(
            f"{name} has no λ",
            f"ppo.gae_lambda_alpha={ppo.gae_lambda_alpha}",
            "leave ppo.gae_lambda_alpha empty, or set ppo.advantage_estimator=gae",
        )
    if ppo.missing_eos == "bootstrap":
        raise UsageError(
            f"{name} has no critic to bootstrap from",
            "ppo.missing_eos=bootstrap",
            "set ppo.missing_eos=penalty, or ppo.advantage_estimator=gae",
        )
