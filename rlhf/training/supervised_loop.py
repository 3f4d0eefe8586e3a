"""The optimizer loop of supervised and reward-model training."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

from torch import Tensor, nn

from rlhf.config.schema import RewardConfig, SFTConfig
from rlhf.errors import DivergedError
from rlhf.models.sharding import ShardedModels, shard_like
from rlhf.storage.checkpoint import Checkpoint, optimizer_tensors, restore_optimizer
from rlhf.tracking.activity import working
from rlhf.training.checkpoint_manager import by_index, restore_parameters
from rlhf.training.data_order import shuffled_batches
from rlhf.training.gradient_accumulation import GradientAccumulator, Statistics
from rlhf.training.gradients import clip_gradients, finite
from rlhf.training.oom_retry import OOMRetry
from rlhf.training.optimizers import adamw

MIN_LR_MULTIPLIER = 0.05  # of the peak learning rate, at the end of the decay


class OptimizerLoop:
    """AdamW steps over shuffled batches, with gradient clipping and a linear schedule.

    The learning rate at step k of n, with w warm-up steps, is

        lr·min((k + 1) / w, max(0.05, min(1, (n - k) / (n - w))))

    Args:
        parameters: the model's parameters; those that require a gradient are trained.
        options: optimizer, lr, warmup_steps, weight_decay, max_grad_norm, batch_size,
            microbatch_tokens, epochs.
        steps: planned optimizer steps n, over which the learning rate decays.
        num_sums: S, number of sums that are measured in each step; the first is the loss.
        parts: consecutive parts that a batch is cut into, whose gradients are summed in a tree.
        oom_retry: splits microbatches after out-of-memory errors, and knows the processes of the
            run, which train the same weights; None: one process.
        sharding: the models, sharded over the processes; None: they are whole.

    Attributes:
        done: optimizer steps taken so far.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        options: SFTConfig | RewardConfig,
        steps: int,
        *,
        num_sums: int = 1,
        parts: int = 1,
        oom_retry: OOMRetry | None = None,
        sharding: ShardedModels | None = None,
    ) -> None:
        self.options, self.steps, self.parts = options, steps, parts
        self.oom_retry = oom_retry or OOMRetry(options.batch_size)
        self.sharding = sharding or ShardedModels(world=self.oom_retry.world)
        self.done = 0
        self.parameters = [value for value in parameters if value.requires_grad]
        self.optimizer = adamw(
            options.optimizer, self.parameters, lr=options.lr, weight_decay=options.weight_decay
        )
        self.accumulator = GradientAccumulator[Tensor](
            self.parameters, options.microbatch_tokens, num_sums, self.oom_retry, self.sharding
        )

    @property
    def finished(self) -> bool:
        """Whether all planned steps are done."""
        return self.done >= self.steps

    @property
    def lr_multiplier(self) -> float:
        """Learning rate of the next step as a fraction of the configured one."""
        warmup = (self.done + 1) / max(1, self.options.warmup_steps)
        decay = (self.steps - self.done) / max(1, self.steps - self.options.warmup_steps)
        return min(warmup, max(MIN_LR_MULTIPLIER, min(1.0, decay)))

    def batches(self, num_rows: int, *, seed: int) -> Iterator[Tensor]:
        """Row indices of each remaining optimizer step.

        Args:
            num_rows: rows of the training set; every epoch visits each row once.
            seed: seed of the order, see `shuffled_batches`.
        """
        options = self.options
        order = shuffled_batches(num_rows, options.batch_size, seed=seed, epochs=options.epochs)
        return islice(order, self.done, None)

    def step(
        self,
        rows: Tensor,
        microbatches: Callable[[Tensor, int], Iterable[Tensor]],
        backward: Callable[[Tensor], Tensor],
    ) -> tuple[dict[str, float], list[float]]:
        """Take one optimizer step on the mean loss of a batch.

        Args:
            rows: [K] int64, indices of the batch.
            microbatches: splits rows into microbatches of at most so many tokens.
            backward: adds the gradient of the rows [k] of a microbatch, with every mean divided by
                the count of the batch, and returns what it measures, [S] sums.

        Returns:
            The metrics `optim/grad_norm` (before clipping) and `lr` (of this step), and the S sums
            over the batch.

        Raises:
            DivergedError: the loss or its gradient is not finite; no step was taken.
        """
        parts = rows.tensor_split(self.parts)
        own = [parts[number] for number in self.oom_retry.world.share(self.parts)]
        with working("optimizer step"):
            result = self.accumulator.run(
                own, microbatches, lambda part: Statistics(backward(part)), rows
            )
        with self.sharding.world.collectives():
            norm = clip_gradients(self.parameters, self.options.max_grad_norm)
        sums: list[float] = result.sums.tolist()
        if not finite(sums[0], norm):
            raise DivergedError(
                f"the loss is {sums[0]}, the gradient norm {norm}",
                f"optimizer step {self.done}",
                "lower the learning rate",
            )
        lr = self.options.lr * self.lr_multiplier
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        self.done += 1
        return {"optim/grad_norm": norm, "lr": lr}, sums

    def state(self) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
        """Tensors of parameters and optimizer by part and name, and all other state as JSON.

        Tensors are on process 0 only; all processes call this together.
        """
        tensors, values = optimizer_tensors(self.optimizer, self.sharding.gather)
        parameters = self.sharding.gather_all(by_index(self.parameters))
        parts = {"parameters": parameters, "optimizer": tensors}
        splits = self.oom_retry.num_splits
        return parts, {"done": self.done, "optimizer": values, "num_splits": splits}

    def restore(self, checkpoint: Checkpoint) -> None:
        """Restore the state from the checkpoint of a loop with the same parameters.

        Raises:
            DataError: the parameters in the checkpoint have other names or shapes.
        """
        restore_parameters(by_index(self.parameters), checkpoint, "parameters")
        state = checkpoint.state["optimizer_loop"]
        tensors = checkpoint.tensors["optimizer"]
        restore_optimizer(self.optimizer, tensors, state["optimizer"], shard_like)
        self.done, self.oom_retry.num_splits = state["done"], state["num_splits"]
