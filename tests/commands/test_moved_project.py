"""A project that is moved as a whole, or whose base model is moved alone, goes on working."""

import json
import shutil
from pathlib import Path

import pytest

from rlhf.cli.main import main
from rlhf.demo.tiny_llava import build_tiny_llava
from rlhf.errors import UsageError
from rlhf.models.locations import locate_model
from rlhf.models.policy import POLICY
from rlhf.rewards.loading import load_reward_model, save_reward
from rlhf.rewards.reward_card import RewardCard
from tests.support import reward_models as kit
from tests.support import tiny_models


@pytest.fixture
def project(tiny: Path, tmp_path: Path) -> Path:
    """A base model, a run with an adapter and a run with a reward model, moved to `new`."""
    old = Path(shutil.copytree(tiny, tmp_path / "old"))
    llava = tiny_models.load(old)
    llava.adapters.add(POLICY, rank=4, alpha=8)
    llava.adapters.save(POLICY, old / "runs/sft/adapter", llava.base)
    llava = tiny_models.load(old)
    options = kit.options("llava_head")
    save_reward(kit.build(llava, options), old / "runs/reward/reward", {})
    return Path(shutil.move(old, tmp_path / "new"))


def test_base_models_are_found_by_their_place_in_the_project(project: Path) -> None:
    location = locate_model(str(project / "runs/sft"))
    assert location.base == str(project / "model")
    directory, card = RewardCard.read(str(project / "runs/reward"))
    assert card.backbone_path(directory) == str(project / "model")
    load_reward_model(
        str(project / "runs/reward"), tiny_models.load(project), share_base_model=True
    )


def test_a_base_model_that_moved_alone_is_named_by_hand(project: Path, tmp_path: Path) -> None:
    base = str(shutil.move(project / "model", tmp_path / "elsewhere"))
    run, reward, output = str(project / "runs/sft"), str(project / "runs/reward"), tmp_path / "m"
    rows = project / "rows.jsonl"
    row = {"image_path": "pictures/00000.png", "instruction": "What?"}
    rows.write_text(json.dumps(row) + "\n")
    image, prompts = str(project / "pictures/00000.png"), f"data.prompts={rows}"
    runs = f"output_dir={tmp_path / 'runs'}"
    for words in (
        ["generate", run, image],
        ["export", run, "export.merge=true", f"output={output}"],
        ["evaluate", base, run, prompts, f"reward.path={reward}", runs],
        ["collect", f"model.path={run}", prompts, f"reward.path={reward}", runs],
    ):
        assert main(words) == 2
        assert main([*words, f"model.base={base}"]) == 0


def test_the_message_names_what_is_missing_and_the_option(project: Path) -> None:
    shutil.rmtree(project / "model")
    with pytest.raises(UsageError, match="the base model is not at") as error:
        locate_model(str(project / "runs/sft"))
    assert "model.base=" in str(error.value)


def test_a_base_model_with_other_weights_is_refused_for_a_reward_model(
    project: Path, tmp_path: Path
) -> None:
    shutil.rmtree(project / "model")
    build_tiny_llava(tmp_path / "model", ["What? red"], seed=1, hidden=32, layers=2)
    other = tiny_models.load(tmp_path)
    with pytest.raises(UsageError, match="would not read what it was trained to read"):
        load_reward_model(
            str(project / "runs/reward"), other, share_base_model=True, base_override=other.base
        )


@pytest.mark.parametrize("text", ['{"r": 4}', "not json", "[]"])
def test_an_adapter_without_a_readable_base_model_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "adapter_config.json").write_text(text)
    assert main(["generate", str(tmp_path), "data.prompts=rows.jsonl"]) in (2, 3)
    with pytest.raises(UsageError, match="no base model is named|cannot be read|no JSON object"):
        locate_model(str(tmp_path))


def test_an_adapter_on_a_base_model_of_the_hub_names_that_model(tmp_path: Path) -> None:
    config = {"base_model_name_or_path": "llava-hf/llava-1.5-7b-hf"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    assert locate_model(str(tmp_path)).base == "llava-hf/llava-1.5-7b-hf"
