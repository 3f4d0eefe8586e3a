"""What is compared: trainers, their options, and the settings among which each chooses."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from itertools import product
from typing import Any

from baselines.environments import RELEASES
from baselines.learning_runs import Baseline
from baselines.learning_task import Task
from baselines.train_checks import READ

Options = Mapping[str, Any]

# The options of each contender of ours stand here and nowhere else.
GROUPS: Options = {"ppo.samples_per_prompt": 4}
NO_CRITIC: Options = {"ppo.advantage_estimator": "reinforce"}
GROUP_CRITIC: Options = GROUPS
# Of trl's DPO: its beta is usual, and at the demo's rate of 5e-4 it diverges.
PAIRS: Options = {"ppo.kl_coef": 0.1}
TRL_LAMBDA: Options = {"ppo.gae_lambda": 0.95}  # the default of trl

CONTENDERS = {
    contender.name: contender
    for contender in (
        Baseline("ppo", "PPO", "learning_ours"),
        Baseline("no_critic", "PPO without critic", "learning_ours", NO_CRITIC),
        Baseline("rloo", "RLOO", "learning_ours", {**GROUPS, "ppo.advantage_estimator": "rloo"}),
        Baseline("grpo", "GRPO", "learning_ours", {**GROUPS, "ppo.advantage_estimator": "grpo"}),
        Baseline("group_critic", "critic over groups", "learning_ours", GROUP_CRITIC),
        Baseline("trl_ppo", "trl 1.12 PPO", "train", TRL_LAMBDA),
        Baseline("trl_rloo", "trl 1.16 RLOO", "train"),
        Baseline("trl_grpo", "trl 1.16 GRPO", "train"),
        Baseline("trl_online_dpo", "trl 1.16 online DPO", "train", PAIRS),
        Baseline("trl_dpo", "trl 1.16 DPO", "train", {**PAIRS, "ppo.lr": 1.5e-4}),
    )
}
# Every contender chooses among these multiples of its learning rate and KL weight, which are the
# task's but for DPO.
SWEEP_SEEDS = (100, 101)
SETTINGS: tuple[Options, ...] = tuple(
    {"ppo.lr": lr, "ppo.kl_coef": kl} for lr, kl in product((1, 2), (1, 0.5))
)

SPEED_ONLY = ("cuda_graphs",)  # options of sampling that do not change what a run learns


def multiplied(task: Task, setting: Options) -> dict[str, float]:
    """Return a setting as options, e.g. `{"ppo.lr": 2}` as twice the learning rate of a task."""
    ppo = task.config.ppo
    return {name: float(getattr(ppo, name[4:]) * factor) for name, factor in setting.items()}


def options_read(contender: Baseline, task: Task) -> dict[str, Any]:
    """Return every option that a run depends on, defaults included, but for `SPEED_ONLY`.

    Of a trainer of trl these are the options that it reads and its release.
    """
    config = task.config
    options = {name: asdict(getattr(config, name)) for name in ("ppo", "sampling", "model")}
    options["sampling"] = {x: y for x, y in options["sampling"].items() if x not in SPEED_ONLY}
    if contender.module == "train":
        options["ppo"] = {x: y for x, y in options["ppo"].items() if x in READ[contender.name]}
        options["model"] = {x: options["model"][x] for x in ("lora_rank", "lora_alpha")}
        options["release"] = {"trl": RELEASES[contender.name]}
    if contender.name == "trl_dpo":
        reward = asdict(config.reward)
        options["reward"] = {x: reward[x] for x in ("epochs", "batch_size", "label_smoothing")}
    return options


def options_key(options: Mapping[str, Any]) -> str:
    """Return a short name of options: equal options have the same one."""
    text = json.dumps(options, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:10]
