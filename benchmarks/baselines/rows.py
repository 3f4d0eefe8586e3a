"""The rows of the comparison: the baselines, their sizes and the speed-up aimed for.

Each row has a kind, and kinds are not compared with each other: A is the same algorithm with the
same trained parameters, B an algorithm without a critic, C has other trained parameters.
"""

from dataclasses import dataclass, replace
from typing import Any

from baselines.spec import Case

SIZES: dict[str, dict[str, Any]] = {
    "2k": {},
    "32k": {
        "vocab_size": 32_000,
        "image_tokens": 576,
        "response_tokens": 64,
        "batch_size": 8,
        "ppo_epochs": 2,
    },
}
TINY: dict[str, Any] = {
    "hidden_size": 64,
    "num_layers": 2,
    "vocab_size": 512,
    "image_tokens": 16,
    "response_tokens": 6,
    "batch_size": 8,
    "minibatch_size": 4,
    "ppo_epochs": 1,
    "lora_rank": 4,
    "warmup_iterations": 1,
    "timed_iterations": 2,
}


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        name: name of the row, without its size.
        setting: kind and settings of the row, as printed.
        against: the other side, as printed.
        bar: by size, the ratio aimed for, as printed; missing it fails nothing.
        theirs: baseline, and fields of its case that differ from the default.
        ours: likewise.
        part: the part of an iteration that is compared.
        needs_parity: whether parity with trl's PPO is checked first.
    """

    name: str
    setting: str
    against: str
    theirs: tuple[str, dict[str, Any]]
    ours: tuple[str, dict[str, Any]]
    bar: dict[str, str]
    part: str = "iteration"
    needs_parity: bool = True

    def cases(self, size: str, changes: dict[str, Any]) -> tuple[Case, Case]:
        """Return their and our case; `changes` override the row's own fields."""
        default = replace(Case(), **SIZES[size])
        theirs, ours = ({**fields, **changes} for fields in (self.theirs[1], self.ours[1]))
        return replace(default, **theirs), replace(default, **ours)


BF16 = {"dtype": "bfloat16"}
SHARED = {"critic": "shared"}
GROUPS_OF_4 = {"samples_per_prompt": 4}
LORA = {"train": "lora"}
ALORA = {**LORA, **GROUPS_OF_4, "critic": "shared", "lora_type": "alora"}
NO_CRITIC = {**GROUPS_OF_4, "scorer": "rule", "critic": "shared_detached"}
RLOO, GRPO = ({**NO_CRITIC, "advantage_estimator": name} for name in ("rloo", "grpo"))
BATCH_32 = {"batch_size": 32, "minibatch_size": 32}
PPO = "trl 1.12 PPO"


def _ppo(name: str, setting: str, theirs: dict[str, Any], ours: dict[str, Any], **more: Any) -> Row:
    against = more.pop("against", PPO)
    return Row(name, setting, against, ("trl_ppo", theirs), ("ours", ours), **more)


def _groups(name: str, case: dict[str, Any], **more: Any) -> Row:
    setting, against = f"B same samples, epochs, beta: {name}", f"trl 1.16 {name.upper()}"
    sides = ("trl_groups", case), ("ours", case)
    return Row(name, setting, against, *sides, needs_parity=False, **more)


def _decode(name: str, case: dict[str, Any], **more: Any) -> Row:
    sides = ("transformers", case), ("decode", case)
    return Row(name, "decode, B=32", "generate", *sides, part="decode", needs_parity=False, **more)


ROWS = (
    _ppo("same", "A same algorithm", {}, {}, bar={"2k": "1.3", "32k": "1.8"}),
    _ppo("same-bf16", "A same algorithm", BF16, BF16, bar={"2k": "1.1", "32k": "2"}),
    _ppo("shared", "C shared critic", {}, SHARED, bar={"2k": "2.2", "32k": "3.2"}),
    _ppo(
        "shared-microbatches",
        "C shared critic, 2 micro-batches a step",
        {},
        {**SHARED, "microbatches": 2},
        bar={"2k": "2.2", "32k": "3.2"},
    ),
    _ppo(
        "groups", "C shared critic, G=4", {}, {**SHARED, **GROUPS_OF_4}, bar={"2k": "4", "32k": "6"}
    ),
    _ppo(
        "groups-bf16",
        "C shared critic, G=4, ours bf16",
        {},
        {**SHARED, **GROUPS_OF_4, **BF16},
        bar={"2k": "6", "32k": "9"},
    ),
    _ppo(
        "alora-update",
        "C aLoRA, G=4, update",
        {**LORA, **BF16},
        {**ALORA, **BF16},
        bar={"2k": "15", "32k": "15"},
        part="update",
        against=f"{PPO} with LoRA",
    ),
    _ppo(
        "alora",
        "C aLoRA, G=4",
        {**LORA, **BF16},
        {**ALORA, **BF16},
        bar={},
        against=f"{PPO} with LoRA",
    ),
    _groups("rloo", RLOO, bar={"2k": "3", "32k": "3"}),
    _groups("grpo", GRPO, bar={}),
    _decode("decode", BATCH_32, bar={"2k": "1.3", "32k": "2.5"}),
    _decode("decode-bf16", {**BATCH_32, **BF16}, bar={"2k": "1.3", "32k": "2.5"}),
)


def select_rows(names: list[str]) -> list[tuple[Row, str]]:
    """Return the rows with these names or name/size, in the order of the table; all by default.

    Raises:
        ValueError: no row has one of the names.
    """
    all_rows = [(row, size) for size in SIZES for row in ROWS]
    known = {name for row, size in all_rows for name in (row.name, size, f"{row.name}/{size}")}
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"no case is called {unknown[0]}; there are {sorted(known)}")
    return [
        (row, size)
        for row, size in all_rows
        if not names or {row.name, size, f"{row.name}/{size}"} & set(names)
    ]
