"""Supervised training by a user's hands: what trains, what is saved, what is logged."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf.config.schema import ModelConfig, SFTConfig
from rlhf.data.record_set import Demonstrations
from rlhf.errors import UsageError
from rlhf.models.load_model import load_model
from rlhf.models.policy import POLICY
from rlhf.tracking.reader import read_metrics
from rlhf.training.callbacks import Callback
from rlhf.training.sft_trainer import SFTTrainer

CONFIG = SFTConfig(batch_size=4, epochs=3, lr=1e-2, warmup_steps=1, save_every=1)


def demonstrations(tiny: Path) -> Demonstrations:
    return Demonstrations.from_list(
        {
            "image": tiny / f"pictures/{n:05d}.png",
            "instruction": f"What is {n}?",
            "response": "a red circle",
        }
        for n in range(8)
    )


def trainer(tiny: Path, run_dir: Path | None = None, **options: Any) -> SFTTrainer:
    model = load_model(tiny / "model", device="cpu")
    lora = ModelConfig(lora_rank=4)
    return SFTTrainer(model, demonstrations(tiny), CONFIG, lora, run_dir=run_dir, **options)


def test_the_loss_falls_and_what_is_saved_is_loaded(tiny: Path, tmp_path: Path) -> None:
    run = trainer(tiny)
    losses = [metrics["sft/loss"] for metrics in run]
    assert len(losses) == run.steps == 6 and losses[-1] < losses[0] - 1
    loaded = load_model(run.save(tmp_path), device="cpu")
    trained = run.llava.adapters.tensors(POLICY)
    assert all(
        torch.equal(value, trained[name]) for name, value in loaded.adapters.tensors(POLICY).items()
    )
    assert run.summary() == {"loss": losses[-1], "demonstrations": 8, "steps": 6}


def test_an_adapter_trains_on_from_where_it_was(tiny: Path, tmp_path: Path) -> None:
    first = trainer(tiny)
    last = first.run()["sft/loss"]
    model = load_model(first.save(tmp_path), device="cpu")
    again = SFTTrainer(model, demonstrations(tiny), CONFIG)
    losses = [metrics["sft/loss"] for metrics in again]
    assert losses[0] < last + 0.5 and losses[-1] < last
    names = {name for name, value in model.model.named_parameters() if value.requires_grad}
    assert names and all(".lora_" in name for name in names)


def test_all_of_the_model_trains_on_request(tiny: Path, tmp_path: Path) -> None:
    model = load_model(tiny / "model", device="cpu")
    before = model.output_weight.detach().clone()
    run = SFTTrainer(model, demonstrations(tiny), CONFIG, ModelConfig(train="full"))
    run.run()
    assert not torch.equal(model.output_weight, before)
    assert load_model(run.save(tmp_path), device="cpu").adapter_dir is None
    adapted = load_model(trainer(tiny).save(tmp_path / "lora"), device="cpu")
    with pytest.raises(UsageError, match="cannot start from an adapter"):
        SFTTrainer(adapted, demonstrations(tiny), CONFIG, ModelConfig(train="full"))


def test_a_callback_logs_and_ends_the_run_which_goes_on_as_if_nothing_was(
    tiny: Path, tmp_path: Path
) -> None:
    class Stopper(Callback):
        def on_iteration(self, trainer: Any, metrics: Any) -> bool:
            trainer.log({"user/step": trainer.done})
            return trainer.done < 2

    whole, cut = trainer(tiny), trainer(tiny, tmp_path, callbacks=[Stopper()])
    whole.run()
    cut.run()
    assert cut.done == 2
    resumed = trainer(tiny, tmp_path)
    resumed.resume()
    resumed.run()
    assert resumed.metrics["sft/loss"] == whole.metrics["sft/loss"]
    curves = read_metrics(tmp_path)
    assert [step for step, _ in curves["sft/loss"]] == [0, 1, 2, 3, 4, 5]
    assert curves["user/step"] == [(0, 1.0), (1, 2.0)]


def test_options_are_checked(tiny: Path) -> None:
    with pytest.raises(UsageError) as caught:
        SFTTrainer(load_model(tiny / "model"), demonstrations(tiny), SFTConfig(lr=-1.0))
    assert caught.value.where == "sft.lr=-1.0"


def test_the_split_into_microbatches_changes_nothing(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, sizes = [], list[int]()
    backward = SFTTrainer._backward

    def counted(self: SFTTrainer, rows: torch.Tensor, *, num_tokens: int) -> torch.Tensor:
        sizes.append(len(rows))
        return backward(self, rows, num_tokens=num_tokens)

    monkeypatch.setattr(SFTTrainer, "_backward", counted)
    for tokens in (10_000, 1):
        options = replace(CONFIG, microbatch_tokens=tokens, epochs=1)
        model = load_model(tiny / "model", device="cpu")
        run = SFTTrainer(model, unequal(tiny), options, ModelConfig(lora_rank=4))
        runs.append([metrics["sft/loss"] for metrics in run])
        runs.append([metrics["optim/grad_norm"] for metrics in [run.metrics]])
    assert sizes == [4, 4] + [1] * 8
    assert runs[0] == pytest.approx(runs[2], rel=1e-5)
    assert runs[1] == pytest.approx(runs[3], rel=1e-4)


def unequal(tiny: Path) -> Demonstrations:
    """Demonstrations of different lengths, whose mean of means is not the mean over tokens."""
    return Demonstrations.from_list(
        {
            "image": tiny / f"pictures/{n:05d}.png",
            "instruction": "What is it?",
            "response": "a red circle " * (1 + 3 * (n % 2)),
        }
        for n in range(8)
    )
