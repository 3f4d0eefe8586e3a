"""`rlhf export RUN export.merge=true`: a plain LLaVA for stock classes without rlhf."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import LlavaForConditionalGeneration

from rlhf.cli.main import main
from rlhf.models.llava import Llava
from rlhf.models.policy import POLICY
from tests.support import tiny_models

STOCK = """
import sys, torch
from transformers import AutoModelForImageTextToText, AutoProcessor
model = AutoModelForImageTextToText.from_pretrained(sys.argv[1])
AutoProcessor.from_pretrained(sys.argv[1])
ids = torch.arange(5, 25).unsqueeze(0)
with torch.no_grad():
    torch.save(model(input_ids=ids).logits, sys.argv[2])
assert not any(name.split(".")[0] == "rlhf" for name in sys.modules)
"""


@pytest.fixture
def run(tiny: Path, tmp_path: Path) -> tuple[Path, Llava]:
    """A run directory with an adapter, and the model that carries it."""
    llava = tiny_models.load(tiny)
    llava.adapters.add(POLICY, rank=4, alpha=8)
    with torch.no_grad():
        for value in llava.adapters.tensors(POLICY).values():
            value.add_(0.1 * torch.randn_like(value))
    llava.adapters.save(POLICY, tmp_path / "run" / "adapter", llava.base)
    return tmp_path / "run", llava


def exported(run: Path, capsys: pytest.CaptureFixture[str], *overrides: str) -> Path:
    assert main(["export", str(run), "export.merge=true", "--json", *overrides]) == 0
    return Path(json.loads(capsys.readouterr().out)["output"])


def test_a_merged_run_has_equal_logits_in_stock_classes(
    run: tuple[Path, Llava], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory, llava = run
    merged = exported(directory, capsys)
    assert merged == directory / "merged"
    subprocess.run([sys.executable, "-c", STOCK, str(merged), str(tmp_path / "out.pt")], check=True)
    merged_logits = torch.load(tmp_path / "out.pt", weights_only=True)  # noqa: TID251
    ids = torch.arange(5, 25).unsqueeze(0)
    with torch.no_grad():
        adapter_logits = llava.model(input_ids=ids).logits
        with llava.adapters.use(None):
            base_logits = llava.model(input_ids=ids).logits
    torch.testing.assert_close(merged_logits, adapter_logits, atol=1e-5, rtol=1e-5)
    assert float((merged_logits - base_logits).abs().max()) > 1e-2
    assert not (merged / "adapter_config.json").exists()
    card = (merged / "README.md").read_text()
    assert f"base_model: {llava.base}" in card and "library_name: transformers" in card


@pytest.mark.parametrize(("stored_dtype", "overrides", "expected"), [
    ("bfloat16", (), torch.bfloat16),
    ("bfloat16", ("dtype=float32",), torch.float32),
    ("float32", ("dtype=bfloat16", "model.quantization=nf4"), torch.bfloat16),
])  # fmt: skip
def test_a_merged_model_has_the_dtype_of_the_base_model_or_of_the_option(
    run: tuple[Path, Llava],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    stored_dtype: str,
    overrides: tuple[str, ...],
    expected: torch.dtype,
) -> None:
    directory, llava = run
    dtype = getattr(torch, stored_dtype)
    base_model = LlavaForConditionalGeneration.from_pretrained(llava.base, dtype=dtype)
    base_model.save_pretrained(tmp_path / "base_model")
    llava.processor.save_pretrained(tmp_path / "base_model")
    llava.adapters.save(POLICY, directory / "adapter", str(tmp_path / "base_model"))
    merged = exported(directory, capsys, f"output={tmp_path / 'there'}", *overrides)
    with safe_open(merged / "model.safetensors", "pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {expected}  # noqa: SIM118


def test_a_model_without_an_adapter_is_not_merged(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(tiny / "model"), "export.merge=true"]) == 2
    assert "no adapter to merge" in capsys.readouterr().err
    assert main(["export", "export.merge=true"]) == 2
