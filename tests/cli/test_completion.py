"""Shell completion, by the words it offers and by a real bash."""

import subprocess
import sys
from pathlib import Path

import pytest

from rlhf.cli.commands import COMMANDS
from rlhf.cli.completion import complete
from rlhf.cli.main import main


def test_commands_come_first() -> None:
    assert complete("rlhf ") == sorted(COMMANDS)
    assert complete("rlhf pp") == ["ppo"]
    assert complete("rlhf --json e") == ["evaluate", "export"]


def test_options_are_completed_up_to_the_next_dot() -> None:
    assert complete("rlhf ppo pp") == ["ppo.", "ppo="]
    names = ("fit", "head", "init", "lr", "min_explained_variance", "warmup_iterations")
    assert complete("rlhf ppo ppo.critic_") == [f"ppo.critic_{name}=" for name in names]
    assert complete("rlhf ppo se") == ["seed="]
    assert "sft." not in complete("rlhf ppo ")  # an option that it does not read


def test_choices_and_files_of_groups_are_completed() -> None:
    assert complete("rlhf ppo model.train=") == ["model.train=full", "model.train=lora"]
    assert complete("rlhf ppo data.recursive=t") == ["data.recursive=true"]
    assert complete("rlhf ppo reward=") == ["reward=caption_text", "reward=llava_head"]
    assert complete("rlhf demo experiment=d") == ["experiment=demo"]
    assert "hydra/launcher=basic" in complete("rlhf ppo -m hydra/launcher=")
    assert complete("rlhf ppo seed=") == []


def test_paths_are_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs" / "ppo").mkdir(parents=True)
    (tmp_path / "pairs.jsonl").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert complete("rlhf validate pa") == ["pairs.jsonl"]
    assert complete("rlhf evaluate runs/") == ["runs/ppo/"]
    assert complete("rlhf ppo reward.path=ru") == ["reward.path=runs/"]
    assert complete("rlhf ppo data.prompts=~/pa") == ["data.prompts=~/pairs.jsonl"]
    assert complete("rlhf ppo pai") == []  # ppo takes no files


def test_flags_are_completed() -> None:
    assert complete("rlhf ppo --config-") == ["--config-dir", "--config-name"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_has_a_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-sc", f"install={shell}"]) == 0
    assert f"rlhf --shell-completion query={shell}" in capsys.readouterr().out


def test_another_shell_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--shell-completion=install=ksh"]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 3


def test_bash_completes() -> None:
    script = f"""
        rlhf() {{ {sys.executable} -m rlhf "$@"; }}
        eval "$(rlhf -sc install=bash)"
        for COMP_LINE in "rlhf pp" "rlhf ppo model.train=" "rlhf ppo mode"; do
            COMP_POINT=${{#COMP_LINE}}; _rlhf; printf '<%s>' "${{COMPREPLY[@]}}"; echo
        done
    """
    completed = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert completed.stdout.splitlines() == [
        "<ppo >",
        "<model.train=full ><model.train=lora >",
        "<model.><model=>",
    ]
