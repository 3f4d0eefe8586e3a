"""Supervised fine-tuning on demonstrations."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from rlhf.config.resolve import with_parts
from rlhf.config.schema import Config, ModelConfig, SFTConfig
from rlhf.config.validation import check_config
from rlhf.data.microbatching import microbatches
from rlhf.data.record_set import Demonstrations
from rlhf.kernels import token_logprobs
from rlhf.models.llava import Llava
from rlhf.models.lora import add_adapter, refuse_full_training
from rlhf.models.policy import POLICY, train_adapter
from rlhf.models.saving import save_trained
from rlhf.parallel.world import ALONE, World
from rlhf.storage.checkpoint import Checkpoint
from rlhf.tracking.console import track
from rlhf.tracking.tracker import Tracker
from rlhf.training.callbacks import Callback
from rlhf.training.checkpoint_manager import State, data_hash
from rlhf.training.data_order import num_steps
from rlhf.training.oom_retry import OOMRetry
from rlhf.training.run_files import required_directory
from rlhf.training.sharding import shard_models
from rlhf.training.supervised_loop import OptimizerLoop
from rlhf.training.trainer import Trainer
from rlhf.types import PromptBatch, Responses


class SFTTrainer(Trainer):
    """Minimizes -log π(response | image, instruction), mean over the response tokens of a batch.

    Args:
        model: the model, changed in place; its parameters that require a gradient are trained. If
            there are none, those that `training` names are.
        demonstrations: records, or n prompts and the n responses to them, encoded.
        config: the options.
        training: what `train` says trains: the adapter of the model or a fresh LoRA, or the whole
            language model with its embeddings and the projector.
        seed: of every random choice.
        callbacks: called at fixed points, in this order.
        run_dir: gets `metrics.jsonl` and checkpoints; None: no file is written.
        trackers: receive the metrics; None: TensorBoard, if there is a run directory.
        run_config: the options of the whole run, stored in its checkpoints; None: those above.
        world: this process among those of the run.

    Attributes:
        steps: planned optimizer steps.

    Raises:
        UsageError: an option is out of range, or the model cannot be trained in this way.
        DataError: a demonstration is too long.
    """

    command, final_metrics = "sft", ("sft/loss",)

    def __init__(
        self,
        model: Llava,
        demonstrations: Demonstrations | tuple[PromptBatch, Responses],
        config: SFTConfig | None = None,
        training: ModelConfig | None = None,
        *,
        seed: int = 0,
        callbacks: Sequence[Callback] = (),
        run_dir: str | Path | None = None,
        trackers: Sequence[Tracker] | None = None,
        run_config: Config | None = None,
        world: World = ALONE,
    ) -> None:
        self.config, self.llava, self.seed = config or SFTConfig(), model, seed
        training = training or ModelConfig()
        run_config = run_config or check_config(Config(sft=self.config, model=training, seed=seed))
        run_config = with_parts(run_config, world.size, self.command)
        if not any(value.requires_grad for value in model.model.parameters()):
            _make_trainable(model, training, seed)
        if isinstance(demonstrations, Demonstrations):
            demonstrations = demonstrations.encode(model)
        self.prompts, self.responses = demonstrations
        if run_config.parallel.parts > 1:
            model.prefix_cache.limit = 0  # a part depends on its own rows only
        self.steps = num_steps(len(self.prompts), self.config.batch_size, self.config.epochs)
        super().__init__(
            run_config,
            save_every=self.config.save_every,
            data=data_hash(self.prompts, self.responses),
            callbacks=callbacks,
            run_dir=run_dir,
            trackers=trackers,
            world=world,
        )
        if run_config.parallel.shard:
            self._check_processes(model.model.named_parameters())  # while they are whole
        optimizer = self.config.optimizer
        self.sharding = shard_models(run_config, optimizer, [model], [], world)
        self.optimizer_loop = OptimizerLoop(
            model.model.parameters(),
            self.config,
            self.steps,
            parts=run_config.parallel.parts,
            oom_retry=OOMRetry(self.config.batch_size, world),
            sharding=self.sharding,
        )

    @property
    def done(self) -> int:
        """Number of optimizer steps that are done."""
        return self.optimizer_loop.done

    def iterations(self) -> Iterator[dict[str, float]]:
        """Take the remaining optimizer steps, and yield the metrics of each."""
        loop = self.optimizer_loop
        self._check_processes(self.llava.model.named_parameters())
        with track("supervised training", self.steps, loop.done) as progress:
            for rows in loop.batches(len(self.prompts), seed=self.seed):
                self.metrics = self.step(rows)
                progress.advance(1, loss=self.metrics["sft/loss"])
                self.checkpoints.maybe_save(loop.done, last=loop.finished or self._stops)
                yield self.metrics
                if self._stops:
                    return

    def step(self, rows: Tensor) -> dict[str, float]:
        """Take one optimizer step and return its metrics, the loss before it in nats per token.

        Args:
            rows: [K] int64, indices of demonstrations.
        """
        step, num_tokens = self.optimizer_loop.done, int(self.responses.spans.lengths[rows].sum())
        backward = partial(self._backward, num_tokens=num_tokens)
        metrics, (loss,) = self.optimizer_loop.step(rows, self._microbatches, backward)
        metrics = self._with_user_metrics({**metrics, "sft/loss": loss})
        self.writer.scalars(metrics, step)
        return metrics

    def _microbatches(self, rows: Tensor, max_tokens: int) -> Iterator[Tensor]:
        """Split rows into microbatches of at most so many tokens."""
        batch = self.prompts.select(rows), self.responses.select(rows)
        return (rows[part] for part in microbatches(*batch, max_tokens))

    def _backward(self, rows: Tensor, *, num_tokens: int) -> Tensor:
        """Add the gradient of a microbatch; return its share of the loss, [1]."""
        responses = self.responses.select(rows)
        hidden_states = self.llava.response_hidden_states(self.prompts.select(rows), responses)
        logprobs, _ = token_logprobs(hidden_states, self.llava.output_weight, responses.tokens)
        loss = -logprobs.sum() / num_tokens
        loss.backward()
        return loss.detach().reshape(1)

    def state(self) -> State:
        """Everything that training changes."""
        tensors, values = self.optimizer_loop.state()
        return State(tensors, {"optimizer_loop": values, "metrics": self.metrics})

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue from a checkpoint exactly as an uninterrupted run."""
        self.optimizer_loop.restore(checkpoint)
        self.metrics = checkpoint.state["metrics"]
        self.checkpoints.resume(checkpoint)

    def save(self, directory: str | Path | None = None) -> Path:
        """Write the model to model/ of the directory, or its adapter to adapter/."""
        place = required_directory(directory, self.run_dir)
        metrics = self.summary()
        save = partial(save_trained, self.llava, place, command="sft", metrics=metrics)
        with self.sharding.saving():
            self.world.first(save)
        return place

    def summary(self) -> dict[str, float]:
        """The last loss, the number of demonstrations and of planned optimizer steps."""
        loss = self.metrics.get("sft/loss", 0.0)
        return {"loss": loss, "demonstrations": len(self.prompts), "steps": self.steps}


def _make_trainable(llava: Llava, training: ModelConfig, seed: int) -> None:
    """Make all of a model trainable, the adapter it was loaded with, or a fresh one."""
    llava.gradient_checkpointing |= training.gradient_checkpointing is True
    if training.train == "full":
        refuse_full_training(llava.adapter_dir, "model.train=full")
        llava.train_language_model(embeddings=True)
    elif llava.adapter_dir is not None:
        train_adapter(llava, llava.adapter_dir)
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            add_adapter(llava.adapters, POLICY, training)
