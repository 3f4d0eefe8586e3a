"""How the options of a run train its critic."""

from torch import nn

from rlhf.config.schema import PPOConfig
from rlhf.functional import ADVANTAGE_ESTIMATORS
from rlhf.models.policy import Policy


def has_critic(config: PPOConfig) -> bool:
    """Whether the advantages need a critic."""
    return ADVANTAGE_ESTIMATORS[config.advantage_estimator].needs_critic


def fits_head(config: PPOConfig) -> bool:
    """Whether the critic's head is fitted in closed form."""
    return has_critic(config) and config.critic_fit == "ridge"


def has_value_loss(config: PPOConfig) -> bool:
    """Whether the gradient of a value loss trains something: the head, or what is below it."""
    return has_critic(config) and not (fits_head(config) and config.critic == "shared_detached")


def critic_parameters(policy: Policy, config: PPOConfig) -> dict[str, nn.Parameter]:
    """Return the critic's parameters that the value loss trains, by name.

    Args:
        policy: with its critic.
        config: the PPO options.
    """
    named = policy.critic_parameters()
    if config.critic_fit == "gradient":
        return named
    return {name: value for name, value in named.items() if not name.startswith("head.")}
