"""trl's numbers for the parity check: python -m baselines.parity_trl DIRECTORY, with trl 1.12.0.

`PPOTrainer.train` runs unchanged, but its generation returns the tokens of ours.safetensors, and
the results of the functions that it calls are recorded. One convention differs and has no option:
trl divides the variance of whitening by n - 1, ours by n; here trl's divides by n too.
"""

import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
import trl.experimental.ppo.ppo_trainer as trl_ppo_trainer
from safetensors.torch import load_file, save_file
from torch import Tensor

from baselines.parity import perturb
from baselines.spec import CaseFiles
from baselines.trl_ppo import build


class CallRecorder:
    """Wraps functions of trl's module so that their results are recorded."""

    def __init__(self, tokens: Tensor, ids: Tensor) -> None:
        self.tokens, self.ids = tokens, ids
        self.results: dict[str, list[Any]] = {}
        self.order = torch.arange(len(ids))

    def record(self, module: Any, name: str) -> None:
        original, results = getattr(module, name), self.results.setdefault(name, [])

        def recorded(*args: Any, **kwargs: Any) -> Any:
            results.append(original(*args, **kwargs))
            return results[-1]

        setattr(module, name, recorded)

    def generation(self, model: Any, queries: Tensor, _: int, pad: int, __: Any) -> Any:
        """Return our tokens for these prompts, and the logits of trl's forward."""
        equal = (queries[:, None] == self.ids[None]).all(-1)
        self.order = equal.int().argmax(1)
        sequences = torch.cat([queries, self.tokens[self.order]], 1)
        logits = trl_ppo_trainer.forward(model, sequences, pad).logits
        return sequences, logits[:, queries.shape[1] - 1 : -1]

    def in_order(self, rows: Tensor) -> Tensor:
        """Return rows in the order of the prompts' file, from the order in which trl drew them."""
        return rows.detach()[self.order.argsort()].contiguous()


def metrics(case_files: CaseFiles) -> dict[str, Tensor]:
    """Return the metrics that are compared, as trl computes them."""
    ids = case_files.tensors()["ids"]
    recorder = CallRecorder(load_file(case_files.directory / "ours.safetensors")["tokens"], ids)
    trl_ppo_trainer.masked_var = partial(trl_ppo_trainer.masked_var, unbiased=False)
    for name in ("selective_log_softmax", "get_reward", "masked_whiten"):
        recorder.record(trl_ppo_trainer, name)
    trainer = build(case_files, [])
    trl_ppo_trainer.batch_generation = recorder.generation
    perturb(trainer.policy_model)
    norms = _norms_at_steps(trainer)
    losses = _losses(trainer)
    trainer.train()
    results, start = recorder.results, ids.shape[1]
    values, scores = results["get_reward"]
    return {
        "logprobs": recorder.in_order(results["selective_log_softmax"][0]),
        "ref_logprobs": recorder.in_order(results["selective_log_softmax"][1]),
        "values": recorder.in_order(values[0][:, start - 1 : -1].squeeze(-1)),
        "scores": recorder.in_order(scores[1]),
        "advantages": recorder.in_order(results["masked_whiten"][0]),
        "loss": torch.tensor(losses),
        "grad_norm_policy": torch.tensor([norm[0] for norm in norms]),
        "grad_norm_critic": torch.tensor([norm[1] for norm in norms]),
    }


def _losses(trainer: Any) -> list[float]:
    """Return a list to which each backward appends its loss."""
    losses: list[float] = []
    backward = trainer.accelerator.backward

    def recorded_backward(loss: Tensor, **kwargs: Any) -> None:
        losses.append(loss.item())
        backward(loss, **kwargs)

    trainer.accelerator.backward = recorded_backward
    return losses


def _norms_at_steps(trainer: Any) -> list[tuple[float, float]]:
    """Return a list to which each optimizer step appends the norms of policy and critic."""
    norms: list[tuple[float, float]] = []
    step = trainer.optimizer.step

    def recorded_step(*args: Any, **kwargs: Any) -> Any:
        norms.append((_norm(trainer.policy_model), _norm(trainer.value_model)))
        return step(*args, **kwargs)

    trainer.optimizer.step = recorded_step
    return norms


def _norm(model: Any) -> float:
    gradients = [value.grad for value in model.parameters() if value.grad is not None]
    return float(torch.nn.utils.get_total_norm(gradients))


def main(directory: str) -> None:
    torch.set_num_threads(1)
    save_file(metrics(CaseFiles(Path(directory))), Path(directory) / "theirs.safetensors")


if __name__ == "__main__":
    main(sys.argv[1])
