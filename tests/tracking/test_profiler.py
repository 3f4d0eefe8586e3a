"""Where the time goes: charged once, to the innermost phase, and to nobody while off."""

import gzip
import json
import re
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf.commands.job import Job
from rlhf.commands.ppo import ppo
from rlhf.config.schema import Config, DataConfig, ModelConfig, PPOConfig, SamplingConfig
from rlhf.models.policy import build_policy
from rlhf.ppo.trainer import PPOTrainer
from rlhf.spans import Spans
from rlhf.tracking.metrics import METRICS
from rlhf.tracking.profiler import PHASES, Profile, count, count_responses, end_iteration, phase
from rlhf.tracking.reader import read_metrics
from rlhf.types import PromptBatch, Responses
from tests.support import tiny_models

ROOT = Path(__file__).parents[2]


class Clock:
    """Shows what it was set to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_phase_inside_another_is_not_counted_in_that_one(clock: Clock) -> None:
    profile = Profile(clock=clock)
    clock.now = 100
    with profile.active():
        clock.now += 1
        with phase("old_logprobs"):
            clock.now += 2
            with phase("vision"):
                clock.now += 4
            clock.now += 8
        clock.now += 16
        seconds = end_iteration()
    assert seconds == {"time/old_logprobs": 10, "time/vision": 4, "time/other": 17}


def test_an_opaque_phase_keeps_what_is_inside(clock: Clock) -> None:
    with Profile(clock=clock).active() as profile:
        with phase("forward", opaque=True):
            clock.now += 1
            with phase("vision"), phase("values"):
                clock.now += 2
                count("images")
            clock.now += 4
        with phase("vision"):
            clock.now += 8
            count("images", 3)
        seconds = profile.end_iteration()
    assert seconds.seconds == {"forward": 7, "vision": 8, "other": 0}
    assert seconds.counts == {"images": 3}


def test_a_phase_that_fails_ends_all_the_same(clock: Clock) -> None:
    with Profile(clock=clock).active() as profile:
        with pytest.raises(KeyError), phase("forward", opaque=True), phase("values"):
            clock.now += 1
            raise KeyError
        with phase("scores"):
            clock.now += 2
        clock.now += 4
        assert profile.end_iteration().seconds == {"forward": 1, "scores": 2, "other": 4}


def test_each_iteration_begins_anew_and_what_follows_one_is_in_none(clock: Clock) -> None:
    calls: list[int] = []

    def on_iteration(done: int) -> None:
        calls.append(done)
        clock.now += 1000

    profile = Profile(clock=clock, on_iteration=on_iteration)
    with profile.active():
        for seconds in (1, 2):
            with phase("decode"):
                clock.now += seconds
            count("decode_steps", 10 * seconds)
            end_iteration()
    clock.now += 5
    assert [times.seconds["decode"] for times in profile.iterations] == [1, 2]
    assert [times.seconds["other"] for times in profile.iterations] == [0, 0]
    assert [times.counts["decode_steps"] for times in profile.iterations] == [10, 20]
    assert calls == [1, 2]


def test_the_device_is_synchronized_before_each_reading_of_the_clock() -> None:
    calls: list[str] = []

    def read_clock() -> float:
        calls.append("look")
        return 0.0

    with Profile(lambda: calls.append("wait"), read_clock).active():
        with phase("forward", opaque=True), phase("vision"):
            pass
        assert calls == ["wait", "look"] * 3


def test_without_a_profile_no_time_is_measured() -> None:
    profile = Profile()
    with profile.active():
        pass
    with phase("decode"):
        count("decode_steps")
    assert end_iteration() == {} and profile.iterations == []
    assert profile.end_iteration().counts == {}


def responses_of_lengths(lengths: list[int], keys: list[int], response_lengths: list[int]) -> Any:
    prompts = PromptBatch(
        torch.zeros(sum(lengths), dtype=torch.int64),
        Spans.from_lengths(lengths),
        tuple(() for _ in lengths),
        torch.tensor(keys),
        tuple("" for _ in lengths),
    )
    tokens = torch.zeros(sum(response_lengths), dtype=torch.int64)
    return prompts, Responses(
        tokens, Spans.from_lengths(response_lengths), torch.ones(len(response_lengths)).bool()
    )


def test_decoding_sees_every_token_before_and_reads_a_shared_prompt_once() -> None:
    lengths, keys, response_lengths = [10, 7, 10, 10], [1, 2, 1, 1], [3, 4, 2, 1]
    seen_tokens = read_tokens = 0
    for step in range(1, 4):  # the first token comes of the prompt's own pass
        alive = [row for row in range(4) if response_lengths[row] > step]
        seen_tokens += sum(lengths[row] + step for row in alive)
        read_tokens += step * len(alive) + sum({keys[row]: lengths[row] for row in alive}.values())
    with Profile().active() as profile:
        count_responses(*responses_of_lengths(lengths, keys, response_lengths))
        assert profile.end_iteration().counts == {
            "responses": 4,
            "prompt_tokens": 37,
            "response_tokens": 10,
            "seen_tokens": seen_tokens,
            "read_tokens": read_tokens,
        }


def test_every_phase_in_the_code_has_its_metric() -> None:
    sources = [path.read_text() for path in (ROOT / "rlhf").rglob("*.py")]
    phase_names = {name for text in sources for name in re.findall(r'\bphase\("(\w+)"', text)}
    assert {"old_logprobs", "forward", "optimizer"} <= phase_names <= PHASES.keys()
    assert set(PHASES.values()) <= METRICS.keys()


def two_iterations(tiny: Path, directory: Path, profile: Profile | None) -> PPOTrainer:
    llava = tiny_models.load(tiny)
    torch.manual_seed(0)
    policy = build_policy(llava, ModelConfig(lora_rank=4), temperature=1.0)
    run = tiny_models.two_iterations(policy, tiny_models.prompts_of(llava, tiny), directory)
    with profile.active() if profile else nullcontext():
        run.run()
    return run


def test_a_profiled_run_is_the_same_run(tiny: Path, tmp_path: Path) -> None:
    runs = [
        two_iterations(tiny, tmp_path / "plain", None),
        two_iterations(tiny, tmp_path / "profiled", Profile()),
    ]
    plain, profiled = (read_metrics(tmp_path / name) for name in ("plain", "profiled"))
    assert {*profiled} - {*plain} <= {*PHASES.values()} <= {*METRICS} - {*plain}
    timed = ("time/rollout", "time/update", "throughput/tokens_per_second", "memory/peak_gb")
    untimed = plain.keys() - timed
    assert {name: profiled[name] for name in untimed} == {name: plain[name] for name in untimed}
    for before, after in zip(
        *(run.policy.trainable_parameters().values() for run in runs), strict=True
    ):
        assert torch.equal(before, after)


def test_every_second_of_a_run_is_in_one_phase(tiny: Path, tmp_path: Path) -> None:
    profile, started = Profile(), time.perf_counter()
    two_iterations(tiny, tmp_path, profile)
    ended, metrics = time.perf_counter(), read_metrics(tmp_path)
    measured = sum(value for name in ("time/rollout", "time/update") for _, value in metrics[name])
    in_phases = sum(value for name in PHASES.values() for _, value in metrics.get(name, []))
    assert measured < in_phases < ended - started
    assert in_phases == pytest.approx(
        sum(sum(times.seconds.values()) for times in profile.iterations)
    )
    elsewhere = {"vision", "prefill", "decode", "save"}  # of another iteration, or of none
    for times in profile.iterations:
        assert {name for name in PHASES if times.seconds[name]} | elsewhere == {*PHASES}
        assert (times.counts["responses"], times.counts["updated_responses"]) == (4, 4)


@pytest.fixture
def job(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Job]:
    """A short `rlhf ppo` whose judge counts letters."""
    monkeypatch.setattr("rlhf.planning.roofline.SECONDS_PER_TRIAL", 1e-3)
    judge, prompts = tmp_path / "judge.py", tmp_path / "prompts.jsonl"
    judge.write_text("def score(images, asked, said):\n    return [float(len(x)) for x in said]\n")
    rows = [{"image_path": f"pictures/{n:05d}.png", "instruction": "What?"} for n in range(4)]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def made(iterations: int, profile: Any) -> Job:
        sizes: Any = {"rollout_batch_size": 4, "minibatch_size": 4, "ppo_epochs": 1}
        config = Config(
            model=ModelConfig(path=str(tiny / "model"), lora_rank=4),
            data=DataConfig(prompts=str(prompts), root=str(tiny)),
            sampling=SamplingConfig(max_new_tokens=4),
            ppo=PPOConfig(
                iterations=iterations, critic_warmup_iterations=0, profile=profile, **sizes
            ),
        )
        return Job(config, tmp_path, [], [], lambda *_: (Path(), {}), f"{judge}:score")

    return made


@pytest.mark.parametrize("iterations", [1, 3])
def test_the_command_prints_the_roofline_and_traces_one_iteration(
    iterations: int, job: Callable[..., Job], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = ppo(job(iterations, "trace"))["profile"]
    json.dumps(metrics)
    assert metrics["roofline"] > 0 and metrics["ideal_seconds"]["scores"] == 0
    trace = json.loads(gzip.decompress((tmp_path / "trace.json.gz").read_bytes()))
    names = [event.get("name") for event in trace["traceEvents"]]
    assert names.count("optimizer") == names.count("scores") == 1
    output = capsys.readouterr().out
    last = read_metrics(tmp_path)["time/scores"][-1]
    assert f"mean of iterations {iterations} to {iterations}" in output and "in all" in output
    assert metrics["seconds"]["scores"] == last[1]


def test_the_command_measures_nothing_without_the_option(
    job: Callable[..., Job], tmp_path: Path
) -> None:
    assert "profile" not in ppo(job(1, False))
    assert not {*PHASES.values()} & read_metrics(tmp_path).keys()
    assert not (tmp_path / "trace.json.gz").exists()
