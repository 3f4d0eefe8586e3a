"""The sum of tensors of all processes in the order of a binary tree."""

import torch
import torch.distributed as dist
from torch import Tensor


def tree_sum(values: Tensor, rank: int, size: int) -> Tensor:
    """Return the sum over all processes, ((0 + 1) + (2 + 3)) + …, equal to the last bit on each.

    Args:
        values: [n], float, on a device that the processes exchange from; the same n and dtype on
            every process.
        rank: number of this process, from 0.
        size: number of processes.
    """
    is_power_of_two = size & (size - 1) == 0
    return (_sum_by_halves if is_power_of_two else _sum_to_first)(values, rank, size)


def _sum_by_halves(values: Tensor, rank: int, size: int) -> Tensor:
    """Sum a share of the values on each process, then exchange the shares.

    Neighbours exchange halves, then processes 2 apart quarters, and so on; then the sums go the
    same way back. A process sends 2·n·(size - 1)/size values, however many processes there are.
    """
    total = torch.cat([values, values.new_zeros(-len(values) % size)])
    kept, steps = total, list[tuple[int, Tensor, Tensor]]()
    for other in [rank ^ 2**level for level in range(size.bit_length() - 1)]:
        halves = kept.chunk(2)  # views of the total
        kept, given = halves if rank < other else halves[::-1]
        theirs = torch.empty_like(kept)
        _swap(given, theirs, other)
        kept += theirs
        steps.append((other, kept, given))
    for other, own, missing in reversed(steps):
        _swap(own, missing, other)
    return total[: len(values)]


def _swap(given: Tensor, received: Tensor, other: int) -> None:
    """Send a tensor to another process, and receive the one that it sends."""
    operations = [dist.P2POp(dist.isend, given, other), dist.P2POp(dist.irecv, received, other)]
    for work in dist.batch_isend_irecv(operations):  # NCCL needs both at once
        work.wait()


def _sum_to_first(values: Tensor, rank: int, size: int) -> Tensor:
    """Sum the values on process 0, then send the sum to all."""
    step = 1
    while step < size and rank % step == 0:
        if rank % (2 * step):
            dist.send(values, rank - step)
        elif rank + step < size:
            theirs = torch.empty_like(values)
            dist.recv(theirs, rank + step)
            values = values + theirs
        step *= 2
    values = values.contiguous()
    dist.broadcast(values, 0)
    return values
