"""Which function is behind each command; its module loads when it is called, and no other."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

from rlhf.commands.job import Job

COMMANDS = {
    "demo": "demo:demo",
    "sft": "ppo:sft",
    "collect": "collect:collect",
    "annotate": "annotate:annotate",
    "reward": "reward:reward",
    "ppo": "ppo:ppo",
    "evaluate": "evaluate:evaluate",
    "compare": "compare:compare",
    "generate": "generate:generate",
    "score": "score:score",
    "validate": "validate:validate",
    "import": "import_export:import_records",
    "export": "import_export:export_records",
    "stamps": "stamps:stamps",
    "smol": "smol:smol",
    "doctor": "doctor:doctor",
    "plan": "plan:plan",
}
RESUMABLE = frozenset({"sft", "reward", "ppo"})  # from a checkpoint
WITHOUT_DIRECTORY = frozenset(
    {
        "annotate",
        "compare",
        "generate",
        "score",
        "validate",
        "import",
        "export",
        "stamps",
        "doctor",
        "plan",
    }
)


def command_function(command: str) -> Callable[[Job], dict[str, Any]]:
    """The function of a command: takes a job, leaves its files, returns its metrics."""
    module, _, name = COMMANDS[command].partition(":")
    function: Callable[[Job], dict[str, Any]] = getattr(
        import_module(f"rlhf.commands.{module}"), name
    )
    return function
