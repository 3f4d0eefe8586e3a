"""The rows of the comparison: who against whom, at which sizes, and what was aimed for.

Ladders are never mixed: A is the same algorithm with the same parameters, B leaves out what an
algorithm without a critic does not need, C has other parameters.
"""

from dataclasses import dataclass, replace
from typing import Any

from baselines.spec import Case

SIZES: dict[str, dict[str, Any]] = {
    "2k": {},
    "32k": {
        "vocabulary": 32_000,
        "image_tokens": 576,
        "response": 64,
        "batch": 8,
        "epochs": 2,
    },
}
TINY: dict[str, Any] = {
    "hidden": 64,
    "layers": 2,
    "vocabulary": 512,
    "image_tokens": 16,
    "response": 6,
    "batch": 8,
    "minibatch": 4,
    "epochs": 1,
    "rank": 4,
    "warmups": 1,
    "timed": 2,
}


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        name: of the row, without its size.
        ladder, against, bar: as printed; the bar is nothing that could fail.
        theirs, ours: contender and what its case has instead of the usual.
        part: of an iteration that is compared.
        proven: whether parity with trl's PPO must hold first.
    """

    name: str
    ladder: str
    against: str
    theirs: tuple[str, dict[str, Any]]
    ours: tuple[str, dict[str, Any]]
    bar: dict[str, str]
    part: str = "iteration"
    proven: bool = True

    def cases(self, size: str, changes: dict[str, Any]) -> tuple[Case, Case]:
        """Theirs and ours; `changes` are made last."""
        usual = replace(Case(), **SIZES[size])
        theirs, ours = ({**own, **changes} for own in (self.theirs[1], self.ours[1]))
        return replace(usual, **theirs), replace(usual, **ours)


HALF = {"dtype": "bfloat16"}
SHARED = {"critic": "shared"}
FOUR = {"samples": 4}
LORA = {"train": "lora"}
LATE = {**LORA, **FOUR, "critic": "shared", "lora_type": "alora"}
GROUPS = {**FOUR, "scorer": "rule", "critic": "shared_detached"}
RLOO, GRPO = ({**GROUPS, "advantage": name} for name in ("rloo", "grpo"))
MANY = {"batch": 32, "minibatch": 32}
PPO = "trl 1.12 PPO"


def _ppo(name: str, ladder: str, theirs: dict[str, Any], ours: dict[str, Any], **more: Any) -> Row:
    against = more.pop("against", PPO)
    return Row(name, ladder, against, ("trl_ppo", theirs), ("ours", ours), **more)


def _groups(name: str, case: dict[str, Any], **more: Any) -> Row:
    ladder, against = f"B same samples, epochs, beta: {name}", f"trl 1.16 {name.upper()}"
    sides = ("trl_groups", case), ("ours", case)
    return Row(name, ladder, against, *sides, proven=False, **more)


def _decode(name: str, case: dict[str, Any], **more: Any) -> Row:
    sides = ("transformers", case), ("decode", case)
    return Row(name, "decode, B=32", "generate", *sides, part="decode", proven=False, **more)


ROWS = (
    _ppo("same", "A same algorithm", {}, {}, bar={"2k": "1.3", "32k": "1.8"}),
    _ppo("same-bf16", "A same algorithm", HALF, HALF, bar={"2k": "1.1", "32k": "2"}),
    _ppo("shared", "C shared critic", {}, SHARED, bar={"2k": "2.2", "32k": "3.2"}),
    _ppo(
        "shared-halves",
        "C shared critic, 2 backwards a step",
        {},
        {**SHARED, "backwards": 2},
        bar={"2k": "2.2", "32k": "3.2"},
    ),
    _ppo("groups", "C shared critic, G=4", {}, {**SHARED, **FOUR}, bar={"2k": "4", "32k": "6"}),
    _ppo(
        "groups-bf16",
        "C shared critic, G=4, ours bf16",
        {},
        {**SHARED, **FOUR, **HALF},
        bar={"2k": "6", "32k": "9"},
    ),
    _ppo(
        "late-step",
        "C response scope, G=4, update",
        {**LORA, **HALF},
        {**LATE, **HALF},
        bar={"2k": "15", "32k": "15"},
        part="update",
        against=f"{PPO} with LoRA",
    ),
    _ppo(
        "late",
        "C response scope, G=4",
        {**LORA, **HALF},
        {**LATE, **HALF},
        bar={},
        against=f"{PPO} with LoRA",
    ),
    _groups("rloo", RLOO, bar={"2k": "3", "32k": "3"}),
    _groups("grpo", GRPO, bar={}),
    _decode("decode", MANY, bar={"2k": "1.3", "32k": "2.5"}),
    _decode("decode-bf16", {**MANY, **HALF}, bar={"2k": "1.3", "32k": "2.5"}),
)


def chosen(words: list[str]) -> list[tuple[Row, str]]:
    """Rows by name, or name/size, in the order of the table; no words: all.

    Raises:
        ValueError: a word names none.
    """
    every = [(row, size) for size in SIZES for row in ROWS]
    known = {word for row, size in every for word in (row.name, size, f"{row.name}/{size}")}
    if unknown := [word for word in words if word not in known]:
        raise ValueError(f"no case is called {unknown[0]}; there are {sorted(known)}")
    return [
        (row, size)
        for row, size in every
        if not words or {row.name, size, f"{row.name}/{size}"} & set(words)
    ]
