"""Every command × every kind of `model.path`: what is named is used, or refused in three lines."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch

from rlhf.cli.main import main
from rlhf.config.schema import RewardConfig
from rlhf.models.llava import Llava
from rlhf.models.lora import Adapters
from rlhf.models.policy import POLICY
from rlhf.rewards.loading import save_reward
from tests.support import reward_models as kit
from tests.support import tiny_models

HUB_ID = "someone/tiny-llava"
ADAPTERS = {"adapter", "sft lora", "ppo lora", "ppo alora"}
WHOLE = {"directory", "hub id", "sft full", "ppo full"}
NEVER = {"reward lora", "reward full", "reward directory", "caption_text", "critic", "checkpoint"}
KINDS = sorted(ADAPTERS | WHOLE | NEVER)
ROW = {"image_path": "pictures/00000.png", "instruction": "What?"}
COMMANDS = {
    "generate": "generate PATH data.prompts=FILE",
    "collect": "collect model.path=PATH data.prompts=FILE",
    "evaluate": "evaluate PATH PATH data.prompts=FILE evaluation.judge=rule-v1",
    "sft": "sft model.path=PATH data.demonstrations=FILE",
    "sft full": "sft model.path=PATH data.demonstrations=FILE model.train=full",
    "reward": "reward model.path=PATH data.preferences=FILE",
    "reward full": "reward model.path=PATH data.preferences=FILE reward.train=full",
    "reward caption_text": "reward model.path=PATH data.preferences=FILE reward.kind=caption_text "
    "reward.text_model=TEXT",
    "ppo": "ppo model.path=PATH data.prompts=FILE --scorer=SCORER ppo.sanity_checks=false",
    "ppo full": "ppo model.path=PATH data.prompts=FILE --scorer=SCORER model.train=full",
    "plan": "plan model.path=PATH",
    "export": "export PATH export.merge=true output=OUTPUT",
}
REFUSED_ADAPTERS = {
    "sft full": "full training cannot start from an adapter",
    "reward full": "full training cannot start from an adapter",
    "ppo full": "full training cannot start from an adapter",
    "reward caption_text": "captions of a model without adapter",
}


class ReadyToEncodeError(Exception):
    """Raised in place of encoding the first prompt, when all models are loaded."""


@pytest.fixture(scope="module")
def paths(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A directory of every kind, as the commands write them."""
    root = tmp_path_factory.mktemp("kinds")
    llava = tiny_models.load(tiny)
    runs = {kind: root / kind.replace(" ", "-") / "0001-20261101-000000" for kind in KINDS}
    for kind in ("sft full", "ppo full"):
        llava.save(runs[kind] / "model")
    shutil.copytree(tiny / "model", root / "hub/models--someone--tiny-llava/snapshots/0123")
    (root / "hub/models--someone--tiny-llava/refs").mkdir()
    (root / "hub/models--someone--tiny-llava/refs/main").write_text("0123")
    for kind in ("sft lora", "ppo lora", "ppo alora"):
        _save_adapter(tiny, runs[kind] / "adapter", "alora" if "alora" in kind else "lora")
    _save_adapter(tiny, runs["critic"] / "critic", "lora")
    (runs["critic"] / "value_head.safetensors").touch()
    (runs["checkpoint"] / "checkpoints/step-000001").mkdir(parents=True)
    text = kit.write_text_model(root / "text", tiny, "text")
    for kind in ("reward lora", "reward full", "caption_text"):
        options = kit.options("caption_text" if kind == "caption_text" else "llava_head", text)
        _save_reward(tiny, runs[kind] / "reward", options, "full" if "full" in kind else "lora")
    return runs | {
        "directory": tiny / "model",
        "hub id": Path(HUB_ID),
        "hub": root / "hub",
        "adapter": runs["sft lora"] / "adapter",
        "reward directory": runs["reward lora"] / "reward",
        "critic": runs["critic"] / "critic",
        "checkpoint": runs["checkpoint"] / "checkpoints/step-000001",
        "text": text,
    }


def _save_adapter(tiny: Path, directory: Path, lora_type: Any) -> None:
    llava = tiny_models.load(tiny)
    llava.adapters.add(POLICY, rank=3, alpha=5, lora_type=lora_type)
    llava.adapters.save(POLICY, directory, llava.base)


def _save_reward(tiny: Path, directory: Path, options: RewardConfig, train: str) -> None:
    llava = tiny_models.load(tiny)
    model = kit.build(llava, kit.options(options.kind, options.text_model, train))
    save_reward(model, directory, {})


@pytest.fixture
def call(
    paths: dict[str, Path], tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str, str], tuple[int, list[str]]]:
    """A function: exit code and what was loaded, for a command and a kind of path."""
    rows = [
        ROW
        | {"id": str(n), "response": "red", "response_a": "red", "response_b": "blue"}
        | {"preference": "response_a"}
        for n in range(4)
    ]
    fields = {
        "data.prompts": ("id",),
        "data.demonstrations": ("id", "response"),
        "data.preferences": ("id", "response_a", "response_b", "preference"),
    }
    for option, names in fields.items():
        lines = [json.dumps(ROW | {name: row[name] for name in names}) for row in rows]
        (tmp_path / option).write_text("\n".join(lines))
    (tmp_path / "scorer.py").write_text("def zero(items):\n    return [0.0] * len(items)\n")
    loaded: list[str] = []
    load, add = Llava.load.__func__, Adapters.load  # type: ignore[attr-defined]

    def record_base(cls: type[Llava], /, base: str, **options: Any) -> Llava:
        loaded.append(base)
        return load(cls, base, **options)  # type: ignore[no-any-return]

    def record_adapter(self: Adapters, name: str, directory: Path, *, trains: bool) -> None:
        loaded.append(str(directory))
        add(self, name, directory, trains=trains)

    def stop(*arguments: Any, **options: Any) -> None:
        raise ReadyToEncodeError

    monkeypatch.setattr(Llava, "load", classmethod(record_base))
    monkeypatch.setattr(Adapters, "load", record_adapter)
    monkeypatch.setattr("rlhf.data.collate.resolve_image", stop)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(paths["hub"]))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)

    def run(command: str, kind: str) -> tuple[int, list[str]]:
        words = COMMANDS[command].split()
        files = {
            "PATH": str(paths[kind]),
            "TEXT": str(paths["text"]),
            "OUTPUT": str(tmp_path / "m"),
        }
        files["SCORER"] = f"{tmp_path / 'scorer.py'}:zero"
        for name, file in files.items():
            words = [word.replace(name, file) for word in words]
        words = [word.replace("FILE", str(tmp_path / word.partition("=")[0])) for word in words] + [
            f"output_dir={tmp_path / 'runs'}",
            f"data.root={tiny}",
        ]
        try:
            return main(words), loaded
        except ReadyToEncodeError:
            return 0, loaded

    return run


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("command", COMMANDS)
def test_what_is_named_is_used_or_refused(
    command: str,
    kind: str,
    call: Callable[[str, str], tuple[int, list[str]]],
    paths: dict[str, Path],
    tiny: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, loaded = call(command, kind)
    message = capsys.readouterr().err
    if refusal := _refusal(command, kind):
        assert code == 2 and refusal in message and len(message.strip().split("\n")) == 3
        return
    assert code == 0, message
    path = {"hub id": HUB_ID, "directory": str(paths["directory"])}.get(kind, "")
    adapter = paths[kind] if kind == "adapter" else paths[kind] / "adapter"
    base = path or (str(tiny / "model") if kind in ADAPTERS else str(paths[kind] / "model"))
    if command != "plan":
        assert loaded[0] == base
        assert set(loaded[1:]) - {base} == ({str(adapter)} if kind in ADAPTERS else set())


def _refusal(command: str, kind: str) -> str:
    """A part of the message that refuses this kind; empty if it is used."""
    if kind in NEVER:
        return {"critic": "this is the critic", "checkpoint": "no model at"}.get(
            kind, "this is a reward model"
        )
    if kind in ADAPTERS:
        alora_merge = command == "export" and kind == "ppo alora"
        return "cannot be merged" if alora_merge else REFUSED_ADAPTERS.get(command, "")
    return "there is no adapter to merge" if command == "export" else ""


@pytest.mark.parametrize("option", ["lora_rank=4", "lora_alpha=7", "lora_type=alora"])
@pytest.mark.parametrize("command", ["sft", "reward", "ppo"])
def test_an_adapter_keeps_its_rank_scale_and_type(
    command: str,
    option: str,
    call: Callable[[str, str], tuple[int, list[str]]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(COMMANDS, command, f"{COMMANDS[command]} model.{option}")
    assert call(command, "sft lora")[0] == 2
    assert f"model.{option.partition('=')[0]} is" in capsys.readouterr().err


def test_training_continues_the_adapter_it_is_given(
    paths: dict[str, Path], tiny: Path, tmp_path: Path
) -> None:
    file = tmp_path / "demonstrations.jsonl"
    file.write_text(json.dumps(ROW | {"response": "red"}) + "\n")
    words = ["sft", f"model.path={paths['sft lora']}", f"data.demonstrations={file}"]
    words += [f"data.root={tiny}", f"output_dir={tmp_path}", "sft.epochs=1", "sft.lr=1e-12"]
    assert main(words) == 0
    (trained,) = tmp_path.glob("*/*/adapter")
    weights = []
    for directory in (trained, paths["adapter"]):
        llava = tiny_models.load(tiny)
        llava.adapters.load(POLICY, directory, trains=False)
        weights.append(llava.adapters.tensors(POLICY))
    for name, value in weights[1].items():
        torch.testing.assert_close(weights[0][name], value, atol=1e-6, rtol=0)
