"""The one list of metric names, and where they go: TensorBoard and `metrics.jsonl`."""

import json
import re
import textwrap
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Self

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from rlhf.storage.atomic import write_whole
from rlhf.tracking.console import say
from rlhf.tracking.reader import whole_lines

METRICS: dict[str, str] = {
    "objective/kl": "KL(policy ‖ reference), sum over a response, mean, nats",
    "objective/entropy": "-logprob of the sampled tokens, sum over a response, mean, nats",
    "objective/non_score_reward": "KL penalty, sum over a response, mean, score units",
    "objective/rlhf_reward": "score plus KL penalty, mean over responses, score units",
    "objective/scores": "score, mean over responses, reward-model units",
    "objective/scores_std": "score, standard deviation over responses, reward-model units",
    "objective/score_scale": "what normalize_scores divides by, reward-model units",
    "objective/kl_coef": "weight of the KL penalty, score units a nat",
    "policy/approxkl_avg": "KL(old ‖ new policy), mean over tokens and steps, nats a token",
    "policy/clipfrac_avg": "share of tokens whose ratio was clipped, 0 to 1",
    "policy/entropy_avg": "entropy of the policy, mean over tokens, nats a token",
    "loss/policy_avg": "clipped policy loss, mean over tokens",
    "loss/value_avg": "value loss, mean over tokens, squared score units",
    "loss/kl_avg": "KL penalty in the loss before kl_coef, mean over tokens, nats",
    "val/clipfrac_avg": "share of tokens whose value was clipped, 0 to 1",
    "val/ratio": "new over old probability, mean over tokens",
    "val/ratio_var": "variance of val/ratio over the optimizer steps",
    "val/first_step_ratio_gap": "largest |ratio - 1| at the first optimizer step of a rollout",
    "val/num_eos_tokens": "responses that ended by themselves, count",
    "val/explained_variance": "1 - var(return - value) / var(return), at most 1",
    "ppo/returns/mean": "return, mean over tokens, score units",
    "ppo/returns/var": "return, variance over tokens, squared score units",
    "ppo/policy/approxkl": "policy/approxkl_avg under its older name, nats a token",
    "tokens/responses_len_mean": "response length, mean, tokens",
    "tokens/responses_len_std": "response length, standard deviation, tokens",
    "tokens/eos_rate": "share of responses that ended by themselves, 0 to 1",
    "text/rep4": "share of four-word runs seen before in the response, 0 to 1",
    "text/zlib_ratio": "bytes over compressed bytes of a response, mean; high is repetitive",
    "text/distinct": "distinct responses over responses, 0 to 1",
    "vision/grounding_gap": "logprob with the image minus with a wrong one, nats a token",
    "rollout/logprob_diff_abs_mean": "|generator - trainer| logprob, mean over tokens, nats",
    "rollout/unscored": "responses that the scorer could not score, count",
    "rollout/logprob_diff_abs_max": "|generator - trainer| logprob, largest, nats",
    "optim/grad_norm": "gradient norm before clipping",
    "optim/grad_norm_policy": "gradient norm of the policy before clipping",
    "optim/grad_norm_critic": "gradient norm of the critic before clipping",
    "optim/skipped_steps": "optimizer steps skipped in this update, not finite, count",
    "lr": "learning rate of the first parameter group",
    "time/rollout": "sampling and scoring, seconds",
    "time/update": "optimizer steps, seconds",
    "time/vision": "vision tower, seconds; this and the next with ppo.profile=true",
    "time/prefill": "reading the prompts to answer, seconds",
    "time/decode": "generating all tokens but the first, seconds",
    "time/old_logprobs": "the rollout's log-probabilities, seconds",
    "time/values": "the rollout's values, what the policy's pass does not give, seconds",
    "time/ref_logprobs": "the reference's log-probabilities, seconds",
    "time/scores": "scores, seconds",
    "time/advantages": "rewards, returns and advantages, seconds",
    "time/forward": "losses of the update, seconds",
    "time/backward": "their gradients, seconds",
    "time/optimizer": "clipping and moving the weights, seconds",
    "time/save": "writing a checkpoint, seconds",
    "time/other": "the rest since the iteration before, seconds",
    "throughput/tokens_per_second": "tokens through the step a second",
    "memory/peak_gb": "peak memory, GB",
    "episode": "responses sampled since the beginning, count",
    "sft/loss": "cross-entropy of the answer tokens, nats a token",
    "reward/loss": "preference loss, nats a pair",
    "reward/accuracy": "pairs with chosen scored above rejected, 0 to 1",
    "reward/margin": "score of chosen minus rejected, mean, reward-model units",
    "reward/validation_accuracy": "reward/accuracy on held-out pairs, 0 to 1",
    "reward/validation_loss": "preference loss on held-out pairs, nats a pair; log 2 is chance",
    "reward/calibration_error": "|share right - σ(margin)|, mean over held-out pairs, 0 to 1",
    "reward/length_correlation": "of score and words, over held-out responses, -1 to 1",
    "reward/longer_scored_higher": "held-out pairs whose longer response scores higher, 0 to 1",
    "reward/blind_accuracy_shuffled": "validation_accuracy with the images of others, 0 to 1",
    "reward/blind_accuracy_blank": "validation_accuracy with a blank image, 0 to 1",
    "reward/blindness_gap": "validation_accuracy minus the better blinded one; 0: no image read",
}

_PAGES = {  # TensorBoard's custom scalars: page, chart, lines
    "PPO health": {
        "Reward": ("objective/scores", "objective/rlhf_reward", "objective/non_score_reward"),
        "Distance": ("objective/kl", "policy/approxkl_avg", "policy/clipfrac_avg"),
        "Critic": ("val/explained_variance", "loss/value_avg"),
        "Answers": ("tokens/responses_len_mean", "tokens/eos_rate", "text/rep4", "text/distinct"),
    },
    "Reward": {
        "Scores": ("objective/scores", "objective/scores_std"),
        "Penalty": ("objective/kl", "objective/kl_coef", "objective/non_score_reward"),
        "Reward model": ("reward/loss", "reward/validation_loss"),
        "Right": ("reward/accuracy", "reward/validation_accuracy"),
        "Sight": ("vision/grounding_gap", "reward/blindness_gap"),
    },
    "Speed": {
        "Iteration": ("time/rollout", "time/update"),
        "Tokens a second": ("throughput/tokens_per_second",),
        "Memory": ("memory/peak_gb",),
        "Rollout": (
            "time/prefill",
            "time/decode",
            "time/old_logprobs",
            "time/ref_logprobs",
            "time/scores",
        ),
        "Update": ("time/forward", "time/backward", "time/optimizer"),
    },
}


@dataclass(frozen=True)
class Sample:
    """One answered image, to be looked at."""

    image: Image.Image
    instruction: str
    response: str
    score: float


class MetricsWriter:
    """Writes TensorBoard events and `metrics.jsonl` into a directory, made when missing.

    Given a `purge_step` (a resume), what was written for this step and later is dropped.
    """

    def __init__(self, directory: Path, purge_step: int | None = None) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        path, fresh = directory / "metrics.jsonl", directory / "metrics.tmp"
        kept = whole_lines(path)
        if purge_step is not None:
            kept = [line for line in kept if json.loads(line)["step"] < purge_step]
        fresh.write_text("".join(f"{line}\n" for line in kept))
        self._jsonl = fresh.replace(path).open("ab", buffering=0)
        self._complete = True
        self._board = SummaryWriter(str(directory), purge_step=purge_step, flush_secs=10)
        if purge_step is None:
            self._lay_out()

    def _lay_out(self) -> None:
        # TensorBoard matches tags as prefixes: without `$` objective/kl also draws kl_coef.
        self._board.add_custom_scalars(
            {
                page: {k: ["Multiline", [f"{name}$" for name in v]] for k, v in charts.items()}
                for page, charts in _PAGES.items()
            }
        )

    def hparams(self, options: Mapping[str, object], metrics: Sequence[str]) -> None:
        """Record a run's options for the table of runs, which shows the last value of `metrics`.

        Call it once a run: of two records TensorBoard reads the first.
        """
        plain = {k: x if isinstance(x, int | float | str) else str(x) for k, x in options.items()}
        with self._unless_full():
            for summary in hparams(plain, dict.fromkeys(metrics, 0.0)):
                self._board._get_file_writer().add_summary(summary)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Record metrics of one step. Raises: ValueError for a name that METRICS lacks."""
        if unknown := sorted(values.keys() - METRICS.keys()):
            raise ValueError(f"values: got {', '.join(unknown)}, wanted names of METRICS")
        line: dict[str, float | None] = {"step": step}
        line |= {name: float(x) if isfinite(x) else None for name, x in values.items()}
        with self._unless_full():
            write_whole(self._jsonl.fileno(), json.dumps(line).encode() + b"\n", sync=False)
            for name, value in values.items():
                self._board.add_scalar(name, value, step)

    @contextmanager
    def _unless_full(self) -> Iterator[None]:
        """What the disk refuses is missing from the curves; training is worth more than that."""
        try:
            yield
        except OSError as error:
            if self._complete:
                say(f"The curves are not complete from here: {error.strerror}.", "yellow")
            self._complete = False

    def histograms(self, values: Mapping[str, Tensor], step: int) -> None:
        """Record distributions, each a tensor of any shape; an empty one is left out."""
        with self._unless_full():
            for name, tensor in values.items():
                if tensor.numel():
                    self._board.add_histogram(name, tensor.detach().float().cpu(), step)

    def samples(self, rows: Sequence[Sample], step: int) -> None:
        """Record answers: one text table, and each image with its answer under it."""
        with self._unless_full():
            for number, row in enumerate(rows):
                drawn = np.asarray(_captioned(row))
                self._board.add_image(f"samples/{number}", drawn, step, dataformats="HWC")
        cells = [(row.instruction, row.response, row.score) for row in rows]
        self.table("samples", ("instruction", "response", "score"), cells, step)

    def table(
        self, tag: str, columns: Sequence[str], rows: Iterable[Sequence[object]], step: int
    ) -> None:
        """Record a table; its texts have no effect in Markdown or HTML."""
        lines = [columns, ["---"] * len(columns)]
        for row in rows:
            cells = [f"{x:.3f}" if isinstance(x, float) else _inert(str(x)) for x in row]
            lines.append(cells)
        self.text(tag, "\n".join(f"| {' | '.join(line)} |" for line in lines), step)

    def text(self, tag: str, markdown: str, step: int) -> None:
        """Record a text, shown as Markdown."""
        with self._unless_full():
            self._board.add_text(tag, markdown, step)

    def close(self) -> None:
        """Write out what is pending."""
        with self._unless_full():
            self._board.close()
        self._jsonl.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def text_statistics(responses: Sequence[str]) -> dict[str, float]:
    """Repetition inside responses (rep4, zlib_ratio: means) and variety among them (distinct).

        rep4 = 1 - distinct four-word runs / four-word runs        zlib_ratio = bytes / deflated

    A response under four words has rep4 = 0. Raises: ValueError when there are no responses.
    """
    if not responses:
        raise ValueError("responses: got none, wanted at least one")
    raw = [response.encode(errors="replace") for response in responses]
    return {
        "text/rep4": sum(map(_rep4, responses)) / len(responses),
        "text/zlib_ratio": sum(len(x) / len(zlib.compress(x)) for x in raw) / len(responses),
        "text/distinct": len(set(responses)) / len(responses),
    }


def _rep4(response: str) -> float:
    words = response.split()
    runs = list(zip(words, words[1:], words[2:], words[3:], strict=False))
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def _inert(text: str) -> str:
    """Text without effect in Markdown, HTML or a table."""
    return re.sub(r"[^\w\s.,?!']|_", lambda x: f"&#{ord(x[0])};", " ".join(text.split()))


def _captioned(row: Sample, width: int = 320) -> Image.Image:
    height = max(1, round(row.image.height * width / row.image.width))
    crisp = Image.Resampling.NEAREST if row.image.width < width else Image.Resampling.LANCZOS
    words = (row.instruction, row.response, f"score {row.score:.3f}")
    lines = [line for text in words for line in textwrap.wrap(text, 44)]
    sheet = Image.new("RGB", (width, height + 18 * len(lines) + 10), "white")
    sheet.paste(row.image.convert("RGB").resize((width, height), crisp))
    font, place = ImageFont.load_default(size=14), (6, height + 4)
    ImageDraw.Draw(sheet).multiline_text(place, "\n".join(lines), "black", font)
    return sheet
