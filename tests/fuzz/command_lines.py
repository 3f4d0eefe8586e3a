"""Draw command lines: every command with every option, hostile values, files of the wrong kind."""

from collections.abc import Iterator
from itertools import cycle
from random import Random

from rlhf.cli.commands import COMMANDS
from rlhf.cli.help import FLAGS
from rlhf.config.option_types import option_types
from tests.support.option_values import admitted_values

NUMBERS = ["-1", "0", "1e400", "-inf", "nan", "1e-320", "99999999999999999999", "1e18", "4", "0.5"]
TEXTS = ["", " ", "null", "[", "[]", "[1, a]", "{a: 1}", "${seed}", "${", "'", '"', "\\", "???"]
TEXTS += ["%s", "a=b", "+", "é\u0301\u202e", "\x1b[31m", "a\nb", "\udcff", "x" * 5000, "y" * 300]
PLACES = ["..", ".", "../up/down", "/dev/null", "/proc/self/mem", "/proc/none/x", "~/x", "C:\\x"]
PLACES += ["a/b", "http://localhost:1/x", "file:///etc/passwd", "*", "missing.jsonl", "auto"]
FILES = ["model", "run", "log", "empty", "pictures", "pictures/00000.png", "broken.png", "score.py"]
FILES += [f"{name}.jsonl" for name in ("prompts", "demonstrations", "pairs", "candidates")]
FILES += ["broken.jsonl", "empty.jsonl", "binary.jsonl", "config.yaml", "model/config.json"]
HOSTILE = NUMBERS + TEXTS + PLACES + FILES
SCORERS = ["score.py:score", "score.py:none", "none.py:f", "http://[", "http://localhost:1", ""]
GROUPS = ["model=", "reward=", "experiment=", "ppo=", "demo="]

# What gets a command past its first checks.
SOUND = {
    "sft": ["model.path=model", "data.demonstrations=demonstrations.jsonl"],
    "collect": ["model.path=model", "data.prompts=prompts.jsonl", "sampling.max_new_tokens=2"],
    "annotate": ["candidates.jsonl"],
    "reward": ["model.path=model", "data.preferences=pairs.jsonl"],
    "ppo": [
        "model.path=model",
        "data.prompts=prompts.jsonl",
        "--scorer=score.py:score",
        "ppo.iterations=1",
        "ppo.rollout_batch_size=2",
        "ppo.minibatch_size=1",
        "sampling.max_new_tokens=2",
    ],
    "evaluate": ["model", "run", "data.prompts=prompts.jsonl", "--scorer=score.py:score"],
    "compare": ["log"],
    "generate": ["model", "pictures", "sampling.max_new_tokens=2"],
    "score": ["pairs.jsonl", "--scorer=score.py:score"],
    "validate": ["pairs.jsonl"],
    "import": ["trl", "pairs.jsonl", "output=imported"],
    "export": ["trl", "pairs.jsonl", "output=exported.jsonl"],
    "stamps": ["output=stamped"],
    "smol": ["output=small"],
    "plan": ["model.path=model"],
}


def command_lines(seed: int) -> Iterator[list[str]]:
    """Yield command lines without end; each option of each command comes before any comes twice.

    Args:
        seed: of the random choices.
    """
    random = Random(seed)
    pairs = [(command, name, hint) for command in COMMANDS for name, hint in option_types()]
    random.shuffle(pairs)
    for command, name, hint in cycle(pairs):
        yield _line(random, command, name, [text for text, _ in admitted_values(hint)])


def _line(random: Random, command: str, name: str, admitted: list[str]) -> list[str]:
    """A command line with one option of interest, which comes last of the options."""
    words = SOUND.get(command, []) if random.random() < 0.75 else []
    words = [word for word in words if random.random() < 0.95]
    if COMMANDS[command].takes_files and random.random() < 0.25:
        words += random.choices(HOSTILE, k=random.randint(1, 2))
    if random.random() < 0.1:
        words.append(random.choice(GROUPS) + random.choice(HOSTILE))
    if random.random() < 0.05:
        words.append(random.choice([*FLAGS, "-x", "--", f"--scorer={random.choice(SCORERS)}"]))
    value = random.choice(HOSTILE if random.random() < 0.5 or not admitted else admitted)
    prefix = random.choice(["+", "++", "~"]) if random.random() < 0.03 else ""
    return [command, *words, f"{prefix}{name}={value}"]
