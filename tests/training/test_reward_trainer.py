"""Training of reward models: it learns, stops in time, and normalises on the training pairs."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf.config.schema import RewardConfig
from rlhf.data.record_set import Preferences
from rlhf.errors import DataError
from rlhf.models.llava import Llava
from rlhf.rewards.base import RewardModel
from rlhf.rewards.loading import build_reward_model
from rlhf.rewards.reward import load_reward
from rlhf.rewards.reward_card import RewardCard
from rlhf.tracking.reader import read_metrics
from rlhf.training.oom_retry import OOMRetry
from rlhf.training.reward_trainer import RewardTrainer
from rlhf.types import PreferenceBatch, PromptBatch, Responses
from tests.support import reward_models as kit
from tests.support import tiny_models

pytestmark = pytest.mark.usefixtures("low_floor")


def train(
    model: RewardModel,
    reward: RewardConfig,
    pairs: PreferenceBatch,
    held_out: PreferenceBatch,
    directory: Path,
    steps: int = 0,
) -> int:
    trainer = RewardTrainer(
        model, pairs, reward, validation=held_out, steps=steps, run_dir=directory
    )
    trainer.run()
    return trainer.best_step


def both_scores(model: RewardModel, pairs: PreferenceBatch) -> torch.Tensor:
    return model.scores(*pairs.stacked(), max_tokens=9999)


@pytest.mark.parametrize("train_what", ["head", "lora"])
@pytest.mark.parametrize("kind", kit.KINDS)
def test_an_easy_preference_is_learnt_and_nothing_else_moves(
    llava: Llava, tiny: Path, text_model: Path, tmp_path: Path, kind: str, train_what: str
) -> None:
    reward = kit.options(kind, text_model, train_what, epochs=20, lr=3e-2)
    model, pairs = kit.build(llava, reward), kit.pairs_of(llava, tiny)
    before = {name: value.clone() for name, value in model.backbone().named_parameters()}
    base_model = {name: value.clone() for name, value in llava.model.named_parameters()}
    train(model, reward, pairs, pairs, tmp_path)
    for network, old in ((model.backbone(), before), (llava.model, base_model)):
        for name, value in network.named_parameters():
            assert "lora_" in name or torch.equal(value, old[name]), name
    scores = both_scores(model, pairs)
    chosen, rejected = scores.chunk(2)
    assert (chosen > rejected).all()
    assert float(scores.mean()) == pytest.approx(0, abs=1e-4)
    assert float(scores.std(correction=0)) == pytest.approx(1, abs=1e-3)


def test_scores_are_normalised_on_the_training_pairs(
    llava: Llava, tiny: Path, tmp_path: Path
) -> None:
    reward = kit.options("llava_head", train="head")
    model, pairs = kit.build(llava, reward), kit.pairs_of(llava, tiny)
    held_out = pairs.select(torch.tensor([0, 1]))
    train(model, reward, pairs, held_out, tmp_path)
    assert float(both_scores(model, pairs).mean()) == pytest.approx(0, abs=1e-4)
    assert abs(float(both_scores(model, held_out).mean())) > 1e-3


def test_frozen_features_are_computed_once(
    llava: Llava, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    states = Llava.response_and_final_hidden_states
    monkeypatch.setattr(
        Llava, "response_and_final_hidden_states", lambda *args: (calls.append(1), states(*args))[1]
    )
    pairs, counts = kit.pairs_of(llava, tiny), {}
    for trained_part in ("head", "lora"):
        calls.clear()
        reward = kit.options("llava_head", train=trained_part, epochs=8, batch_size=4)
        model = kit.build(tiny_models.load(tiny), reward)
        train(model, reward, pairs, pairs.select(torch.arange(0)), tmp_path / trained_part)
        counts[trained_part] = len(calls)
    assert counts == {"head": 1, "lora": 1 + 8 * 2 + 1}  # the start, the steps, the scale


def test_training_by_cached_features_is_training(llava: Llava, tiny: Path, tmp_path: Path) -> None:
    """Two steps of the head by hand, from features computed anew for each."""
    reward = kit.options("llava_state", train="head", epochs=2, batch_size=8, warmup_steps=0)
    model, pairs = kit.build(llava, reward), kit.pairs_of(llava, tiny)
    train(model, reward, pairs, pairs, tmp_path)
    weight = torch.zeros(1, 32, requires_grad=True)
    bias = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.AdamW([weight, bias], lr=1e-2, weight_decay=0.0)
    for rate in (1e-2, 5e-3):
        with torch.no_grad():
            features = model.head_inputs(*pairs.stacked())
        chosen, rejected = (features @ weight.T + bias).squeeze(1).chunk(2)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        (-(chosen - rejected).sigmoid().log()).mean().backward()
        torch.nn.utils.clip_grad_norm_([weight, bias], 1.0)
        optimizer.step()
    torch.testing.assert_close(model.head.linear.weight, weight, atol=1e-6, rtol=1e-4)


def run_without_patience(
    llava: Llava, pairs: PreferenceBatch, held_out: PreferenceBatch, directory: Path
) -> int:
    """The last weights are kept, and so the steps are all of them."""
    reward = kit.options("llava_head", train="head", epochs=50, lr=0.1, batch_size=8)
    return train(kit.build(llava, reward), reward, pairs, held_out, directory)


def test_the_best_weights_by_held_out_loss_are_kept(
    llava: Llava, tiny: Path, tmp_path: Path
) -> None:
    """Held-out labels against the training's: each step is worse, the first look the best."""
    reward = kit.options(
        "llava_head",
        train="head",
        epochs=50,
        lr=0.1,
        early_stopping_patience=3,
        evaluate_every=1,
        batch_size=8,
    )
    model, pairs = kit.build(llava, reward), kit.pairs_of(llava, tiny)
    opposite = PreferenceBatch(pairs.prompts, pairs.rejected, pairs.chosen, pairs.labels)
    assert train(model, reward, pairs, opposite, tmp_path / "stopped") == 1
    losses = read_metrics(tmp_path / "stopped")["reward/validation_loss"]
    assert [step for step, _ in losses] == [1, 2, 3, 4]  # three looks without a better one
    assert run_without_patience(llava, pairs, opposite, tmp_path / "on") == 50
    one_step = kit.build(llava, reward)
    train(one_step, reward, pairs, pairs.select(torch.arange(0)), tmp_path / "once", steps=1)
    best_weight, first_weight = model.head.linear.weight, one_step.head.linear.weight
    # The rate of one planned step is that of the first of fifty.
    torch.testing.assert_close(best_weight, first_weight)


def test_ties_count_half_margin_and_centering_reach_the_loss(
    llava: Llava, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One look at the loss of a head that passes on the log-likelihoods."""
    monkeypatch.setattr(RewardTrainer, "_init_logprob_weight", lambda trainer: None)
    pairs = kit.pairs_of(llava, tiny, [1.0] * 4 + [0.5] * 4)
    losses = {}
    variants: dict[str, dict[str, Any]] = {
        "plain": {},
        "margin": {"margin": 2.0},
        "centering": {"center_coef": 0.5},
        "smoothing": {"label_smoothing": 0.25},
    }
    for name, changes in variants.items():
        reward = kit.options("llava_head", train="head", epochs=1, batch_size=8, **changes)
        model = kit.build(llava, reward)
        scores = both_scores(model, pairs)
        train(model, reward, pairs, pairs, tmp_path / name)
        losses[name] = read_metrics(tmp_path / name)["reward/loss"][0][1]
    chosen, rejected = (part.double() for part in scores.chunk(2))
    d, y = chosen - rejected, pairs.labels.double()

    def loss(d: torch.Tensor, y: torch.Tensor) -> float:
        return float(-(y * d.sigmoid().log() + (1 - y) * (-d).sigmoid().log()).mean())

    assert losses["plain"] == pytest.approx(loss(d, y), abs=1e-4)
    assert losses["margin"] == pytest.approx(loss(torch.where(y == 1, d - 2, d), y), abs=1e-4)
    centred = loss(d, y) + 0.5 * float((chosen + rejected).square().mean())
    assert losses["centering"] == pytest.approx(centred, rel=1e-4)
    assert losses["smoothing"] == pytest.approx(loss(d, 0.75 * y + 0.25 * (1 - y)), abs=1e-4)


def test_the_curves_hold_training_and_held_out_loss(
    llava: Llava, tiny: Path, tmp_path: Path
) -> None:
    reward = kit.options("llava_head", train="head", epochs=3, batch_size=4)
    model, pairs = kit.build(llava, reward), kit.pairs_of(llava, tiny)
    train(model, reward, pairs, pairs, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in lines if "reward/loss" in row] == [1, 2, 3, 4, 5, 6]
    assert [row["step"] for row in lines if "reward/validation_loss" in row] == [2, 4, 6]


@pytest.mark.parametrize("train_what", ["head", "lora"])
def test_the_likelihood_starts_with_differences_of_about_2(
    llava: Llava, tiny: Path, tmp_path: Path, train_what: str
) -> None:
    """The rate is next to nothing, so that nothing else moves."""
    reward = kit.options("llava_head", train=train_what, epochs=1, lr=1e-12, batch_size=8)
    pairs = kit.pairs_of(llava, tiny)
    model = kit.build(llava, reward)
    plain = both_scores(model, pairs)
    train(model, reward, pairs, pairs, tmp_path)
    weight = model.head.linear.weight[0].detach()
    assert float(weight[:-1].abs().max()) < 1e-9
    chosen, rejected = (float(weight[-1]) * plain).chunk(2)
    assert float((chosen - rejected).square().mean()) == pytest.approx(4, rel=1e-4)


def preferences(tiny: Path, ties: int = 0) -> Preferences:
    rows = [
        {
            "image": tiny / f"pictures/{n:05d}.png",
            "instruction": "What is it?",
            "response_a": "a red circle",
            "response_b": "I do not know what it is.",
            "preference": "tie" if n < ties else "a",
        }
        for n in range(8)
    ]
    return Preferences.from_list(rows)


def test_a_reward_is_trained_saved_and_loaded_in_python(
    llava: Llava, tiny: Path, tmp_path: Path
) -> None:
    options = kit.options("llava_head", train="head")
    trainer = RewardTrainer(
        build_reward_model(llava, options),
        preferences(tiny),
        options,
        validation=preferences(tiny),
        run_dir=tmp_path,
    )
    losses = [metrics["reward/loss"] for metrics in trainer]
    assert losses[-1] < losses[0] and len(losses) == trainer.best_step == 8
    assert len(read_metrics(tmp_path)["reward/validation_accuracy"]) == 8
    scorer = load_reward(trainer.save()).scorer(llava, share_base_model=True)
    pairs = preferences(tiny).encode(llava)
    assert torch.equal(
        scorer.scores(*pairs.stacked(), max_tokens=9999), both_scores(trainer.model, pairs)
    )


def test_ties_are_dropped_on_request_and_may_not_be_all(llava: Llava, tiny: Path) -> None:
    half, drop = (RewardConfig(train="head", ties=ties) for ties in ("half", "drop"))  # type: ignore[arg-type]
    model = build_reward_model(llava, half)
    assert len(RewardTrainer(model, preferences(tiny, ties=3), half)._pairs) == 8
    assert len(RewardTrainer(model, preferences(tiny, ties=3), drop)._pairs) == 5
    with pytest.raises(DataError, match="no decided pair"):
        RewardTrainer(model, preferences(tiny, ties=8), half)


def test_a_text_reward_model_reads_pairs_without_a_llava(
    llava: Llava, tiny: Path, text_model: Path, tmp_path: Path
) -> None:
    options = kit.options("caption_text", text_model, "head", epochs=1)
    model = build_reward_model(llava, options)
    trainer = RewardTrainer(model, preferences(tiny), options)
    trainer.run()
    card = RewardCard.read(str(trainer.save(tmp_path)))[1]
    assert (card.captioner, card.caption_instruction) == (llava.base, options.caption_instruction)


def test_a_resumed_training_has_every_step_once_and_ends_the_same(
    tiny: Path, tmp_path: Path
) -> None:
    options = kit.options("llava_head", train="head", save_every=1)

    def trainer(name: str) -> RewardTrainer:
        model = build_reward_model(tiny_models.load(tiny), options)
        return RewardTrainer(
            model, preferences(tiny), options, validation=preferences(tiny), run_dir=tmp_path / name
        )

    whole, cut, resumed = trainer("whole"), trainer("cut"), trainer("cut")
    whole.run()
    for _ in cut:
        if cut.done == 3:
            break
    resumed.resume()
    resumed.run()
    curves = [read_metrics(tmp_path / name) for name in ("whole", "cut")]
    assert curves[0] == curves[1]
    assert [step for step, _ in curves[1]["reward/loss"]] == list(range(1, 9))
    assert torch.equal(resumed.model.head.linear.weight, whole.model.head.linear.weight)


@pytest.mark.parametrize("kind", kit.KINDS)
def test_a_pair_is_a_microbatch_at_least_and_the_split_changes_nothing(
    tiny: Path, text_model: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    curves, sizes = [], list[int]()
    backward = RewardTrainer._backward

    def counted(self: RewardTrainer, rows: torch.Tensor, *, pair_count: int) -> torch.Tensor:
        sizes.append(len(rows))
        return backward(self, rows, pair_count=pair_count)

    monkeypatch.setattr(RewardTrainer, "_backward", counted)
    for tokens in (10_000, 1):
        limits = {"microbatch_tokens": tokens, "epochs": 1, "batch_size": 4}
        losses = {"center_coef": 0.1, "label_smoothing": 0.1, "margin": 0.5}
        options = kit.options(kind, text_model, "lora", **limits, **losses)
        torch.manual_seed(0)
        llava = tiny_models.load(tiny)
        model, pairs = kit.build(llava, options), kit.pairs_of(llava, tiny, [1.0, 0.5] * 4)
        kit.shake(model)
        metrics = [*RewardTrainer(model, pairs, options)]
        curves.append({name: [step[name] for step in metrics] for name in metrics[0]})
    assert sizes == [4, 4] + [1] * 8
    assert curves[0].keys() >= {"reward/loss", "reward/accuracy", "reward/margin"}
    for name, values in curves[0].items():
        assert curves[1][name] == pytest.approx(values, rel=1e-4), name


def test_a_frozen_backbone_runs_once_and_is_split_if_memory_runs_out(
    llava: Llava, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = kit.options("llava_head", train="head", epochs=1, batch_size=4)
    model, rows = kit.build(llava, options), list[int]()
    head_inputs = model.head_inputs

    def limited(prompts: PromptBatch, responses: Responses) -> torch.Tensor:
        if len(responses) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB")
        rows.append(len(responses))
        return head_inputs(prompts, responses)

    monkeypatch.setattr(model, "head_inputs", limited)
    monkeypatch.setattr("rlhf.training.reward_trainer.OOMRetry", lambda *_: OOMRetry(4096))
    RewardTrainer(model, kit.pairs_of(llava, tiny), options).run()
    assert sum(rows) == 16 and max(rows) <= 5
