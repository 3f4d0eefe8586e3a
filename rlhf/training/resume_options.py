"""Refuse to resume a run with other options than it began with."""

import json
from dataclasses import asdict
from typing import Any

from rlhf.config.option_types import leaves
from rlhf.config.schema import Config
from rlhf.errors import UsageError
from rlhf.tracking.console import table

# Options that do not change the results of a run: they may differ when it is resumed.
MAY_DIFFER = frozenset(
    {
        "resume",
        "resume_allow",
        "name",
        "output_dir",
        "output",
        "sweep.objective",
        "sweep.direction",
        "ppo.profile",
        "parallel.patience",
        "parallel.processes",
        "parallel.restarts",
        "model.base",
        "model.vision_cache_gib",
        "model.vision_cache_dir",
        "sft.save_every",
        "reward.save_every",
        "ppo.save_every",
        "ppo.log_samples_every",
        "ppo.on_warning",
        "ppo.max_skipped_steps",
    }
)


def check_options(stored: dict[str, Any], config: Config) -> None:
    """Refuse options that differ from those a run began with, unless `resume_allow` names them.

    Args:
        stored: the options that the run began with, nested by section.
        config: the options now.

    Raises:
        UsageError: options differ; a table of them is printed.
    """
    now = dict(leaves(json.loads(json.dumps(asdict(config)))))
    then = dict(leaves(stored))
    allowed = MAY_DIFFER | set(config.resume_allow)
    if config.ppo.lr_schedule == "constant":  # others depend on the total number of steps
        allowed |= {"ppo.iterations"}
    if "full" not in (config.model.train, config.reward.train):  # it sums in another order
        allowed |= {"parallel.shard"}
    names = [name for name in now if now[name] != then.get(name) and name not in allowed]
    if not names:
        return
    rows = [(name, str(then.get(name)), str(now[name])) for name in names]
    table("options that differ", ("option", "then", "now"), rows)
    raise UsageError(
        "the run began with other options",
        ", ".join(f"{name}: {old} then, {new} now" for name, old, new in rows),
        f"leave them as they were, or add 'resume_allow=[{','.join(names)}]'",
    )
