"""What `rlhf --help` and `rlhf COMMAND --help` print, made from the schema itself."""

import inspect
import re
from collections.abc import Iterator, Mapping
from typing import Any

from rlhf.config.schema import Config, Section

COMMANDS = {
    "demo": (
        "the whole loop on images it draws itself",
        "rlhf demo",
        ("demo", "sft", "collect", "reward", "sampling", "ppo"),
    ),
    "sft": (
        "supervised training on demonstrations",
        "rlhf sft model.path=MODEL data.demonstrations=FILE.jsonl",
        ("model", "data", "sft"),
    ),
    "collect": (
        "sample candidate answers to rank",
        "rlhf collect model.path=MODEL data.prompts=FILE.jsonl",
        ("model", "data", "sampling", "collect", "reward"),
    ),
    "annotate": (
        "rank pairs of answers on a local page",
        "rlhf annotate CANDIDATES.jsonl (or LOG.jsonl annotate.output=PREFERENCES.jsonl)",
        ("data", "annotate"),
    ),
    "reward": (
        "train a reward model on ranked pairs",
        "rlhf reward model.path=MODEL data.preferences=FILE.jsonl",
        ("model", "data", "reward"),
    ),
    "ppo": (
        "tune a model against a reward model",
        "rlhf ppo model.path=MODEL data.prompts=FILE.jsonl reward.path=RUN",
        ("model", "data", "sampling", "reward", "ppo"),
    ),
    "evaluate": (
        "compare models with the first of them",
        "rlhf evaluate MODEL MODEL… data.prompts=FILE.jsonl reward.path=RUN",
        ("data", "sampling", "reward", "evaluation"),
    ),
    "compare": (
        "set runs side by side, ours or trl's: a table and their curves",
        "rlhf compare RUN RUN… output=compare.html",
        (),
    ),
    "generate": (
        "answer an instruction about images",
        "rlhf generate MODEL… IMAGE|FOLDER… instruction='What is this?'",
        ("model", "data", "sampling"),
    ),
    "score": (
        "score responses with a reward model",
        "rlhf score RUN FILE.jsonl output=SCORES.jsonl",
        ("data", "reward"),
    ),
    "validate": (
        "check files of records",
        "rlhf validate FILE.jsonl… validate.fix_output=USABLE.jsonl",
        ("data",),
    ),
    "import": (
        "turn a public preference set into our records",
        "rlhf import SOURCE FILE… output=FOLDER data.root=IMAGES",
        ("data",),
    ),
    "export": (
        "turn preferences into trl's or Label Studio's format, or a run into a plain LLaVA",
        "rlhf export trl|label_studio FILE.jsonl output=FILE (or RUN export.merge=true)",
        ("data",),
    ),
    "stamps": (
        "turn Debian's tuxpaint-stamps-default into prompts and captions",
        "rlhf stamps [PACKAGE.deb|FOLDER] output=FOLDER",
        (),
    ),
    "smol": (
        "build a LLaVA around the pretrained SmolLM2-135M-Instruct (needs 'rlhf[smol]')",
        "rlhf smol [STAMPS.deb|FOLDER] output=FOLDER",
        ("smol", "sft"),
    ),
    "doctor": (
        "what is installed, what works, and how to mend what does not",
        "rlhf doctor device=cuda model.quantization=nf4",
        ("model",),
    ),
    "plan": (
        "whether a PPO run fits a card, and how long an iteration takes at best",
        "rlhf plan model.path=MODEL plan.gpu=NAME [options of rlhf ppo]",
        ("plan", "model", "sampling", "reward", "ppo"),
    ),
}
FLAGS = {
    "--help": "this text",
    "--debug": "show the traceback of an error",
    "--json": "print the figures as one JSON line, nothing else",
    "--multirun": "run every combination of comma-separated values",
    "--scorer=…": "ppo, evaluate, score: a function FILE.py:NAME or an address http://… as judge",
}


def overview() -> str:
    """The commands and flags."""
    lines = ["rlhf COMMAND [FILE…] [option=value…] [flags]", ""]
    lines += [f"  {name:<10} {text}" for name, (text, _, _) in COMMANDS.items()]
    lines += ["", *(f"  {flag:<10} {text}" for flag, text in FLAGS.items())]
    lines += ["", "`rlhf COMMAND --help` lists its options."]
    return "\n".join(lines) + "\n"


def command_help(command: str, values: Mapping[str, Any]) -> str:
    """What a command does, and its options with the values it would run with."""
    text, usage, sections = COMMANDS[command]
    lines = [f"{usage}", "", f"{text}", ""]
    for name, comment in _comments(Config):
        if not isinstance(values[name], Mapping):
            lines.append(_line(name, values[name], comment))
    for section in sections:
        lines.append("")
        kind = type(getattr(Config(), section))
        for name, comment in _comments(kind):
            lines.append(_line(f"{section}.{name}", values[section][name], comment))
    return "\n".join(lines) + "\n"


def _line(name: str, value: object, comment: str) -> str:
    shown = (
        "null"
        if value is None
        else str(value).lower()
        if value is True or value is False
        else value
    )
    return f"  {f'{name}={shown}':<44} {comment}"


def _comments(kind: type[Section]) -> Iterator[tuple[str, str]]:
    """Each option of a section with the comment that stands beside it in the schema."""
    source = inspect.getsource(kind)
    for name in kind.__annotations__:
        found = re.search(rf"^    {name}: .*?(?:  # (.*))?$", source, re.MULTILINE)
        yield name, (found and found.group(1)) or ""
