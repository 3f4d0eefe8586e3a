"""What a historical bug is, and how it is put into a copy of the package."""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

# Projects as the sources name them.
REPOSITORIES = {
    "align-anything": "PKU-Alignment/align-anything",
    "AReaL": "areal-project/AReaL",
    "axolotl": "axolotl-ai-cloud/axolotl",
    "clip-interrogator-ext": "pharmapsychotic/clip-interrogator-ext",
    "DeepSpeedExamples": "deepspeedai/DeepSpeedExamples",
    "EasyR1": "hiyouga/EasyR1",
    "exllamav2": "turboderp-org/exllamav2",
    "flymyai-lora-trainer": "FlyMyAI/flymyai-lora-trainer",
    "keras-hub": "keras-team/keras-hub",
    "LightRFT": "opendilab/LightRFT",
    "LlamaFactory": "hiyouga/LlamaFactory",
    "LLaVA": "haotian-liu/LLaVA",
    "LLaVA-Rad": "microsoft/LLaVA-Rad",
    "LLaVA-RLHF": "llava-rlhf/LLaVA-RLHF",
    "lmms-finetune": "zjysteven/lmms-finetune",
    "miles": "radixark/miles",
    "mistral.rs": "EricLBuehler/mistral.rs",
    "ms-swift": "modelscope/ms-swift",
    "NeMo-RL": "NVIDIA-NeMo/RL",
    "NiuTrans": "NiuTrans/Vision-LLM-Alignment",
    "NoisyRollout": "real-absolute-AI/NoisyRollout",
    "open-r1": "huggingface/open-r1",
    "OpenRLHF": "OpenRLHF/OpenRLHF",
    "peft": "huggingface/peft",
    "ProjectKestrel": "SanjaySoniLV/ProjectKestrel",
    "Qwen": "QwenLM/Qwen",
    "Qwen3-VL": "QwenLM/Qwen3-VL",
    "RL4VLM": "RL4VLM/RL4VLM",
    "rlhf-book": "natolambert/rlhf-book",
    "RLinf": "RLinf/RLinf",
    "sd_dreambooth_extension": "d8ahazard/sd_dreambooth_extension",
    "SkyRL": "NovaSky-AI/SkyRL",
    "stable-baselines3": "DLR-RM/stable-baselines3",
    "torchtitan": "pytorch/torchtitan",
    "torchtune": "meta-pytorch/torchtune",
    "transformers": "huggingface/transformers",
    "trl": "huggingface/trl",
    "trlx": "CarperAI/trlx",
    "unsloth": "unslothai/unsloth",
    "verl": "verl-project/verl",
    "vllm": "vllm-project/vllm",
    "vllm-metal": "vllm-project/vllm-metal",
}


@dataclass(frozen=True)
class Bug:
    """A bug of another project, written into ours.

    Attributes:
        name: what goes wrong, in a few words; the test's id.
        sources: where it happened, as "project #thread" or "project: what".
        file: of ours, below `rlhf/`.
        patches: (anchor, replacement) pairs; each anchor stands exactly once in the file.
        killer: the test that must fail.
    """

    name: str
    sources: tuple[str, ...]
    file: str
    patches: tuple[tuple[str, str], ...]
    killer: str


@dataclass(frozen=True)
class Excused:
    """Entries of the list that have no counterpart here, and why."""

    sources: tuple[str, ...]
    reason: str


def patched(bug: Bug, text: str) -> str:
    """The text of the bug's file with the bug in it.

    Raises:
        ValueError: an anchor does not stand exactly once.
    """
    for anchor, replacement in bug.patches:
        if text.count(anchor) != 1:
            raise ValueError(f"{bug.file}: {text.count(anchor)} places have {anchor!r}, wanted 1")
        text = text.replace(anchor, replacement)
    return text


def copy_with(bug: Bug, package: Path, directory: Path) -> None:
    """Copy `package` to directory/rlhf, with conf/ beside it, and put the bug into the copy."""
    shutil.copytree(package, directory / "rlhf")
    (directory / "conf").symlink_to(package.parent / "conf")
    file = directory / "rlhf" / bug.file
    file.write_text(patched(bug, file.read_text()))
    for stale in (file.parent / "__pycache__").glob(f"{file.stem}.*.pyc"):
        stale.unlink()


def link(source: str) -> str:
    """A source as Markdown, linked to its thread or its project where that is known."""
    project = re.split(r"[ :]", source, maxsplit=1)[0]
    if project not in REPOSITORIES:
        return source
    thread = re.search(r"#(\d+)", source)
    page = f"/issues/{thread[1]}" if thread else ""
    return f"[{source}](https://github.com/{REPOSITORIES[project]}{page})"
