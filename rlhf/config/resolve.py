"""Options that may be left to the program (empty, auto): what they come to."""

from rlhf.config.schema import Config, PPOConfig


def kl_choice(ppo: PPOConfig) -> tuple[str, str]:
    """Placement and estimator of the KL penalty; without an estimator the valid one of its place.

    The valid estimators and the reasons: `rlhf.functional.kl`.
    """
    return ppo.kl_placement, ppo.kl_estimator or {"reward": "k1", "loss": "k2"}[ppo.kl_placement]


def weights_dtype(config: Config, device: str, *, trains_fully: bool) -> str:
    """Name of the dtype of frozen weights: `dtype`, or if "auto", by the device.

    Args:
        config: the options of the run.
        device: kind of device: cpu, cuda or mps.
        trains_fully: all layers of the language model train.

    Returns:
        float32 on a CPU and in full training, else bfloat16.
    """
    if config.dtype != "auto":
        return config.dtype
    return "float32" if device == "cpu" or trains_fully else "bfloat16"
