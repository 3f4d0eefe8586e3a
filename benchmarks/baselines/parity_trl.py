"""trl's own loop on our tokens: python -m baselines.parity_trl DIRECTORY, where trl 1.12.0 is.

`PPOTrainer.train` runs as it is; only its generation hands out the tokens of ours.safetensors, and
the functions that it calls on the way are listened to. One convention differs and has no option:
trl divides the variance of whitening by n - 1, ours by n; here trl's does so too.
"""

import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
import trl.experimental.ppo.ppo_trainer as stock
from safetensors.torch import load_file, save_file
from torch import Tensor

from baselines.parity import nudge
from baselines.spec import World
from baselines.trl_ppo import build


class Listener:
    """Replaces functions of trl's module by the same that keep what they return."""

    def __init__(self, tokens: Tensor, ids: Tensor) -> None:
        self.tokens, self.ids = tokens, ids
        self.heard: dict[str, list[Any]] = {}
        self.order = torch.arange(len(ids))

    def listen(self, place: Any, name: str, said: str) -> None:
        original, heard = getattr(place, name), self.heard.setdefault(said, [])

        def kept(*args: Any, **more: Any) -> Any:
            found = original(*args, **more)
            heard.append(found)
            return found

        setattr(place, name, kept)

    def generation(self, model: Any, queries: Tensor, _: int, pad: int, __: Any) -> Any:
        """Our tokens for these prompts, and the logits that trl's forward gives them."""
        same = (queries[:, None] == self.ids[None]).all(-1)
        self.order = same.int().argmax(1)
        whole = torch.cat([queries, self.tokens[self.order]], 1)
        logits = stock.forward(model, whole, pad).logits
        return whole, logits[:, queries.shape[1] - 1 : -1]

    def in_order(self, rows: Tensor) -> Tensor:
        """Rows as trl has drawn their prompts, in the order of the file."""
        return rows.detach()[self.order.argsort()].contiguous()


def metrics(world: World) -> dict[str, Tensor]:
    """What is compared, as trl computes it."""
    ids = world.tensors()["ids"]
    listener = Listener(load_file(world.directory / "ours.safetensors")["tokens"], ids)
    stock.masked_var = partial(stock.masked_var, unbiased=False)
    for name in ("selective_log_softmax", "get_reward", "masked_whiten"):
        listener.listen(stock, name, name)
    trainer = build(world, [])
    stock.batch_generation = listener.generation
    nudge(trainer.policy_model)
    norms = _norms_at_steps(trainer)
    losses = _losses(trainer)
    trainer.train()
    said, start = listener.heard, ids.shape[1]
    values, scores = (found for found in said["get_reward"])
    return {
        "logprobs": listener.in_order(said["selective_log_softmax"][0]),
        "ref_logprobs": listener.in_order(said["selective_log_softmax"][1]),
        "values": listener.in_order(values[0][:, start - 1 : -1].squeeze(-1)),
        "scores": listener.in_order(scores[1]),
        "advantages": listener.in_order(said["masked_whiten"][0]),
        "loss": torch.tensor(losses),
        "grad_norm_policy": torch.tensor([norm[0] for norm in norms]),
        "grad_norm_critic": torch.tensor([norm[1] for norm in norms]),
    }


def _losses(trainer: Any) -> list[float]:
    """Filled with the loss of each backward."""
    losses: list[float] = []
    backward = trainer.accelerator.backward

    def kept(loss: Tensor, **more: Any) -> None:
        losses.append(loss.item())
        backward(loss, **more)

    trainer.accelerator.backward = kept
    return losses


def _norms_at_steps(trainer: Any) -> list[tuple[float, float]]:
    """Filled with the norms of policy and critic before each optimizer step."""
    norms: list[tuple[float, float]] = []
    step = trainer.optimizer.step

    def kept(*args: Any, **more: Any) -> Any:
        norms.append((_norm(trainer.policy_model), _norm(trainer.value_model)))
        return step(*args, **more)

    trainer.optimizer.step = kept
    return norms


def _norm(model: Any) -> float:
    gradients = [value.grad for value in model.parameters() if value.grad is not None]
    return float(torch.nn.utils.get_total_norm(gradients))


def main(directory: str) -> None:
    torch.set_num_threads(1)
    save_file(metrics(World(Path(directory))), Path(directory) / "theirs.safetensors")


if __name__ == "__main__":
    main(sys.argv[1])
