"""What the processes of a run exchange in one iteration, and how long that takes."""

from rlhf.planning.model_dims import ModelDims
from rlhf.planning.resident_memory import (
    language_model_bytes,
    sharded_models,
    trainable_parameters,
)
from rlhf.planning.stored_rollout import rollout_bytes
from rlhf.planning.workload import Workload

GIGA = 1e9
GLOO_RATE = 1.0 * GIGA  # bytes a second, assumed: of host memory over a network of 10 Gbit/s
NCCL_RATE = 20.0 * GIGA  # bytes a second, assumed: of GPUs on PCIe 4.0 ×16 (31.5 GB/s at its peak)


def exchange_seconds(dims: ModelDims, workload: Workload, nccl_rate: float = NCCL_RATE) -> float:
    """Seconds that a process sends in one iteration, at assumed rates.

    Args:
        dims: sizes of the model.
        workload: the run.
        nccl_rate: bytes a second between GPUs.
    """
    sent = sent_bytes(dims, workload)
    return sent["rollout"] / GLOO_RATE + (sent["gradients"] + sent["layers"]) / nccl_rate


def sent_bytes(dims: ModelDims, workload: Workload) -> dict[str, float]:
    """Bytes that a process sends in one iteration or supervised step, by what is sent.

        rollout     `rollout_token_bytes` a response token of all processes, once
        gradients   2 · 4 bytes a replicated trainable parameter, each optimizer step
        layers      if sharded: their bytes, once for the rollout, twice a microbatch; in full
                    training also 4 bytes a parameter for the gradient of each microbatch

    each times (processes - 1) / processes.

    Args:
        dims: sizes of the model.
        workload: the run, every response at its longest.
    """
    others = (workload.processes - 1) / workload.processes
    is_sampled = workload.stage == "ppo"
    steps = workload.ppo_epochs * workload.rollout_batch_size // workload.minibatch_size
    full = workload.train == "full"
    trained = trainable_parameters(dims, workload)
    replicated = 0 if full and workload.is_sharded else trained
    layers = language_model_bytes(dims, workload) if workload.is_sharded else 0
    reduced = 4 * trained if full and workload.is_sharded else 0
    part_rows = workload.rows_of_part(workload.minibatch_size)
    passes = steps * workload.own_parts * -(-part_rows // workload.microbatch_rows(part_rows))
    return {
        "rollout": others * is_sampled * rollout_bytes(dims, workload),
        "gradients": others * 2 * 4 * replicated * steps,
        "layers": others * (sharded_models(workload) * layers + passes * (2 * layers + reduced)),
    }
