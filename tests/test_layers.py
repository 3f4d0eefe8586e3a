"""A module imports only from floors below, without cycles, and few modules know each library.

Sources are parsed, never imported.
"""

from graphlib import CycleError, TopologicalSorter

import pytest

from tests.support.imports import (
    Sources,
    all_imports,
    dependencies,
    is_inside,
    module_of,
    package,
    package_sources,
)

FLOORS = {
    name: floor
    for floor, names in enumerate(
        [
            "errors spans history kernels functional",
            "types config",
            "storage tracking parallel",
            "data",
            "models",
            "generation",
            "rewards planning",
            "training evaluation annotation diagnostics demo",
            "ppo",
            "rlhf",  # the package itself: the names of its __all__
            "commands",
            "cli __main__",
        ]
    )
    for name in names.split()
}
# library: the only modules (with all inside them) that may import it
KNOWN_BY = {
    "hydra": ["rlhf.cli"],
    "omegaconf": ["rlhf.cli"],
    "transformers": [
        "rlhf.models",
        "rlhf.generation",
        "rlhf.rewards",
        "rlhf.data.chat_prompts",
        "rlhf.planning",
        "rlhf.demo",
    ],
    "peft": ["rlhf.models.lora", "rlhf.models.adapter_files"],
    "bitsandbytes": ["rlhf.models.quantization", "rlhf.training.optimizers"],
    "tensorboard": ["rlhf.tracking.reader"],
    "torch.utils.tensorboard": ["rlhf.tracking.tensorboard"],
    "triton": ["rlhf.kernels"],
    "wandb": ["rlhf.tracking.wandb"],
    "mlflow": ["rlhf.tracking.mlflow"],
    "jinja2": ["rlhf.evaluation.html"],
    "pillow_heif": ["rlhf.data.images"],
    "httpx2": ["rlhf.rewards.external.http"],
    "pyarrow": ["rlhf.data"],
    "starlette": ["rlhf.annotation.server"],
    "uvicorn": ["rlhf.annotation.server"],
    "torch.distributed": ["rlhf.parallel", "rlhf.models.sharding"],
    "trl": [],
    "pickle": [],
}

# modules of rlhf.commands that are no command: what several of them share
COMMAND_HELPERS = {
    f"rlhf.commands.{name}"
    for name in (
        "command_line",
        "evaluation_report",
        "fitting",
        "job",
        "merge",
        "model_setup",
        "ppo_profile",
        "resume",
        "reward_report",
        "reward_study",
        "training_run",
    )
}


def part_of(module: str) -> str:
    """The package that has a floor: `data` for rlhf.data.images, `rlhf` for itself."""
    return module.split(".")[1] if "." in module else module


def floor_faults(sources: Sources) -> list[str]:
    faults = [
        f"{module}: give it a floor in FLOORS"
        for module in sources
        if part_of(module) not in FLOORS
    ]
    for module, targets in dependencies(sources).items():
        for target in targets:
            here = FLOORS.get(part_of(module), 0)
            if FLOORS.get(part_of(target), 0) > here:
                faults.append(f"{module} (floor {here}) imports {target}")
    return faults


def cycle(sources: Sources) -> list[str]:
    """The modules of one import cycle, or none."""
    try:
        TopologicalSorter(dependencies(sources)).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def command_faults(sources: Sources) -> list[str]:
    """Imports of a command by another module of rlhf.commands; helpers may be imported."""
    commands = {m for m in sources if m.startswith("rlhf.commands.")} - COMMAND_HELPERS
    return [
        f"{module} imports {name}"
        for module, name in all_imports(sources)
        if module.startswith("rlhf.commands.")
        and (target := module_of(name, sources)) in commands
        and target != module
    ]


def library_faults(sources: Sources) -> list[str]:
    return [
        f"{module} imports {name}"
        for module, name in all_imports(sources)
        for library, allowed in KNOWN_BY.items()
        if is_inside(name, library) and not any(is_inside(module, home) for home in allowed)
    ]


def test_the_package_keeps_its_floors() -> None:
    assert floor_faults(package_sources()) == []


def test_the_package_has_no_cycle() -> None:
    assert cycle(package_sources()) == []


def test_no_command_imports_another() -> None:
    assert command_faults(package_sources()) == []
    sources = package(
        commands="",
        commands__job="",
        commands__plan="",
        commands__ppo="from rlhf.commands.job import Job\nfrom rlhf.commands.plan import plan",
    )
    assert command_faults(sources) == ["rlhf.commands.ppo imports rlhf.commands.plan.plan"]


def test_few_modules_know_each_library() -> None:
    assert library_faults(package_sources()) == []


@pytest.mark.parametrize(
    "modules",
    [
        {"spans": "import rlhf.config", "config": ""},
        {"spans": "from rlhf import config", "config": ""},
        {"models": "from rlhf import PPOTrainer"},
        {"models": "import rlhf"},
        {"kernels__fast": "from ..types import Rollout", "types": ""},
        {"models": "def f():\n    from rlhf.ppo import sample", "ppo": ""},
        {"training": "import importlib\nimportlib.import_module('rlhf.cli')", "cli": ""},
        {"surprise": ""},
    ],
)
def test_a_climbing_import_is_found(modules: dict[str, str]) -> None:
    assert len(floor_faults(package(**modules))) == 1


@pytest.mark.parametrize(
    "modules",
    [
        {"storage": "import rlhf.tracking", "tracking": "from rlhf.storage import x"},
        {"data__images": "from rlhf.data import collate", "data": "from .images import open"},
        {"data": "import rlhf.storage", "data__images": "", "storage": "import rlhf.data.images"},
        {"data__a": "from . import b", "data__b": "from .a import x"},
        {"data": "import rlhf.data"},
    ],
)
def test_a_cycle_is_found(modules: dict[str, str]) -> None:
    assert cycle(package(**modules)) != []


def test_siblings_and_lower_floors_are_allowed() -> None:
    sources = package(
        data="from .images import open",
        data__images="from rlhf.data.records import Record\nfrom rlhf.errors import DataError",
        data__records="import rlhf.kernels as k",
        errors="",
    )
    assert floor_faults(sources) == []
    assert cycle(sources) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("training", "from omegaconf import OmegaConf"),
        ("config", "import hydra.utils"),
        ("data__images", "import transformers"),
        ("models__llava", "import peft"),
        ("models__llava", "from bitsandbytes import nn"),
        ("training", "from torch.utils.tensorboard import SummaryWriter"),
        ("training", "from torch.utils import tensorboard"),
        ("training", "import torch.distributed as dist"),
        ("commands", "import tensorboard"),
        ("cli", "import trl"),
        ("storage", "from pickle import loads"),
        ("models_two", "import transformers"),
    ],
)
def test_a_library_in_the_wrong_place_is_found(module: str, source: str) -> None:
    assert len(library_faults(package(**{module: source}))) == 1


def test_libraries_at_home_are_allowed() -> None:
    sources = package(
        cli__hydra_compose="import hydra\nfrom omegaconf import OmegaConf",
        models__lora="import peft",
        models__quantization="import bitsandbytes",
        models__llava="from transformers import LlavaForConditionalGeneration",
        data__chat_prompts="import transformers",
        tracking__tensorboard="from torch.utils.tensorboard import SummaryWriter",
        data="import trlx",
    )
    assert library_faults(sources) == []
