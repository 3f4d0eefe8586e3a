"""The controller of an adaptive weight of the KL penalty."""

from rlhf.config.ranges import KL_COEF_HIGHEST, KL_COEF_LOWEST
from rlhf.config.schema import PPOConfig
from rlhf.functional import AdaptiveKLController


def kl_controller(config: PPOConfig) -> AdaptiveKLController | None:
    """Build the controller of `kl_coef`; None without an `adaptive_kl_target`."""
    if config.adaptive_kl_target is None:
        return None
    return AdaptiveKLController(
        config.kl_coef,
        target=config.adaptive_kl_target,
        horizon=config.kl_horizon,
        lowest=KL_COEF_LOWEST,
        highest=KL_COEF_HIGHEST,
    )
