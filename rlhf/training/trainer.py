"""What all trainers share: iteration, callbacks, metrics, checkpoints."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from filelock import FileLock
from torch import Tensor

from rlhf.config.schema import Config
from rlhf.errors import UsageError
from rlhf.models.sharding import ShardedModels, is_sharded
from rlhf.parallel.world import ALONE, World
from rlhf.storage.checkpoint import Checkpoint, restoring
from rlhf.storage.hashing import hash_tensors, text_hash
from rlhf.storage.run_directory import lock_directory
from rlhf.tracking.metrics import check_user_names
from rlhf.tracking.tracker import Tracker
from rlhf.tracking.writer import MetricsWriter
from rlhf.training.callbacks import Callback, call
from rlhf.training.checkpoint_manager import CheckpointManager, State
from rlhf.training.run_files import load_run_checkpoint, open_writer


class Trainer(ABC):
    """A training loop that writes metrics and checkpoints and can be resumed.

    Iterating over a trainer takes one iteration at a time and yields its metrics; `run` takes all.

    Args:
        run_config: the options of the whole run, stored in its checkpoints.
        save_every: iterations between two checkpoints; 0: only at the end.
        data: `data_hash` of the training data.
        callbacks: called at fixed points, in this order.
        run_dir: gets `metrics.jsonl` and checkpoints; None: no file is written.
        trackers: receive the metrics; None: TensorBoard, if there is a run directory.
        world: this process among those of the run; process 0 writes all files.

    Attributes:
        command: name of the command that runs the loop.
        first_step: the number under which the first iteration is logged.
        final_metrics: names of the metrics that runs are compared by.
        metrics: of the last iteration.
        checkpoints: saves the state of the loop.
        sharding: the models, if they are sharded over the processes.
    """

    command: ClassVar[str]
    first_step: ClassVar[int] = 0
    final_metrics: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        run_config: Config,
        *,
        save_every: int,
        data: str,
        callbacks: Sequence[Callback] = (),
        run_dir: str | Path | None = None,
        trackers: Sequence[Tracker] | None = None,
        world: World = ALONE,
    ) -> None:
        self.run_config, self.callbacks, self.world = run_config, list(callbacks), world
        self.run_dir = None if run_dir is None else Path(run_dir)
        self.metrics: dict[str, float] = {}
        self._trackers, self._closes = trackers if world.is_first else [], True
        self._writer: MetricsWriter | None = None
        self._user_metrics, self._stops = dict[str, float](), False
        self.sharding = ShardedModels(world=world)
        self.checkpoints = CheckpointManager(
            self.command,
            run_config,
            self.run_dir,
            save_every,
            self.state,
            data,
            self._on_save,
            world,
        )

    @property
    def writer(self) -> MetricsWriter:
        """Writes the metrics; opened when it is first used. One that is set is not closed."""
        if self._writer is None:
            saved = self.checkpoints.saved
            step = None if saved is None else self.first_step + saved
            final, config = self.final_metrics, self.run_config
            run_dir = self.world.owned(self.run_dir)
            self._writer = open_writer(run_dir, self._trackers, step, final, config)
        return self._writer

    @writer.setter
    def writer(self, writer: MetricsWriter) -> None:
        self._writer, self._closes = writer, False

    @abstractmethod
    def iterations(self) -> Iterator[dict[str, float]]:
        """Take the remaining iterations, and yield the metrics of each."""

    @property
    @abstractmethod
    def done(self) -> int:
        """Number of iterations that are done."""

    @abstractmethod
    def state(self) -> State:
        """Everything that training changes."""

    @abstractmethod
    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue from a checkpoint exactly as an uninterrupted run.

        Raises:
            DataError: the parameters in the checkpoint have other names or shapes.
            UsageError: the data have changed since the run began.
        """

    @abstractmethod
    def save(self, directory: str | Path | None = None) -> Path:
        """Write what was trained.

        Args:
            directory: where to; None: the run directory.

        Returns:
            The directory.

        Raises:
            UsageError: there is no directory.
        """

    def __iter__(self) -> Iterator[dict[str, float]]:
        """Take the remaining iterations, and yield the metrics of each.

        The run directory is locked meanwhile.

        Raises:
            DirectoryInUseError: another run writes to the run directory.
            DivergedError: losses or weights are not finite.
            StoppedError: a signal stopped the run; a checkpoint is saved first.
        """
        self._stops = False
        with self._locked_run_dir():
            with self.checkpoints.catch_signals():
                yield from self.iterations()
            with self.sharding.whole(bool(self.callbacks)):
                call(self.callbacks, "on_end", self)
            if self._closes:
                self.writer.finish()
                self.writer.close()

    def run(self) -> dict[str, float]:
        """Take all remaining iterations, save a checkpoint at the end and every `save_every`.

        Returns:
            The metrics of the last iteration.

        Raises:
            DirectoryInUseError: another run writes to the run directory.
            DivergedError: losses or weights are not finite.
            StoppedError: a signal stopped the run; a checkpoint is saved first.
        """
        for _ in self:
            pass
        return self.metrics

    @contextmanager
    def _locked_run_dir(self) -> Iterator[None]:
        """Keep other runs out of the run directory, unless the command that runs this does so."""
        locks, directory = list[FileLock](), self.run_dir
        if directory and self.checkpoints.resume_command is None:
            self.world.first(lambda: locks.append(lock_directory(directory)))
        try:
            yield
        finally:
            for lock in locks:
                lock.release()

    def log(self, values: Mapping[str, float]) -> None:
        """Write metrics of one's own with those of the iteration that runs.

        Args:
            values: by name; each name begins with `user/`.

        Raises:
            UsageError: a name begins otherwise.
        """
        check_user_names(values)
        self._user_metrics |= {name: float(value) for name, value in values.items()}

    def save_checkpoint(self) -> Path:
        """Write a checkpoint of everything that training changes and return its path.

        Raises:
            UsageError: the run has no directory.
        """
        return self.checkpoints.save(self.done)

    def resume(self) -> None:
        """Continue from the newest checkpoint of the run directory; call it before the run.

        Raises:
            UsageError: the run has no directory, or options, frozen weights or data are not those
                that it began with.
            NoCheckpointError: there is no checkpoint.
            DataError: every checkpoint is damaged.
        """
        if self.run_dir is None:
            what, fix = "a run without files cannot be resumed", "name a run_dir"
            raise UsageError(what, "run_dir=None", fix)
        checkpoint = load_run_checkpoint(self.run_dir / "checkpoints", self.run_config)
        with restoring(checkpoint):
            self.restore(checkpoint)

    def _check_processes(self, named_tensors: Iterable[tuple[str, Tensor]]) -> None:
        """Refuse processes whose weights or training data differ.

        Args:
            named_tensors: all weights, by name; sharded ones are left out.

        Raises:
            DataError: those of a process are not those of process 0.
        """

        def value() -> str:
            whole = ((name, value) for name, value in named_tensors if not is_sharded(value))
            return text_hash(f"{hash_tensors(whole)} {self.checkpoints.data}")

        self.world.same("weights or training data", value)

    def _with_user_metrics(self, metrics: dict[str, float]) -> dict[str, float]:
        """Call `on_iteration`, and return the metrics with those that the user logged."""
        metrics = metrics | self._user_metrics
        with self.sharding.whole(bool(self.callbacks)):
            stops = not call(self.callbacks, "on_iteration", self, metrics)
        self._stops |= bool(self.world.most(stops))
        metrics, self._user_metrics = metrics | self._user_metrics, {}
        return metrics

    def _on_save(self, path: Path) -> None:
        call(self.callbacks, "on_save", self, path)
