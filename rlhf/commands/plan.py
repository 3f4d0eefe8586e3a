"""The command that says beforehand whether a PPO run fits, and how long it takes at best."""

from dataclasses import replace
from importlib.util import find_spec
from typing import Any

from rlhf.commands.job import Job
from rlhf.config.schema import Config, weights_dtype
from rlhf.models.location import ModelLocation, locate_model
from rlhf.planning.fit import changed_options, smallest_change
from rlhf.planning.gpus import GIB, GPU, GPUS, find_gpu, this_machine
from rlhf.planning.ideal_time import seconds
from rlhf.planning.memory import Memory, memory
from rlhf.planning.model_shape import ModelDims, read_dims
from rlhf.planning.workload import Workload
from rlhf.rewards.reward_card import RewardCard
from rlhf.tracking.console import say, stage, table

PHASES = ("rollout", "scoring", "update")


def plan(job: Job) -> dict[str, Any]:
    """Memory by part and ideal time by phase of `rlhf ppo` with these options; loads no weights."""
    config = job.config
    location = locate_model(config.model.path)
    shape = read_dims(location.base)
    setup = workload_of(config, shape, starts_from_adapter=location.adapter is not None)
    cards = _cards(config.plan.card)
    if config.model.gradient_checkpointing == "auto":
        setup = _automatic(shape, setup, max(card.gib for card in cards))
    needed = memory(shape, setup)
    stage("one iteration")
    largest = " (the largest of its grid)" if shape.tiles > 1 else ""
    say(f"an image takes {shape.image_tokens} tokens{largest}")
    _print_memory(needed, setup)
    verdicts = {card.name: _verdict(shape, setup, card) for card in cards}
    times = {card.name: seconds(shape, setup, card) for card in cards if card.bandwidth}
    _print_times(times)
    stage("cards")
    for name, verdict in verdicts.items():
        say(f"{name}: {verdict['says']}")
    return {
        "resident": needed.resident,
        "phases": needed.phases,
        "peaks": needed.peaks(),
        "peak_gib": needed.peak / GIB,
        "cards": verdicts,
        "seconds": times,
    }


def workload_of(config: Config, shape: ModelDims, *, starts_from_adapter: bool) -> Workload:
    """What the options of a run say of memory and time; the longest responses are assumed."""
    model, ppo, full = config.model, config.ppo, config.model.train == "full"
    return Workload(
        prompt_tokens=shape.image_tokens + config.plan.prompt_tokens,
        max_new_tokens=config.sampling.max_new_tokens,
        rollout_batch_size=ppo.rollout_batch_size,
        minibatch_size=ppo.minibatch_size,
        microbatch_tokens=ppo.microbatch_tokens,
        sampling_batch_size=config.sampling.batch_size,
        ppo_epochs=ppo.ppo_epochs,
        dtype=weights_dtype(config, "cuda", trains_fully=full),  # type: ignore[arg-type]
        quantization=model.quantization,
        train=model.train,
        lora_rank=model.lora_rank,
        lora_type=model.lora_type,
        critic=ppo.critic,
        gradient_checkpointing=model.gradient_checkpointing is True,
        optimizer=ppo.optimizer,
        starts_from_adapter=starts_from_adapter and not full,
        reward=_reward(config),
        triton=find_spec("triton") is not None,
        samples_per_prompt=ppo.samples_per_prompt,
        recompute_logprobs=ppo.recompute_logprobs or ppo.engine != "native",
        max_prefill_tokens=model.max_prefill_tokens,
        prefix_cache_gib=model.prefix_cache_gib,
    )


def checkpoints_layers(config: Config, location: ModelLocation) -> bool:
    """Whether training recomputes layers: as asked for, or where this machine's GPU needs it."""
    asked, card = config.model.gradient_checkpointing, this_machine()
    if asked != "auto":
        return asked
    if card is None or config.device == "cpu":
        return False
    shape = read_dims(location.base)
    setup = workload_of(config, shape, starts_from_adapter=location.adapter is not None)
    return _automatic(shape, setup, card.gib).gradient_checkpointing


def _reward(config: Config) -> Any:
    """Where the reward model runs; without one named, as `rlhf reward` trains it from the trunk.

    A text model that reads captions is another model, not counted.
    """
    if config.reward.path:
        directory, card = RewardCard.read(config.reward.path)
        if card.kind != "llava_head":
            return "none"
        own = card.backbone_path(directory) != locate_model(config.model.path).base
        return "trunk" if own or config.model.train == "full" else "adapter"
    if config.reward.kind != "llava_head":
        return "none"
    return "trunk" if config.model.train == "full" else "adapter"


def _cards(name: str) -> list[GPU]:
    """The card asked for, else this machine's, else all."""
    if name:
        return [find_gpu(name)]
    here = this_machine()
    return [here] if here else list(GPUS.values())


def _automatic(shape: ModelDims, setup: Workload, gib: float) -> Workload:
    """Checkpointing where the run would not fit without."""
    fits = memory(shape, setup).peak <= gib * GIB
    return setup if fits else replace(setup, gradient_checkpointing=True)


def _verdict(shape: ModelDims, setup: Workload, card: GPU) -> dict[str, Any]:
    """Whether it fits, the options to change where it does not, and both in a sentence."""
    limit, need = card.gib * GIB, memory(shape, setup).peak / GIB
    if need <= card.gib:
        return {"fits": True, "change": {}, "says": f"fits, {card.gib - need:.1f} GiB to spare"}
    after = smallest_change(shape, setup, limit)
    change, least = changed_options(setup, after), memory(shape, after).peak / GIB
    options = " ".join(f"{name}={str(value).lower()}" for name, value in change.items())
    fits = f"needs {need:.1f} of {card.gib:.1f} GiB; fits with {options}"
    never = f"does not fit: needs {need:.1f} GiB, and {least:.1f} of {card.gib:.1f} with {options}"
    return {"fits": False, "change": change, "says": fits if least <= card.gib else never}


def _print_memory(needed: Memory, setup: Workload) -> None:
    """A row for each part, a column for each phase at its worst moment, GiB."""
    names = [*needed.resident, *dict.fromkeys(n for x in needed.phases.values() for n in x)]
    rows = [
        [name, *(_gib({**needed.resident, **needed.phases[x]}.get(name)) for x in PHASES)]
        for name in names
    ]
    peaks = needed.peaks()
    rows.append(["in all", *(_gib(peaks[phase]) for phase in PHASES)])
    table("memory on the card, GiB", ("part", *PHASES), rows)
    without, checkpointed = needed.activations
    say(
        f"activations of a micro-batch of {setup.rows(setup.minibatch_size)} rows: "
        f"{_gib(without)} GiB, with gradient checkpointing {_gib(checkpointed)} GiB"
    )
    say(f"cached features on the CPU: {needed.features / 2**20:.2f} MiB an image")


def _print_times(times: dict[str, dict[str, float]]) -> None:
    """The phases of one iteration on one card, or their sum on each of several."""
    sums = {name: sum(found.values()) for name, found in times.items()}
    if len(times) == 1:
        (name,) = times
        rows = [*times[name].items(), ("in all", sums[name])]
        table("ideal seconds", ("phase", name), rows)
    elif times:
        table("ideal seconds", ("card", "seconds"), list(sums.items()))


def _gib(size: int | None) -> str:
    return "" if size is None else f"{size / GIB:.2f}"
