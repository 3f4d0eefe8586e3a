"""Steps shared by commands with a model: load it, build its scorer, print it."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from rlhf.commands.job import Job
from rlhf.config.option_types import leaves
from rlhf.config.schema import Config
from rlhf.data.images import image_digest
from rlhf.data.input_files import input_file
from rlhf.data.records import DemonstrationRecord, read_records, resolve_image
from rlhf.errors import UsageError
from rlhf.generation.decode_graph import check_graph_device
from rlhf.models.fixed_options import fixed_options
from rlhf.models.llava import Llava
from rlhf.models.load_model import load_base_model
from rlhf.models.locations import ModelLocation, locate_model
from rlhf.models.lora import refuse_full_training
from rlhf.models.parameter_summary import summarize_parameters
from rlhf.models.policy import POLICY
from rlhf.models.torch_device import find_torch_device
from rlhf.parallel.world import ALONE, World
from rlhf.planning.fit import uses_gradient_checkpointing
from rlhf.planning.workload import Stage
from rlhf.rewards.base import Scorer
from rlhf.rewards.external.loader import load_scorer
from rlhf.rewards.reward import Reward, SavedReward, as_scorer
from rlhf.storage.hashing import hash_tensors
from rlhf.tracking.console import say, table
from rlhf.training.malloc import tune_malloc


def resolve_model(job: Job) -> tuple[Config, ModelLocation]:
    """Find the model of `model.path`, and take over the options that its files fix.

    An adapter has its rank, scale and type already, and quantized weights stay as they are stored.

    Args:
        job: the call of the command.

    Returns:
        The options with those that are fixed, and where the model is.

    Raises:
        UsageError: no model there, or the command line names another value of a fixed option.
    """
    model, named = job.config.model, command_line_options(job)
    location = locate_model(model.path, model.base)
    fixed = fixed_options(location)
    for name, value in fixed.items():
        option, current = f"model.{name}", getattr(model, name)
        if value != current and option in named:
            what = f"{option} is {value} in the files of the model"
            raise UsageError(what, f"{option}={current} model.path={model.path}", "leave it out")
        if value != current:
            say(f"{option}={value}, as in the files of {model.path}")
    return replace(job.config, model=replace(model, **fixed)), location


def load_model(config: Config, location: ModelLocation, *, trains_fully: bool = False) -> Llava:
    """Load a LLaVA, without its adapter, on the configured device.

    Seeds torch's global generator, from which peft initializes a new LoRA.

    Args:
        config: the options of the run.
        location: where the model's files are.
        trains_fully: every layer of the language model trains; its weights are float32 then.

    Raises:
        UsageError: there is no such device, or it lacks the CUDA graphs that are asked for.
    """
    torch.manual_seed(config.seed)
    device = find_torch_device(config.device)
    check_graph_device(config.sampling, device)
    if device.type == "cpu":
        tune_malloc()
    quantization = config.model.quantization
    return load_base_model(config, location, quantization=quantization, trains_fully=trains_fully)


def load_adapted(config: Config, path: str, world: World = ALONE) -> Llava:
    """Load a LLaVA for inference, with its trained adapter active if it has one.

    It keeps no keys and values of prompts, so that a result depends on its own batch only.

    Args:
        config: the options of the run.
        path: a LLaVA directory, a run directory or a hub id.
        world: the processes that load it, all with the same weights.

    Raises:
        DataError: the weights are not the same on every process.
    """
    location = locate_model(path, config.model.base)
    llava = load_model(config, location)
    if location.adapter is not None:
        llava.adapters.load(POLICY, location.adapter, trains=False)
    llava.prefix_cache.limit = 0
    world.same(f"the weights of {path}", lambda: hash_tensors(llava.model.state_dict().items()))
    return llava


def load_trainable(config: Config, location: ModelLocation, *, fully: bool, stage: Stage) -> Llava:
    """Load a LLaVA for training, without its adapter; set gradient checkpointing.

    Args:
        config: the options of the run.
        location: where the model's files are.
        fully: every layer of the language model trains, not only a LoRA.
        stage: the command that trains.
    """
    if fully:
        refuse_full_training(location.adapter, "train=full")
    llava = load_model(config, location, trains_fully=fully)
    llava.gradient_checkpointing = uses_gradient_checkpointing(config, location, stage)
    return llava


def build_scorer(job: Job, llava: Llava, *, share_base_model: bool, world: World = ALONE) -> Scorer:
    """Load the scorer that `--scorer=` names, else the reward model of `reward.path`.

    Args:
        job: the call of the command.
        llava: the model whose responses are scored.
        share_base_model: the reward model may run as an adapter on `llava`'s base model.
        world: the processes that score the same responses together, each a share of them.
    """
    scorer = as_scorer(named_reward(job, llava), llava, share_base_model=share_base_model)
    scorer.world = world  # type: ignore[attr-defined]
    return scorer


def named_reward(job: Job, llava: Llava) -> Reward | Scorer:
    """Return the scorer that `--scorer=` names, else the reward model of `reward.path`.

    Args:
        job: the call of the command.
        llava: the model whose responses are scored.
    """
    if job.scorer:
        return load_scorer(job.scorer, llava.builder, job.config.scorer)
    return _saved_reward(job.config, job.config.reward.path)


def named_judge(job: Job, llava: Llava) -> Reward | Scorer | None:
    """Return the judge of `--judge=` or `reward.judge_path`; None if none is named.

    Args:
        job: the call of the command.
        llava: the model whose responses are judged.
    """
    if job.judge:
        return load_scorer(job.judge, llava.builder, job.config.scorer, "--judge")
    path = job.config.reward.judge_path
    return _saved_reward(job.config, path) if path else None


def _saved_reward(config: Config, path: str) -> SavedReward:
    captions = read_captions(config.reward.captions, config.data.root)
    return SavedReward(path, captions=captions, base=config.model.base)


def read_captions(file: str, data_root: str) -> dict[str, str] | None:
    """Read captions by the digest of their image; None if no file is named.

    Args:
        file: JSONL whose `response` is the caption of `image_path`; empty for none.
        data_root: directory that image paths are relative to; empty: the directory of the file.
    """
    if not file:
        return None
    path = input_file(file, "reward.captions")
    root = Path(data_root) if data_root else path.parent
    return {
        image_digest(resolve_image(record.image_path, root)): record.response
        for record in read_records(path, DemonstrationRecord)
    }


def command_line_options(job: Job) -> dict[str, Any]:
    """Return the seed and the options named on the command line, with their values."""
    names = {word.partition("=")[0].lstrip("+") for word in job.overrides} | {"seed"}
    return {name: x for name, x in leaves(asdict(job.config)) if name in names}


def print_model_summary(llava: Llava, *, steps: int) -> None:
    """Print the parts of the model, their dtypes, what trains and on which device.

    Args:
        llava: the model.
        steps: optimizer steps planned.
    """
    rows = [
        (part.name, part.stored, part.count, part.trained) for part in summarize_parameters(llava)
    ]
    table("the model", ("part", "stored as", "parameters", "trainable"), rows)
    say(f"device {llava.device}, {steps:,} optimizer steps planned")
    if llava.adapters.names:
        kinds = sorted({name.rpartition(".")[2] for name in llava.adapters.layers})
        roles = ", ".join(llava.adapters.names)
        say(f"LoRA ({roles}) on {len(llava.adapters.layers)} layers: {', '.join(kinds)}")
