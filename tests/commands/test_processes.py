"""`rlhf collect` and `rlhf evaluate` on several processes: the files of one, byte for byte."""

import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf.cli.commands import import_function
from rlhf.cli.hydra_compose import compose_options
from rlhf.cli.job_runner import run_command
from rlhf.commands import collect
from rlhf.commands.job import Job
from rlhf.config.schema import Config
from rlhf.config.validation import load_config
from rlhf.data.records import PreferenceRecord, write_records
from rlhf.demo.questions import write_split
from rlhf.errors import ResourceError, StoppedError
from rlhf.models.policy import POLICY
from rlhf.models.saving import save_trained
from rlhf.parallel.world import World
from tests.support import reward_models, tiny_models
from tests.support.processes import on_processes

SMALL = ["sampling.max_new_tokens=5", "ppo.microbatch_tokens=150", "dtype=bfloat16"]
COLLECT = [*SMALL, "sampling.batch_size=6", "collect.responses_per_prompt=3"]
EVALUATE = [*SMALL, "sampling.batch_size=3", "sampling.temperature=1"]
SCORER = """\
import os

def score(images, instructions, responses):
    with open("calls", "a") as file:
        file.write("".join(f"{row}\\n" for row in zip(map(str, images), instructions, responses)))
    if os.path.exists("broken") and str(images[0]).endswith(open("broken").read()):
        raise ValueError("broken")
    return [len(text) % 5 / 3 for text in responses]
"""


@pytest.fixture(scope="module")
def project(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models that respond differently, prompts with facts, a reward model and a scorer."""
    directory = tmp_path_factory.mktemp("project")
    for name in ("model", "other"):
        shutil.copytree(tiny / "model", directory / name)
    settings = json.loads((directory / "other/config.json").read_text())
    settings["text_config"]["rope_parameters"] = {"rope_theta": 7.0, "rope_type": "default"}
    (directory / "other/config.json").write_text(json.dumps(settings))
    write_split(directory, "prompts", 5, per_image=2, seed=0)
    llava = tiny_models.load(directory)
    reward = reward_models.build(llava, reward_models.options("llava_head"))
    reward_models.shake(reward)
    reward_models.save(reward, directory / "reward")
    (directory / "judge.py").write_text(SCORER)
    return directory


@pytest.fixture
def words(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    return [f"data.prompts={project}/prompts.jsonl", f"data.root={project}"]


def call(
    world: World, command: str, config: Config, files: Sequence[Path], directory: Path, scorer: str
) -> str:
    """Call a command; only process 0 has a directory that it may write to."""
    run_dir = directory if world.is_first else directory / "of another process"
    job = Job(config, run_dir, files, [], run_command, scorer, world=world)
    summary = import_function(command)(job)
    assert world.is_first or not run_dir.exists()
    return str({name: value for name, value in summary.items() if name != "report"})


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def assert_equal(
    command: str,
    overrides: list[str],
    files: Sequence[Path] = (),
    *,
    sizes: Sequence[int] = (2, 4),
    scorer: str = "",
) -> dict[str, bytes]:
    """Run a command on one process and on several; return the files that each run wrote."""
    config = load_config(compose_options(command, overrides))
    summaries, written = list[str](), list[dict[str, bytes]]()
    for size in (1, *sizes):
        directory = Path(tempfile.mkdtemp(dir="."))
        summaries += on_processes(size, call, command, config, files, directory, scorer)
        written.append(contents(directory))
    assert summaries == [summaries[0]] * len(summaries)
    assert written == [written[0]] * len(written)
    return written[0]


def rows(content: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in content.decode().split("\n") if line]


def test_candidates_and_labels_are_those_of_one_process(project: Path, words: list[str]) -> None:
    words += [f"model.path={project}/model", "collect.annotator=rule-v1"]
    options = ["collect.num_beams=2", "collect.temperatures=[0.8,1.5]"]
    written = assert_equal("collect", [*words, *COLLECT, *options])
    assert written.keys() == {"candidates.jsonl", "preferences.jsonl"}
    assert len(rows(written["candidates.jsonl"])) == 10


@pytest.mark.processes
@pytest.mark.parametrize("selection", ["best_vs_worst", "closest", "uncertain"])
def test_pairs_are_those_of_one_process(project: Path, words: list[str], selection: str) -> None:
    words += [f"model.path={project}/model", f"reward.path={project}/reward"]
    options = [f"collect.pair_selection={selection}", "collect.limit=8"]
    written = assert_equal("collect", [*words, *COLLECT, *options])
    assert len(rows(written["pairs.jsonl"])) == 8


@pytest.mark.parametrize("size", [1, pytest.param(2, marks=pytest.mark.processes), 4])
def test_a_cut_file_is_completed_to_the_same_one_on_any_number(
    project: Path, words: list[str], size: int
) -> None:
    words += [f"model.path={project}/model", "sampling.temperature=2"]
    config = load_config(compose_options("collect", [*words, *COLLECT]))
    Path("whole").mkdir()
    call(World(), "collect", config, [], Path("whole"), "")
    whole = Path("whole/candidates.jsonl").read_bytes()
    lines = whole.splitlines(keepends=True)
    Path("cut").mkdir()
    Path("cut/candidates.jsonl").write_bytes(b"".join(lines[:3]) + lines[3][:30])
    on_processes(size, call, "collect", config, [], Path("cut"), "")
    assert Path("cut/candidates.jsonl").read_bytes() == whole
    assert Path("cut/candidates.jsonl.torn").read_bytes() == lines[3][:30] + b"\n"


def stopped(world: World, rank: int, config: Config, directory: Path) -> str:
    """Collect until a signal comes to one process, as it samples its second chunk."""
    chunks, sample = list[Any](), collect._responses

    def sample_once(*given: Any) -> Any:
        chunks.append(given)
        if world.rank == rank and len(chunks) == 2:
            raise StoppedError("stopped by SIGTERM", "", "", 143)
        return sample(*given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collect, "_responses", sample_once)
        return call(world, "collect", config, [], directory, "")


@pytest.mark.parametrize("rank", [0, 1])
def test_what_is_finished_before_a_signal_is_in_the_file(
    project: Path, words: list[str], rank: int
) -> None:
    config = load_config(
        compose_options("collect", [*words, *COLLECT, f"model.path={project}/model"])
    )
    Path("cut").mkdir()
    errors = on_processes(2, stopped, rank, config, Path("cut"))
    assert "StoppedError: stopped by SIGTERM" in errors[rank]
    assert "another process of this run does not answer" in errors[1 - rank]
    assert len(rows(Path("cut/candidates.jsonl").read_bytes())) == 4  # of two chunks


def test_models_are_compared_as_by_one_process(project: Path, words: list[str]) -> None:
    models = [project / "model", project / "other"]
    options = [f"reward.path={project}/reward", "evaluation.best_of=3"]
    written = assert_equal("evaluate", [*words, *EVALUATE, *options], models, sizes=[4])
    assert written.keys() == {"metrics.json", "report.html"}
    kl = [x["kl"] for x in json.loads(written["metrics.json"])["models"].values()]
    assert kl[0] == 0 and kl[2] != 0


@pytest.mark.processes
@pytest.mark.parametrize("command", ["collect", "evaluate"])
def test_an_activated_lora_gives_the_same(project: Path, words: list[str], command: str) -> None:
    llava = tiny_models.load(project)
    llava.adapters.add(POLICY, rank=4, alpha=8, lora_type="alora")
    for value in llava.adapters.tensors(POLICY).values():
        value.detach().add_(0.1 * torch.randn_like(value))
    save_trained(llava, Path("tuned"), command="ppo", metrics={})
    if command == "collect":  # prompts come again in other batches
        lines = (project / "prompts.jsonl").read_text().splitlines(keepends=True)
        Path("twice.jsonl").write_text("".join(lines + lines[1:]))
        options = [*COLLECT, "model.path=tuned", "data.prompts=twice.jsonl"]
        assert_equal(command, [*words, *options], sizes=[2, 3])
    else:
        models = [project / "model", Path("tuned")]
        assert_equal(command, [*words, *EVALUATE, "evaluation.judge=person"], models, sizes=[2, 3])


@pytest.mark.processes
def test_rule_and_people_judge_as_on_one_process(project: Path, words: list[str]) -> None:
    models, words = [project / "model", project / "other"], [*words, *EVALUATE]
    assert_equal("evaluate", [*words, "evaluation.judge=rule-v1"], models, sizes=[2])
    words += ["evaluation.judge=person"]
    waiting = rows(assert_equal("evaluate", words, models, sizes=[2])["blind.jsonl"])
    assert len(waiting) == 5  # the others have equal responses
    judgments = [
        PreferenceRecord(
            row["image_path"], row["instruction"], *row["responses"], preference="response_a"
        )
        for row in waiting[1:]
    ]
    write_records(Path("judgments.jsonl"), judgments)
    words += ["evaluation.judgments=judgments.jsonl"]
    written = assert_equal("evaluate", words, models, sizes=[2, 4])
    assert len(rows(written["blind.jsonl"])) == 1


def test_a_scorer_is_called_once_for_each_response(project: Path, words: list[str]) -> None:
    models, scorer = [project / "model"], f"{project}/judge.py:score"
    options = ["evaluation.best_of=4"]  # 40 responses: three calls
    assert_equal("evaluate", [*words, *EVALUATE, *options], models, sizes=[2], scorer=scorer)
    calls = sorted(Path("calls").read_text().splitlines())
    assert len(calls) == 2 * (10 + 10 + 40 + 10)
    assert calls[::2] == calls[1::2]


def failed(world: World, config: Config, files: Sequence[Path], scorer: str) -> Any:
    with pytest.raises(ResourceError) as error:
        call(world, "evaluate", config, files, Path(), scorer)
    return error.value.what, error.value.where, error.value.on_every_process


def test_a_scorer_that_fails_on_one_process_ends_all_with_one_message(
    project: Path, words: list[str]
) -> None:
    Path("broken").write_text("2.png")  # the image of the second call's first response
    words += [*EVALUATE, "evaluation.best_of=4"]
    config = load_config(compose_options("evaluate", words))
    given = config, [project / "model"], f"{project}/judge.py:score"
    lines = "function judge.py:score returns no usable scores", "judge.py:7: ValueError: broken"
    for size in (1, 2):
        assert on_processes(size, failed, *given) == [(*lines, size > 1)] * size


@pytest.mark.processes
def test_responses_without_a_score_are_those_of_one_process(
    project: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("broken").write_text("2.png")
    words += [*EVALUATE, "evaluation.best_of=4", "scorer.on_failure=drop"]
    models, scorer = [project / "model", project / "other"], f"{project}/judge.py:score"
    assert_equal("evaluate", words, models, scorer=scorer)
    assert "responses without a score are dropped" in capsys.readouterr().out
