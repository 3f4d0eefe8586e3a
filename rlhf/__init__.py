"""Reinforcement learning from human preferences for vision-language models.

The names of `__all__` are the interface for Python: docs/pages/guides/python.md. They are imported
when they are first used, so that `import rlhf` loads no model library.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlhf.config.schema import ModelConfig, PPOConfig, RewardConfig, SamplingConfig, SFTConfig
    from rlhf.data.images import load_image
    from rlhf.data.record_set import Demonstrations, Preferences, Prompts
    from rlhf.errors import DataError, DivergedError, ResourceError, RlhfError, UsageError
    from rlhf.evaluation.evaluate import evaluate, generate
    from rlhf.models.llava import Llava
    from rlhf.models.load_model import load_model
    from rlhf.models.policy import Policy
    from rlhf.parallel.world import join_processes
    from rlhf.ppo.trainer import PPOTrainer
    from rlhf.rewards.base import RewardModel, Scorer
    from rlhf.rewards.loading import build_reward_model
    from rlhf.rewards.reward import Reward, RewardFunction, load_reward
    from rlhf.tracking.mlflow import MLflowTracker
    from rlhf.tracking.tensorboard import TensorBoardTracker
    from rlhf.tracking.tracker import Sample, Tracker
    from rlhf.tracking.wandb import WandbTracker
    from rlhf.training.callbacks import Callback
    from rlhf.training.reward_trainer import RewardTrainer
    from rlhf.training.sft_trainer import SFTTrainer

__version__ = "0.1.0"
__all__ = [
    "Callback",
    "DataError",
    "Demonstrations",
    "DivergedError",
    "Llava",
    "MLflowTracker",
    "ModelConfig",
    "PPOConfig",
    "PPOTrainer",
    "Policy",
    "Preferences",
    "Prompts",
    "ResourceError",
    "Reward",
    "RewardConfig",
    "RewardFunction",
    "RewardModel",
    "RewardTrainer",
    "RlhfError",
    "SFTConfig",
    "SFTTrainer",
    "Sample",
    "SamplingConfig",
    "Scorer",
    "TensorBoardTracker",
    "Tracker",
    "UsageError",
    "WandbTracker",
    "build_reward_model",
    "evaluate",
    "generate",
    "join_processes",
    "load_image",
    "load_model",
    "load_reward",
]
_MODULES = {  # module: the names that it defines
    "rlhf.config.schema": (
        "ModelConfig",
        "PPOConfig",
        "RewardConfig",
        "SFTConfig",
        "SamplingConfig",
    ),
    "rlhf.data.images": ("load_image",),
    "rlhf.data.record_set": (
        "Demonstrations",
        "Preferences",
        "Prompts",
    ),
    "rlhf.errors": (
        "DataError",
        "DivergedError",
        "ResourceError",
        "RlhfError",
        "UsageError",
    ),
    "rlhf.evaluation.evaluate": (
        "evaluate",
        "generate",
    ),
    "rlhf.models.llava": ("Llava",),
    "rlhf.models.load_model": ("load_model",),
    "rlhf.models.policy": ("Policy",),
    "rlhf.parallel.world": ("join_processes",),
    "rlhf.ppo.trainer": ("PPOTrainer",),
    "rlhf.rewards.base": (
        "RewardModel",
        "Scorer",
    ),
    "rlhf.rewards.loading": ("build_reward_model",),
    "rlhf.rewards.reward": (
        "Reward",
        "RewardFunction",
        "load_reward",
    ),
    "rlhf.tracking.mlflow": ("MLflowTracker",),
    "rlhf.tracking.tensorboard": ("TensorBoardTracker",),
    "rlhf.tracking.tracker": (
        "Sample",
        "Tracker",
    ),
    "rlhf.tracking.wandb": ("WandbTracker",),
    "rlhf.training.callbacks": ("Callback",),
    "rlhf.training.reward_trainer": ("RewardTrainer",),
    "rlhf.training.sft_trainer": ("SFTTrainer",),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a name of `__all__` when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module 'rlhf' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    """Names of the package, those that are not imported yet too."""
    return sorted({*globals(), *__all__})
