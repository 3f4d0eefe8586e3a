"""Configs of the user's own: groups, roots, interpolations, and what is data only."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from rlhf.cli.main import main
from rlhf.commands.job import Job

Write = Callable[[str, str], None]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a file into the user's own directory of configs."""

    def write(name: str, text: str) -> None:
        path = tmp_path / "own" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    return write


def test_own_groups_experiments_and_interpolations(jobs: list[Job], write: Write) -> None:
    options = "{lr: 0.25, critic: adapter, critic_lr: '${ppo.lr}'}"
    write("experiment/mine.yaml", f"# @package _global_\nppo: {options}\n")
    write("ppo/tiny.yaml", "iterations: 3\n")
    assert main(["ppo", "experiment=mine", "ppo=tiny", "--config-dir=own"]) == 0
    ppo = jobs[0].config.ppo
    assert (ppo.lr, ppo.critic_lr, ppo.iterations) == (0.25, 0.25, 3)


def test_an_own_root_config_with_a_defaults_list(jobs: list[Job], write: Write) -> None:
    write("mine.yaml", "defaults: [ppo, {override ppo: short}, _self_]\nname: mine\nseed: 7\n")
    assert main(["ppo", "-cd", "own", "-cn", "mine"]) == 0
    [job] = jobs
    assert (job.config.seed, job.config.ppo.iterations) == (7, 10)
    assert job.run_dir.parent == Path("runs/mine")


def test_a_search_path_adds_groups(
    jobs: list[Job], write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    write("experiment/far.yaml", "# @package _global_\nseed: 9\n")
    write("leash/short.yaml", "# @package _global_\nppo: {iterations: 2}\n")
    path = f"hydra.searchpath=[file://{Path('own').resolve()}]"
    assert main(["ppo", path, "experiment=far", "+leash=short"]) == 0
    assert (jobs[0].config.seed, jobs[0].config.ppo.iterations) == (9, 2)
    assert main(["ppo", path, "ppo.typo=1"]) == 2
    assert main(["ppo", path, "+typo=1"]) == 2
    assert capsys.readouterr().err.count("unknown option") == 2 and len(jobs) == 1


def test_the_schema_is_strict_in_own_configs(
    jobs: list[Job], write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    for text, message in {
        "ppo: {learning_rate: 1}": "did you mean ppo.lr",
        "ppo: {lr: fast}": "ppo.lr takes a number over 0",
        "model: {train: all}": "model.train takes lora | full",
        "seed: -1": "seed=-1",
    }.items():
        write("experiment/mine.yaml", f"# @package _global_\n{text}\n")
        assert main(["ppo", "experiment=mine", "-cd", "own"]) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 3 and message in " ".join(lines)
    assert not jobs and not [*Path("runs").glob("*/*")]


def test_no_environment_variable_is_stored(
    jobs: list[Job],
    write: Write,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SECRET", "s3cret")
    write("experiment/mine.yaml", "# @package _global_\ninstruction: ${oc.env:SECRET}\n")
    assert main(["ppo", "experiment=mine", "-cd", "own"]) == 2
    captured = capsys.readouterr()
    assert "environment variable" in captured.err and "s3cret" not in captured.err
    assert not jobs


def test_hydra_own_keys_read_the_environment(
    jobs: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WHERE", "by_environment")
    assert main(["ppo", "hydra.run.dir=${oc.env:WHERE}"]) == 0
    assert jobs[0].run_dir == Path("by_environment")


def test_a_stored_configuration_is_data(jobs: list[Job]) -> None:
    run = Path("run")
    run.mkdir()
    stored = {"instruction": "${oc.env:HOME} ${seed}", "seed": 5}
    (run / "config.yaml").write_text(yaml.safe_dump(stored))
    assert main(["ppo", "resume=run"]) == 0
    assert jobs[0].config.instruction == "${oc.env:HOME} ${seed}"
    for hostile in (
        {"_target_": "os.system", "seed": 1},
        {"hydra": {"callbacks": {"x": {"_target_": "os.system"}}}},
        {"ppo": {"_target_": "os.system"}},
    ):
        (run / "config.yaml").write_text(yaml.safe_dump(hostile))
        assert main(["ppo", "resume=run"]) == 2
    assert len(jobs) == 1


def test_the_example_of_the_documentation_composes(
    jobs: list[Job], capsys: pytest.CaptureFixture[str]
) -> None:
    own = f"--config-dir={Path(__file__).parents[2] / 'docs' / 'examples' / 'sweep'}"
    assert main(["ppo", own, "experiment=leash"]) == 0
    assert jobs[0].config.ppo.critic_lr == jobs[0].config.ppo.lr == 2e-5
    assert main(["ppo", own, "--config-name=leash"]) == 0
    assert len({(job.config.seed, job.config.ppo.kl_coef) for job in jobs[1:]}) == 9
    assert {job.config.ppo.iterations for job in jobs} == {40}
