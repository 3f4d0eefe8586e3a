"""Which function is behind each command."""

from collections.abc import Callable
from typing import Any

from rlhf.stages.answers import collect, generate, validate
from rlhf.stages.common import Job
from rlhf.stages.demo import demo
from rlhf.stages.evaluate import evaluate
from rlhf.stages.train import ppo, reward, sft

__all__ = ["STAGES", "WITHOUT_FOLDER", "Job"]

STAGES: dict[str, Callable[[Job], dict[str, Any]]] = {
    "demo": demo,
    "sft": sft,
    "collect": collect,
    "reward": reward,
    "ppo": ppo,
    "evaluate": evaluate,
    "generate": generate,
    "validate": validate,
}
WITHOUT_FOLDER = frozenset({"generate", "validate"})
