"""The loop as a user runs it: commands on files, from images to a report, and again with text."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from transformers import AutoTokenizer, LlamaConfig, LlamaModel

ROOT = Path(__file__).parents[2]
SMALL = (
    "demo.sft_images=160",
    "demo.preference_images=40",
    "demo.evaluation_images=8",
    "demo.tower_steps=20",
    "sft.epochs=1",
    "reward.epochs=1",
    "ppo.iterations=4",
    "ppo.critic_warmup_iterations=1",
    "ppo.rollout_batch_size=16",
    "ppo.minibatch_size=8",
    "ppo.ppo_epochs=2",
)


def rlhf(directory: Path, *args: str, code: int = 0) -> dict[str, object]:
    """Run one command in `directory`; its metrics."""
    command = [sys.executable, "-m", "rlhf", *args, "--json"]
    completed = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    assert completed.returncode == code, completed.stderr
    return dict(json.loads(completed.stdout)) if code == 0 else {}


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory in which `rlhf demo` ran, small."""
    directory = tmp_path_factory.mktemp("loop")
    rlhf(directory, "demo", *SMALL)
    return directory


def single_match(directory: Path, pattern: str) -> Path:
    paths = sorted(directory.glob(pattern))
    assert len(paths) == 1, paths
    return paths[0]


@pytest.mark.slow
def test_the_demo_leaves_every_promised_metric_and_file(demo: Path) -> None:
    summary = json.loads((demo / "runs/demo/summary.json").read_text())
    promised = (
        "win_rate wins_by_correctness losses_by_correctness accuracy_before accuracy_after kl "
        "length_before length_after reward_before reward_after rule_before rule_after "
        "distinct_responses reward_model_accuracy seconds"
    )
    assert set(promised.split()) <= set(summary)
    trained = single_match(demo, "runs/demo/*/reward").parent / "report.html"
    assert "Blindness test" in trained.read_text()
    reports = {path for path in demo.glob("runs/demo/*/report.html") if path != trained}
    assert [path.read_text().count("data:image/") >= 10 for path in reports] == [True]
    adapter = single_match(demo, "runs/demo/*/adapter/adapter_config.json").parents[1]
    assert (adapter / "value_head.safetensors").is_file()
    assert list(adapter.glob("events.out.tfevents.*"))
    assert (adapter / "config.yaml").is_file() and (adapter / "checkpoints").is_dir()


@pytest.mark.slow
def test_a_run_is_continued_by_its_directory(demo: Path) -> None:
    run = single_match(demo, "runs/demo/*/adapter").parent
    longer = (f"resume={run}", "ppo.iterations=6")
    rlhf(demo, "ppo", *longer, code=2)  # the learning rate falls to 0 at the last step
    summary = rlhf(demo, "ppo", *longer, "resume_allow=[ppo.iterations]")
    assert summary["iterations"] == 6
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == [0, 1, 2, 3, 4, 5]


@pytest.mark.slow
def test_two_runs_with_one_seed_give_the_same_curves(demo: Path) -> None:
    model = single_match(demo, "runs/demo/*/model").parent
    pairs = single_match(demo, "runs/demo/*/preferences.jsonl")
    data = single_match(demo, "runs/demo/base-*/data")
    overrides = (f"model.path={model}", f"data.preferences={pairs}", f"data.root={data}", *SMALL)
    for _ in range(2):
        rlhf(demo, "reward", "experiment=demo", "name=twice", *overrides)
    first, second = sorted(demo.glob("runs/twice/*/metrics.jsonl"))
    assert first.read_text() == second.read_text()


@pytest.mark.slow
def test_the_loop_with_a_text_reward_model_and_full_training(demo: Path) -> None:
    """The tiny model describes the images, a small text model reads and scores."""
    model = single_match(demo, "runs/demo/*/model").parent
    pairs = single_match(demo, "runs/demo/*/preferences.jsonl")
    data = single_match(demo, "runs/demo/base-*/data")
    tokenizer = AutoTokenizer.from_pretrained(model / "model")
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
    )
    LlamaModel(text).save_pretrained(demo / "text")
    tokenizer.save_pretrained(demo / "text")
    common = (f"model.path={model}", f"data.root={data}", "experiment=demo", *SMALL, "name=text")
    rlhf(
        demo,
        "reward",
        "reward=caption_text",
        f"reward.text_model={demo / 'text'}",
        f"data.preferences={pairs}",
        *common,
    )
    judge = single_match(demo, "runs/text/*/reward").parent
    prompts = f"data.prompts={data / 'evaluation.jsonl'}"
    options = (f"reward.path={judge}", prompts, "ppo.sanity_checks=false", "model=full")
    tuned = rlhf(demo, "ppo", *common, *options)
    assert tuned["iterations"] == 4
    full = single_match(demo, "runs/text/*/model").parent
    compared = rlhf(demo, "evaluate", str(model), str(full), f"reward.path={judge}", prompts)
    assert 0 <= float(str(compared["win_rate"])) <= 1


@pytest.mark.slow
def test_generate_on_a_given_image_and_instruction(demo: Path) -> None:
    model = single_match(demo, "runs/demo/*/model").parent
    image = single_match(demo, "runs/demo/base-*/data/pictures/evaluation/00000.png")
    overrides = ("instruction=What is <image> </s>?", "sampling.max_new_tokens=8")
    responses = rlhf(demo, "generate", str(model), str(image), *overrides)["responses"]
    assert isinstance(responses, list) and responses[0]["image_path"] == str(image.resolve())


@pytest.mark.slow
def test_the_wheel_runs_outside_the_checkout(tmp_path: Path) -> None:
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    build = (*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(ROOT))
    subprocess.run(build, check=True, capture_output=True)
    wheel = single_match(tmp_path, "rlhf_llava-*.whl")
    assert "rlhf/conf/ppo.yaml" in zipfile.ZipFile(wheel).namelist()
    install = (*pip, "install", "--no-deps", "--target", str(tmp_path / "site"), str(wheel))
    subprocess.run(install, check=True, capture_output=True)
    completed = subprocess.run(
        [sys.executable, "-m", "rlhf", "ppo", "--help"],
        cwd=tmp_path / "site",
        capture_output=True,
        text=True,
        check=False,
    )
    assert completed.returncode == 0, completed.stderr
    assert "ppo.clip_range=0.2" in completed.stdout
