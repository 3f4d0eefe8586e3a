"""The surface of `import rlhf`: its names exist, are described, and load when they are used."""

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import rlhf

ROOT = Path(__file__).parents[1]
SOURCE = ast.parse(Path(rlhf.__file__).read_text())
# Every public name with the parameters of its call: a change here changes what users write.
SURFACE = {
    "Callback": "",
    "DataError": "what where fix",
    "DivergedError": "what where fix",
    "Demonstrations": "records root max_prompt_tokens on_too_long",
    "Llava": "model processor base",
    "MLflowTracker": "experiment run_name tracking_uri",
    "ModelConfig": "path base train lora_rank lora_alpha lora_type quantization "
    "gradient_checkpointing max_prefill_tokens vision_cache_gib vision_cache_dir prefix_cache_gib",
    "PPOConfig": ...,
    "PPOTrainer": "policy reward prompts config judge sampling seed callbacks run_dir trackers "
    "run_config world",
    "Policy": "llava reference temperature critic",
    "Policy.from_model": "model config training temperature seed critic_adapter",
    "Preferences": "records root max_prompt_tokens on_too_long",
    "Prompts": "records root max_prompt_tokens on_too_long",
    "Prompts.from_dataset": "dataset columns image_dir options",
    "Prompts.from_directory": "directory instruction recursive on_bad_image options",
    "Prompts.from_jsonl": "path root on_bad_image options",
    "Prompts.from_list": "rows image_dir options",
    "ResourceError": "what where fix",
    "Reward": "",
    "RewardFunction": "function name on_failure",
    "RewardConfig": ...,
    "RewardModel": "",
    "RewardTrainer": "model pairs config validation steps seed callbacks run_dir trackers "
    "run_config world",
    "RlhfError": "what where fix",
    "SFTConfig": ...,
    "SFTTrainer": "model demonstrations config training seed callbacks run_dir trackers "
    "run_config world",
    "Sample": "image instruction response score",
    "SamplingConfig": "temperature top_k top_p max_new_tokens batch_size cuda_graphs",
    "Scorer": ...,
    "TensorBoardTracker": "directory purge_step",
    "Tracker": ...,
    "UsageError": "what where fix",
    "WandbTracker": "options",
    "build_reward_model": "llava config lora captions init_adapter",
    "evaluate": "models prompts reward sampling seed max_tokens",
    "generate": "model prompts sampling seed",
    "load_image": "path",
    "load_model": "path device dtype adapter base options",
    "join_processes": "patience",
    "load_reward": "path name base",
}


def find(name: str) -> Any:
    """The object of a dotted name of the package."""
    value: Any = rlhf
    for part in name.split("."):
        value = getattr(value, part)
    return value


def test_the_surface_is_the_one_that_users_know() -> None:
    assert sorted({name.split(".")[0] for name in SURFACE}) == rlhf.__all__
    for name, parameters in SURFACE.items():
        if isinstance(parameters, str):
            assert list(inspect.signature(find(name)).parameters) == parameters.split(), name


def test_every_name_is_described_where_it_is_defined() -> None:
    for name in rlhf.__all__:
        assert inspect.getdoc(find(name)), name
        assert name in dir(rlhf)


def test_editors_see_the_names_that_are_imported_when_used() -> None:
    block = next(node for node in SOURCE.body if isinstance(node, ast.If))
    seen = {
        alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == rlhf._HOMES
    assert sorted(seen) == rlhf.__all__


def test_import_loads_no_library_and_options_load_no_torch() -> None:
    code = (
        "import sys, rlhf; assert not {'torch', 'transformers', 'msgspec', 'PIL'} & {*sys.modules};"
        "rlhf.PPOConfig(); rlhf.UsageError('x'); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'rlhf' has no attribute 'PPOTrainr'"):
        _ = rlhf.PPOTrainr  # type: ignore[attr-defined]
    assert not hasattr(rlhf, "torch")


def test_the_page_names_what_there_is() -> None:
    pages = [ROOT / "docs/pages/guides/python.md", ROOT / "README.md"]
    named = {x for page in pages for x in re.findall(r"\brlhf\.([a-zA-Z]\w+)", page.read_text())}
    assert named - {*rlhf.__all__} <= {"__all__"}, "a name that is not public"
    text = pages[0].read_text()
    unsaid = {name for name in rlhf.__all__ if not re.search(rf"\b{name}\b", text)}
    assert unsaid <= {
        *("DataError", "DivergedError", "ResourceError", "UsageError"),  # each an RlhfError
        *("Llava", "Reward", "RewardModel", "Sample"),  # what is returned or handed over
    }


def test_a_star_import_gives_the_surface() -> None:
    names: dict[str, Any] = {}
    exec("from rlhf import *", names)  # noqa: S102
    assert {*rlhf.__all__} <= names.keys()
