"""What a continued run begins from, and what it refuses."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from rlhf.cli.hydra_compose import compose_options
from rlhf.cli.main import main
from rlhf.commands.job import Job
from rlhf.commands.resume import resume_checkpoint
from rlhf.config.schema import Config, PPOConfig
from rlhf.errors import UsageError
from rlhf.storage.checkpoint import NoCheckpointError, load_checkpoint, save_checkpoint
from rlhf.storage.run_directory import is_step_directory, run_directory_of, unfinished_run
from rlhf.training.resume_options import check_options

CONFIG = Config(ppo=PPOConfig(lr=1e-5), resume="")


def stored_config(config: Config = CONFIG) -> dict[str, object]:
    return dict(json.loads(json.dumps(asdict(config))))


def saved_run(run: Path, *steps: int, command: str = "ppo", config: Config = CONFIG) -> Path:
    for step in steps:
        save_checkpoint(
            run / "checkpoints",
            step,
            tensors={"w": {"w": torch.ones(1)}},
            state={"config": asdict(config)},
            facts={"command": command},
            keep=9,
        )
    return run


def job(run: Path, **options: object) -> Job:
    config = replace(CONFIG, **{"resume": str(run), **options})  # type: ignore[arg-type]
    return Job(config, run_directory_of(config.resume), [], [], lambda *_: (run, {}))


def test_equal_options_are_accepted_and_changed_ones_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    check_options(stored_config(), replace(CONFIG, resume="runs/x", output_dir="elsewhere"))
    changed = replace(CONFIG, seed=3, ppo=replace(CONFIG.ppo, lr=1e-3, save_every=1))
    with pytest.raises(UsageError) as error:
        check_options(stored_config(), changed)
    assert error.value.where == "seed: 0 then, 3 now, ppo.lr: 1e-05 then, 0.001 now"
    assert error.value.fix.endswith("'resume_allow=[seed,ppo.lr]'")
    assert "options that differ" in capsys.readouterr().out
    check_options(stored_config(), replace(changed, resume_allow=("seed", "ppo.lr")))


def test_a_run_may_be_made_longer_where_that_changes_no_earlier_step() -> None:
    longer = replace(CONFIG, ppo=replace(CONFIG.ppo, iterations=200))
    check_options(stored_config(), longer)
    linear_decay = replace(CONFIG.ppo, lr_schedule="linear")
    with pytest.raises(UsageError, match="other options"):
        check_options(
            stored_config(replace(CONFIG, ppo=linear_decay)),
            replace(CONFIG, ppo=replace(linear_decay, iterations=200)),
        )


def test_a_run_goes_on_from_its_newest_checkpoint_and_a_new_one_from_none(tmp_path: Path) -> None:
    assert resume_checkpoint(job(saved_run(tmp_path, 3, 6), resume=""), tmp_path) is None
    checkpoint = resume_checkpoint(job(tmp_path), tmp_path)
    assert checkpoint and checkpoint.step == 6
    empty = tmp_path / "fold-1"
    assert resume_checkpoint(job(tmp_path), empty, required=False) is None
    with pytest.raises(NoCheckpointError):
        resume_checkpoint(job(tmp_path), empty)


def test_resuming_from_a_step_sets_later_checkpoints_aside(tmp_path: Path) -> None:
    step = saved_run(tmp_path, 3, 6, 9) / "checkpoints" / "step-000003"
    checkpoint = resume_checkpoint(job(step), tmp_path)
    assert checkpoint and checkpoint.step == 3
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["left-000006", "left-000009", "step-000003"]
    assert load_checkpoint(tmp_path / "checkpoints").step == 3
    assert is_step_directory(step) and run_directory_of(str(step)) == tmp_path


def test_auto_is_the_newest_run_of_the_command_if_it_did_not_end(tmp_path: Path) -> None:
    older, newer, other = (tmp_path / f"000{n}-2026010{4 - n}-000000" for n in range(3))
    saved_run(older, 1)
    saved_run(newer, 2)
    saved_run(other, 3, command="reward")
    assert unfinished_run(tmp_path, "ppo") == newer
    assert unfinished_run(tmp_path, "reward") == other
    assert unfinished_run(tmp_path, "sft") is None
    (newer / "summary.json").write_text('{"command": "ppo"}')
    assert unfinished_run(tmp_path, "ppo") is None
    assert unfinished_run(tmp_path, "reward") == other
    assert unfinished_run(tmp_path / "missing", "ppo") is None


def test_the_command_line_of_a_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = saved_run(tmp_path / "runs" / "x" / "0001-20260101-000000", 2)
    (run / "config.yaml").write_text("seed: 7\nname: x\nppo: {lr: 0.5}\n")
    stored = compose_options("ppo", [f"resume={run}", "ppo.kl_coef=0.25"])
    assert (stored["seed"], stored["ppo"]["lr"], stored["ppo"]["kl_coef"]) == (7, 0.5, 0.25)
    composed = compose_options("ppo", [f"resume={run}", "experiment=demo"])
    assert (composed["seed"], composed["ppo"]["lr"]) == (0, 5e-4)
    auto = compose_options("ppo", ["resume=auto", "name=x"])
    assert (Path(auto["resume"]), auto["seed"]) == (Path("runs/x") / run.name, 0)
    assert compose_options("ppo", ["resume=auto", "name=y"])["resume"] == ""
    assert main(["ppo", "resume=nowhere"]) == 2
