"""The table of commands; a new command needs a row here and a module in `rlhf.commands`.

A command's module is imported only when the command is called.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from rlhf.commands.job import Job

CommandFunction = Callable[[Job], dict[str, Any]]
PROCESSES = (  # without parts: no gradients are summed
    "parallel.processes",
    "parallel.patience",
    "parallel.restarts",
)


@dataclass(frozen=True, kw_only=True)
class Command:
    """One command: where its function is, what its help says, what it takes.

    Attributes:
        function: `module:name` in `rlhf.commands`; takes a `Job`, returns the metrics.
        help: what the command does, one line.
        usage: an example call.
        sections: sections of the schema whose options it reads; its help lists them.
        root_options: options that it reads besides: without a section, or single ones of one.
        required: options that it cannot do without; its help lists them first.
        optional_files: options that name a file which must be there if one is named.
        next_step: the command that usually follows; `{run}`, `{model}`, `{output}`, `{reward}` are
            filled in, and for data.prompts=FILE.jsonl the folder of images that was read.
        objective: the metric that the members of a sweep are compared by; empty for none.
        takes_files: whether it takes words without `=`: files or run directories.
        takes_scorer: whether it takes `--scorer=`.
        takes_judge: whether it takes `--judge=`.
        writes_output: whether it writes what `output=` names.
        has_run_dir: whether it writes to a run directory: a new one, or the one `resume=` names.
        has_checkpoints: whether `resume=` continues it from a checkpoint, with its stored options.
        deletes_checkpoints: whether they are deleted when the run has ended.
    """

    function: str
    help: str
    usage: str
    sections: tuple[str, ...] = ()
    root_options: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    optional_files: tuple[str, ...] = ()
    next_step: str = ""
    objective: str = ""
    takes_files: bool = True
    takes_scorer: bool = False
    takes_judge: bool = False
    writes_output: bool = False
    has_run_dir: bool = False
    has_checkpoints: bool = False
    deletes_checkpoints: bool = False


COMMANDS = {
    "demo": Command(
        function="demo:demo",
        help="run every stage on images of drawn shapes, or of photographs",
        usage="rlhf demo",
        sections=("demo", "sft", "collect", "reward", "sampling", "ppo", "sweep"),
        takes_files=False,
        has_run_dir=True,
        root_options=("resume",),
        objective="win_rate",
    ),
    "sft": Command(
        function="sft:sft",
        help="supervised training on demonstrations",
        usage="rlhf sft model.path=MODEL data.demonstrations=FILE.jsonl",
        sections=("model", "data", "sft", "parallel", "sweep"),
        takes_files=False,
        has_run_dir=True,
        has_checkpoints=True,
        deletes_checkpoints=True,
        root_options=("resume", "resume_allow"),
        required=("model.path", "data.demonstrations"),
        next_step="rlhf collect model.path={run} data.prompts=FILE.jsonl",
        objective="loss",
    ),
    "collect": Command(
        function="collect:collect",
        help="sample candidate responses to rank",
        usage="rlhf collect model.path=MODEL data.prompts=FILE.jsonl",
        sections=("model", "data", "sampling", "collect", "reward"),
        takes_files=False,
        has_run_dir=True,
        writes_output=True,
        root_options=("instruction", "output", "resume", *PROCESSES),
        required=("model.path", "data.prompts"),
    ),
    "annotate": Command(
        function="annotate:annotate",
        help="rank pairs of responses on a local page",
        usage="rlhf annotate CANDIDATES.jsonl (or LOG.jsonl annotate.output=PREFERENCES.jsonl)",
        sections=("data", "annotate"),
        writes_output=True,
        root_options=("output", "model.path", "model.base"),
        next_step="rlhf reward model.path=MODEL data.preferences=PREFERENCES.jsonl",
    ),
    "reward": Command(
        function="reward:reward",
        help="train a reward model on ranked pairs",
        usage="rlhf reward model.path=MODEL data.preferences=FILE.jsonl",
        sections=("model", "data", "reward", "parallel", "sweep"),
        takes_files=False,
        has_run_dir=True,
        has_checkpoints=True,
        deletes_checkpoints=True,
        root_options=("resume", "resume_allow"),
        required=("model.path", "data.preferences"),
        optional_files=("data.validation_preferences", "reward.captions"),
        next_step="rlhf ppo model.path={model} data.prompts=FILE.jsonl reward.path={run}",
        objective="reward_model_accuracy",
    ),
    "ppo": Command(
        function="ppo:ppo",
        help="train a model with PPO against a reward model",
        usage="rlhf ppo model.path=MODEL data.prompts=FILE.jsonl reward.path=RUN",
        sections=("model", "data", "sampling", "reward", "scorer", "ppo", "parallel", "sweep"),
        takes_files=False,
        takes_scorer=True,
        takes_judge=True,
        has_run_dir=True,
        has_checkpoints=True,
        root_options=("instruction", "resume", "resume_allow"),
        required=("model.path", "data.prompts", "reward.path"),
        optional_files=("reward.captions",),
        next_step="rlhf evaluate {model} {run} data.prompts=FILE.jsonl {reward}",
        objective="objective/rlhf_reward",
    ),
    "evaluate": Command(
        function="evaluate:evaluate",
        help="compare models with the first of them",
        usage="rlhf evaluate MODEL MODEL… data.prompts=FILE.jsonl reward.path=RUN",
        sections=("model", "data", "sampling", "reward", "scorer", "evaluation", "sweep"),
        takes_scorer=True,
        has_run_dir=True,
        root_options=("instruction", "resume", *PROCESSES),
        required=("data.prompts",),
        optional_files=("reward.captions", "evaluation.judgments"),
        next_step="open {run}/report.html",
        objective="win_rate",
    ),
    "compare": Command(
        function="compare:compare",
        help="compare runs of rlhf or trl: a table and their curves",
        usage="rlhf compare RUN RUN… output=compare.html",
        writes_output=True,
        root_options=("output",),
        next_step="open {output}",
    ),
    "generate": Command(
        function="generate:generate",
        help="print responses to an instruction about images",
        usage="rlhf generate MODEL… IMAGE|FOLDER… instruction='What is this?'",
        sections=("model", "data", "sampling"),
        root_options=("instruction",),
        next_step="rlhf collect model.path=MODEL data.prompts=FOLDER",
    ),
    "score": Command(
        function="score:score",
        help="score responses with a reward model",
        usage="rlhf score RUN FILE.jsonl output=SCORES.jsonl",
        sections=("model", "data", "reward", "scorer"),
        takes_scorer=True,
        writes_output=True,
        root_options=("output",),
        next_step="rlhf collect model.path=MODEL data.prompts=FILE.jsonl reward.path=RUN "
        "collect.pair_selection=uncertain",
    ),
    "validate": Command(
        function="validate:validate",
        help="check files of records",
        usage="rlhf validate FILE.jsonl… validate.fix_output=USABLE.jsonl model.path=MODEL",
        sections=("data", "validate", "model", "sampling"),
        next_step="rlhf reward model.path=MODEL data.preferences=FILE.jsonl",
    ),
    "import": Command(
        function="import_export:import_records",
        help="convert preferences, prompts or demonstrations of other tools to records",
        usage="rlhf import [SOURCE] FILE… output=DIRECTORY data.root=IMAGES",
        sections=("data",),
        writes_output=True,
        root_options=("output", "kind"),
        required=("output",),
        next_step="rlhf validate FILE.jsonl",
    ),
    "export": Command(
        function="import_export:export_records",
        help="write preferences for trl or Label Studio, or merge a run into a LLaVA",
        usage="rlhf export trl|label_studio FILE.jsonl output=FILE (or RUN export.merge=true)",
        sections=("data", "export"),
        writes_output=True,
        root_options=("output",),
        next_step="give {output} to trl, Label Studio or transformers",
    ),
    "stamps": Command(
        function="stamps:stamps",
        help="turn Debian's tuxpaint-stamps-default into prompts and captions",
        usage="rlhf stamps [PACKAGE.deb|DIRECTORY] output=DIRECTORY",
        sections=("data",),
        writes_output=True,
        root_options=("output",),
        required=("output",),
        next_step="rlhf collect model.path=MODEL data.prompts={output}/prompts.jsonl",
    ),
    "smol": Command(
        function="smol:smol",
        help="build a LLaVA around the pretrained SmolLM2-135M-Instruct (needs 'rlhf-llava[smol]')",
        usage="rlhf smol [STAMPS.deb|DIRECTORY] output=DIRECTORY",
        sections=("smol", "sft"),
        has_run_dir=True,
        writes_output=True,
        root_options=("output", "resume"),
        required=("output",),
    ),
    "doctor": Command(
        function="doctor:doctor",
        help="check what is installed and what works, and say how to fix what does not",
        usage="rlhf doctor device=cuda model.quantization=nf4",
        sections=("model", "parallel"),
        takes_files=False,
        next_step="rlhf demo",
    ),
    "plan": Command(
        function="plan:plan",
        help="estimate whether training fits a GPU, a Mac or a CPU, and the ideal time of a step",
        usage="rlhf plan [ppo|reward|sft] model.path=MODEL plan.device=NAME [its options]",
        sections=("plan", "model", "sampling", "sft", "reward", "ppo", "parallel"),
        required=("model.path",),
        next_step="the command with these options",
    ),
}


def import_function(command: str) -> CommandFunction:
    """Import the module of a command, which may take seconds, and return its function."""
    module, _, name = COMMANDS[command].function.partition(":")
    function: CommandFunction = getattr(import_module(f"rlhf.commands.{module}"), name)
    return function
