"""Resolve options that may be left open (empty or "auto") to the values they stand for."""

from rlhf.config.schema import Config, PPOConfig


def kl_choice(ppo: PPOConfig) -> tuple[str, str]:
    """Return placement and estimator of the KL penalty; an empty estimator becomes a valid one.

    `rlhf.functional.kl` says which estimators are valid where, and why.
    """
    return ppo.kl_placement, ppo.kl_estimator or {"reward": "k1", "loss": "k2"}[ppo.kl_placement]


def weights_dtype(config: Config, device: str, *, trains_fully: bool) -> str:
    """Return the name of the dtype of the frozen weights: `dtype`, or by the device if "auto".

    Args:
        config: the options of the run.
        device: kind of device: cpu, cuda or mps.
        trains_fully: all layers of the language model train.

    Returns:
        With "auto": float32 on a CPU and in full training, else bfloat16.
    """
    if config.dtype != "auto":
        return config.dtype
    return "float32" if device == "cpu" or trains_fully else "bfloat16"
