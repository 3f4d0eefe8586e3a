"""Check the options of a PPO run before anything loads or trains."""

from collections.abc import Sequence

from rlhf.config.resolve import kl_choice
from rlhf.config.schema import Config, PPOConfig, SamplingConfig
from rlhf.config.validation import check_config, check_training_sampling
from rlhf.data.collate import prompt_batch
from rlhf.data.record_set import Prompts
from rlhf.errors import UsageError
from rlhf.functional import check_kl_choice
from rlhf.generation.decode_graph import check_cuda_graphs
from rlhf.models.llava import Llava
from rlhf.models.policy import Policy
from rlhf.rewards.base import Scorer
from rlhf.rewards.combined import reward_parts
from rlhf.rewards.llava_reward import LlavaReward
from rlhf.rewards.text_limits import fitting_texts
from rlhf.tracking.console import say
from rlhf.types import PromptBatch


def check_training_options(config: PPOConfig, sampling: SamplingConfig) -> None:
    """Refuse options whose training would not lead to the optimum.

    Args:
        config: the PPO options.
        sampling: the distribution to sample from.

    Raises:
        UsageError: the sampling is not pure, or the gradient of the KL penalty is not that of the
            KL to the reference.
    """
    check_training_sampling(sampling)
    placement, kind = kl_choice(config)
    try:
        check_kl_choice(placement, kind)
    except ValueError as error:
        raise UsageError(
            f"this KL penalty does not lead to the optimum: {error}",
            f"ppo.kl_placement={placement} ppo.kl_estimator={kind}",
            "leave ppo.kl_estimator empty for the valid one",
        ) from None
    if config.advantage_estimator == "grpo" and placement == "loss":
        say(
            "grpo divides scores by their standard deviation, but not the KL: "
            "ppo.kl_coef is not in reward units here"
        )


def run_config_of(config: PPOConfig, sampling: SamplingConfig, seed: int) -> Config:
    """Return the checked options of a run that is set up in Python.

    Args:
        config: the PPO options.
        sampling: the distribution to sample from.
        seed: of every random choice.

    Raises:
        UsageError: a value is of another type or out of range, options conflict, or they would not
            lead to the optimum.
    """
    run_config = check_config(Config(ppo=config, sampling=sampling, seed=seed))
    if config.profile:
        fix = "leave it out, or run `rlhf ppo`"
        raise UsageError("only the command profiles a run", f"ppo.profile={config.profile}", fix)
    check_training_options(run_config.ppo, run_config.sampling)
    return run_config


def check_policy(policy: Policy, config: PPOConfig, sampling: SamplingConfig) -> None:
    """Refuse a policy that was built for other options.

    Args:
        policy: with its critic.
        config: its `critic` and `critic_head` must be those of the policy's critic.
        sampling: its `temperature` must be the policy's.

    Raises:
        UsageError: they differ, or the policy cannot decode by the CUDA graphs that are asked for.
    """
    check_cuda_graphs(sampling, policy.llava)
    fix = "give Policy.from_model and PPOTrainer the same PPOConfig"
    if policy.critic.kind != config.critic:
        what = f"the policy has a critic of kind {policy.critic.kind}, the options say another"
        raise UsageError(what, f"ppo.critic={config.critic}", fix)
    if policy.critic.head.kind != config.critic_head:
        what = f"the policy's critic has a {policy.critic.head.kind} head, the options say another"
        raise UsageError(what, f"ppo.critic_head={config.critic_head}", fix)
    if policy.temperature != sampling.temperature:
        what = f"the policy is built for temperature {policy.temperature:g}, not this one"
        fix = "give Policy.from_model the temperature of the sampling"
        raise UsageError(what, f"sampling.temperature={sampling.temperature:g}", fix)


def encoded_prompts(
    prompts: Prompts | PromptBatch,
    llava: Llava,
    scorers: Sequence[Scorer],
    sampling: SamplingConfig,
) -> PromptBatch:
    """Encode the prompts of a run; refuse or leave out those that a model cannot read.

    Args:
        prompts: records, or prompts that are encoded already.
        llava: the policy's model, which encodes them.
        scorers: a LLaVA of their own, and a text model, must be able to read them too.
        sampling: its `max_new_tokens` must fit behind each prompt.

    Raises:
        DataError: a prompt is too long, or an image cannot be read.
    """
    if isinstance(prompts, PromptBatch):
        return prompts
    parts = [part for part in reward_parts(*scorers) if isinstance(part, LlavaReward)]
    models = [llava, *(part.llava for part in parts if part.llava is not llava)]
    records = prompts.fitting(*models, max_new_tokens=sampling.max_new_tokens)
    for scorer in scorers:
        records = fitting_texts(
            scorer,
            llava.builder,
            records,
            prompts.root,
            max_new_tokens=sampling.max_new_tokens,
            skip=prompts.on_too_long == "skip",
        )
    limit = prompts.max_prompt_tokens
    return prompt_batch(records, llava.builder, prompts.root, max_tokens=limit)
