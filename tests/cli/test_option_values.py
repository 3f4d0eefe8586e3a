"""Every option takes every kind of value that its type admits, as typed on the command line."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from rlhf.cli.main import main
from rlhf.commands.job import Job
from rlhf.config.option_types import leaves, option_types
from tests.support.option_values import TEXTS, admitted_values

# Options that are checked beyond their type: words, and what the first of them means.
WITH_OTHERS: dict[str, object] = {
    "resume=auto": "",  # there is no unfinished run
    "sampling.cuda_graphs=true": True,
    "sampling.cuda_graphs=FALSE ppo.engine=transformers parallel.shard=true": False,
    "reward.cv_folds=0": 0,
    "reward.cv_folds=10": 10,
    "reward.learning_curve=true reward.train=lora": True,
    "reward.learning_curve=FALSE reward.train=none": False,
    "ppo.rollout_batch_size=1 ppo.minibatch_size=1": 1,
    "ppo.rollout_batch_size=60 ppo.minibatch_size=20": 60,
    "ppo.minibatch_size=2": 2,
    "ppo.samples_per_prompt=4": 4,
    "ppo.advantage_estimator=gae": "gae",
    "ppo.advantage_estimator=rloo ppo.samples_per_prompt=2": "rloo",
    "ppo.adaptive_kl_target=null": None,
    "ppo.adaptive_kl_target=6": 6.0,
    "ppo.critic_head=mlp ppo.critic_fit=gradient": "mlp",
    "ppo.critic_lr=1e-3 ppo.critic_fit=gradient": 1e-3,
    "ppo.clip_range_value=.2 ppo.critic_fit=gradient": 0.2,
    "ppo.clip_range_value=null": None,
    "ppo.value_huber_delta=1 ppo.critic_fit=gradient": 1.0,
    "ppo.clip_scores=null": None,
    "ppo.clip_scores=.5 ppo.normalize_scores=true": 0.5,
    "ppo.whiten_minibatches=true": True,
    "ppo.whiten_minibatches=FALSE ppo.kl_placement=loss": False,
}
APART = {words.partition("=")[0] for words in WITH_OTHERS}
VALUES = {name: admitted_values(hint) for name, hint in option_types() if name not in APART}
ROUNDS = max(map(len, VALUES.values()))


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Job]:
    """The calls of commands, which do nothing."""
    calls: list[Job] = []

    def command(job: Job) -> dict[str, Any]:
        calls.append(job)
        (job.run_dir / "result").touch()
        return {}

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rlhf.cli.main.load_function", lambda name: command)
    return calls


def options(job: Job) -> dict[str, object]:
    return dict(leaves(asdict(job.config)))


@pytest.mark.parametrize("turn", range(ROUNDS))
def test_a_value_is_taken_as_its_option_means_it(jobs: list[Job], turn: int) -> None:
    chosen = {name: values[turn % len(values)] for name, values in VALUES.items()}
    assert main(["score", *(f"{name}={typed}" for name, (typed, _) in chosen.items())]) == 0
    found = options(jobs[0])
    assert {name: found[name] for name in chosen} == {
        name: value for name, (_, value) in chosen.items()
    }
    assert {name: type(found[name]) for name in chosen} == {
        name: type(value) for name, (_, value) in chosen.items()
    }


@pytest.mark.parametrize("words", WITH_OTHERS)
def test_a_value_that_needs_other_options_is_taken(jobs: list[Job], words: str) -> None:
    assert main(["score", *words.split()]) == 0
    assert options(jobs[0])[words.partition("=")[0]] == WITH_OTHERS[words]


def test_gradient_checkpointing_is_switched_as_the_documents_say(jobs: list[Job]) -> None:
    for value in ("true", "false", "auto"):
        assert main(["score", f"model.gradient_checkpointing={value}"]) == 0
    assert [job.config.model.gradient_checkpointing for job in jobs] == [True, False, "auto"]


def test_quotes_around_a_whole_text_protect_its_commas_in_a_sweep(jobs: list[Job]) -> None:
    assert main(["score", "instruction='a, b','it\\'s c'", "--multirun"]) == 0
    assert [job.config.instruction for job in jobs] == ["a, b", "it's c"]


@pytest.mark.parametrize("text", TEXTS)
def test_a_resumed_run_has_the_texts_that_were_typed(jobs: list[Job], text: str) -> None:
    typed = [f"instruction={text}", "model.gradient_checkpointing=true", "ppo.lr=0.5"]
    assert main(["sft", *typed]) == 0
    assert main(["sft", f"resume={jobs[0].run_dir}", "seed=3", f"data.root={text}"]) == 0
    resumed = jobs[1].config
    assert resumed.instruction == resumed.data.root == text
    assert (resumed.seed, resumed.ppo.lr, resumed.model.gradient_checkpointing) == (3, 0.5, True)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("model.gradient_checkpointing=yes", "model.gradient_checkpointing"),
        ("sampling={top_k: 3}", "unknown option sampling"),
        ("~seed=0", "an option always has a value"),
        ("ppo=null", "ppo=null"),
        ('ppo.lr="', "ppo.lr"),
        ("seed=1.5", "seed"),
        ("seed=4294967296", "at most 4,294,967,295"),
        ("ppo.iterations=-99999999999999999999", "too large"),
        ("sampling.top_p=1e-320", "sampling.top_p"),
        ("instruction=\udcff", "instruction=\\udcff"),
        ("resume_allow=[3]", "resume_allow"),
    ],
)
@pytest.mark.parametrize("flags", [[], ["--multirun"]], ids=["", "multirun"])
def test_a_value_of_another_type_is_refused_in_three_lines(
    capsys: pytest.CaptureFixture[str], word: str, message: str, flags: list[str]
) -> None:
    assert main(["score", word, *flags]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 3 and message in " ".join(lines)
