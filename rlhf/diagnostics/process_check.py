"""Whether processes of this machine can exchange tensors: on GPUs by NCCL, else by gloo."""

import sys

PATIENCE = 60.0  # seconds until a process that does not answer is given up


def check_processes(device: str, count: int) -> None:
    """Start processes that sum a tensor of each.

    Args:
        device: `cpu`, `cuda` or `mps`.
        count: how many processes, of which each has a GPU of its own if there are as many.

    Raises:
        RuntimeError: a process failed, or the sum is wrong.
    """
    from rlhf.parallel.launcher import launch

    command = [sys.executable, "-m", "rlhf.diagnostics.process_check", device]
    if codes := launch(command, count, PATIENCE):
        raise RuntimeError(f"processes that sum a tensor end with {codes}")


def sum_on_processes(device: str) -> bool:
    """Sum a tensor with the other processes that a launcher has started; whether it is right.

    Args:
        device: `cpu`, `cuda` or `mps`.
    """
    import torch

    from rlhf.parallel.world import join_processes

    with join_processes(PATIENCE) as world:
        values = torch.arange(1000.0, device=device) + world.rank
        total = world.sum(values)
        rest = world.size * (world.size - 1) / 2
        return bool((total == world.size * torch.arange(1000.0, device=device) + rest).all())


if __name__ == "__main__":
    sys.exit(not sum_on_processes(sys.argv[1]))
