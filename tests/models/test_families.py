"""Models of many configurations are computed as by the stock classes, or refused."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoTokenizer

from rlhf.cli.main import main
from rlhf.errors import DataError, UsageError
from rlhf.models.llava import Llava
from rlhf.models.packed.supported import check_options, position_limit
from rlhf.planning.model_dims import dims_of
from tests.families.comparison import batch, compare, packed_logits
from tests.families.configurations import (
    DYNAMIC,
    EXACT,
    LONGROPE,
    REFUSED,
    Configuration,
    build,
)
from tests.families.table import PAGE, refusal_of
from tests.support.anyres import write_image

QUICK = (
    "text model Phi-3, longrope",  # fused projections
    "text model Gemma-3",  # layers with and without a window
    "text model Qwen2-MoE",
    "LLaVA-NeXT: Granite and SigLIP, as granite-vision",
    "OneVision: images of odd sizes, anyres_max_2",
)


@pytest.fixture(scope="module")
def tokenizer(tiny: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny / "model")


def named(name: str) -> Configuration:
    return next(x for x in (*EXACT, *REFUSED) if x.name == name)


def loaded(tokenizer: Any, **options: Any) -> Llava:
    """A LLaVA of Qwen2 with a window in its second layer, or with other options."""
    window = {"use_sliding_window": True, "max_window_layers": 1, "sliding_window": 8}
    configuration = Configuration("", text="qwen2", text_options=window | options)
    return Llava(*build(configuration, tokenizer), "")


@pytest.mark.parametrize("name", QUICK)
def test_logits_greedy_tokens_and_saved_adapters_are_those_of_the_stock_classes(
    tokenizer: Any, tmp_path: Path, name: str
) -> None:
    found = compare(named(name), tokenizer, tmp_path)
    assert found.exact, found


@pytest.mark.parametrize("configuration", REFUSED, ids=lambda x: x.name)
def test_what_packed_passes_do_not_compute_is_refused_in_three_lines(
    tokenizer: Any, configuration: Configuration
) -> None:
    message = refusal_of(configuration, tokenizer)
    assert configuration.refusal in message.split("\n")[0]
    assert len(message.split("\n")) == 3


def test_the_page_has_every_configuration() -> None:
    page = PAGE.read_text()
    assert len(EXACT) == 49 + 2
    for configuration in (*EXACT, *REFUSED):
        assert f"\n| {configuration.name} | " in page
        assert configuration.refusal in page


def test_a_layer_that_loses_the_layout_later_is_refused_at_once(
    tokenizer: Any, tmp_path: Path
) -> None:
    """So that a count in each forward holds what the check at loading found."""
    llava = loaded(tokenizer)
    inputs = batch(llava, named("text model Qwen2"), tmp_path)
    attention = llava.language_model.layers[1].self_attn
    forward = attention.forward

    def without_layout(*given: Any, layout: object, calls: object, **options: Any) -> Any:
        return forward(*given, **options)

    attention.forward = without_layout
    with pytest.raises(UsageError, match="of its 2 layers 1 pass"):
        packed_logits(llava, *inputs)


def test_a_window_that_the_attention_does_not_get_is_refused(tokenizer: Any) -> None:
    """The model's own mask has it: a window of 8 in the configuration, another in the layer."""
    model, processor = build(named("text model Qwen2, window of 8"), tokenizer)
    model.model.language_model.layers[1].self_attn.sliding_window = None
    with pytest.raises(UsageError, match="mask in layer 1 that is neither causal nor"):
        Llava(model, processor, "")


def test_layers_that_mix_tokens_outside_of_the_attention_are_refused(tokenizer: Any) -> None:
    model, processor = build(named("text model Qwen2"), tokenizer)

    def add_the_token_before(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
        return output + output.roll(1, dims=1)

    mlp = model.model.language_model.layers[0].mlp
    hook = mlp.register_forward_hook(add_the_token_before)
    with pytest.raises(UsageError, match="qwen2 mixes tokens of different sequences"):
        Llava(model, processor, "")
    hook.remove()
    Llava(model, processor, "")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"softcap": 50.0}, "softcap=50.0"),
        ({"s_aux": torch.zeros(4)}, "with s_aux,"),
        ({"dropout": 0.1}, "dropout=0.1"),
        ({"is_causal": False}, "not causal"),
        ({"head_mask": torch.ones(4)}, "head_mask"),
        ({"anything": 0}, "anything=0"),
    ],
)
def test_an_option_of_the_attention_is_computed_or_refused(
    tokenizer: Any, options: dict[str, Any], words: str
) -> None:
    module = loaded(tokenizer).language_model.layers[0].self_attn
    off = {"dropout": 0.0, "softcap": None, "output_attentions": False, "is_causal": True}
    check_options(module, off | {"position_ids": torch.arange(3), "use_cache": False})
    with pytest.raises(UsageError, match=words):
        check_options(module, off | options)


@pytest.mark.parametrize("rope", [DYNAMIC, LONGROPE], ids=["dynamic", "longrope"])
def test_dynamic_rope_is_exact_up_to_the_trained_length_and_refused_beyond(
    tokenizer: Any, tmp_path: Path, rope: dict[str, Any]
) -> None:
    """Beyond, a row's frequencies would be those of the longest row of its batch."""

    def with_trained_length(length: int) -> Configuration:
        longrope = rope | {"original_max_position_embeddings": length}
        options: dict[str, Any] = {"rope_parameters": rope if rope is DYNAMIC else longrope}
        if rope is DYNAMIC:
            options["max_position_embeddings"] = length
        return Configuration("", text="llama", text_options=options)

    llava = Llava(*build(with_trained_length(51), tokenizer), "")
    inputs = batch(llava, named("text model Qwen2"), tmp_path)
    assert max(x + y for x, y in zip(*(x.spans.lengths for x in inputs), strict=True)) == 51
    together = packed_logits(llava, *inputs)
    rows = [[x.select(torch.tensor([row])) for x in inputs] for row in range(3)]
    alone = torch.cat([packed_logits(llava, *row) for row in rows])  # type: ignore[arg-type]
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    llava = Llava(*build(with_trained_length(50), tokenizer), "")
    with pytest.raises(DataError, match="have 51 tokens, 50 is the limit"):
        packed_logits(llava, *inputs)


def test_the_trained_length_is_the_shortest_of_all_kinds_of_layers() -> None:
    plain = {"rope_type": "default", "rope_theta": 1e4}
    parts = {"full_attention": LONGROPE, "sliding_attention": plain}
    config = SimpleNamespace(max_position_embeddings=512, rope_parameters=plain)
    assert position_limit(config) is None
    config.rope_parameters = parts
    assert position_limit(config) == 128
    config.rope_parameters = parts | {"sliding_attention": DYNAMIC}
    assert position_limit(config) == 128
    config.max_position_embeddings = 64
    assert position_limit(config) == 64


@pytest.mark.parametrize("text", ["llama", "phi3", "phi", "starcoder2", "glm4"])
def test_lora_is_on_every_linear_layer_of_a_decoder_layer(tokenizer: Any, text: str) -> None:
    llava = Llava(*build(Configuration("", text=text), tokenizer), "")
    linears = {
        f"model.language_model.{name}"
        for name, module in llava.language_model.named_modules()
        if isinstance(module, nn.Linear)
    }
    llava.adapters.add("policy", rank=2, alpha=4)
    assert {*llava.adapters.layers} == linears


PROMPTS = "data.prompts=prompts.jsonl"
SCORER = "--scorer=length.py:length"
COMMANDS = (
    ["generate", "model", "one.png"],
    ["evaluate", "model", PROMPTS, SCORER, "evaluation.best_of=2"],
    ["collect", "model.path=model", PROMPTS],
    ["sft", "model.path=model", "data.demonstrations=demos.jsonl"],
    ["reward", "model.path=model", "data.preferences=pairs.jsonl"],
    ["ppo", "model.path=model", PROMPTS, SCORER],
)


@pytest.mark.parametrize("words", COMMANDS, ids=lambda x: x[0])
def test_every_command_that_loads_a_model_refuses_it(
    tokenizer: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    model, processor = build(named("text model StableLM"), tokenizer)
    model.save_pretrained("model")
    processor.save_pretrained("model")
    write_image(tmp_path / "one.png", 24, 24)
    row = '{"image_path": "one.png", "instruction": "What?", '
    Path("prompts.jsonl").write_text(row + '"id": "1"}\n')
    Path("demos.jsonl").write_text(row + '"response": "red"}\n')
    pair = '"response_a": "red", "response_b": "blue", "preference": "a"}\n'
    Path("pairs.jsonl").write_text((row + pair) * 8)
    Path("length.py").write_text("def length(images, instructions, responses): ...\n")
    assert main(words) == 2
    error = capsys.readouterr().err
    assert "stablelm cannot run over packed tokens: StableLmAttention gets no layout" in error
    assert "Traceback" not in error


@pytest.mark.parametrize("name", ["text model GPT-2", "LLaVA: Pixtral tower"])
def test_a_model_is_refused_by_its_configuration_before_its_weights_are_read(
    tokenizer: Any, tmp_path: Path, name: str
) -> None:
    model, processor = build(named(name), tokenizer)
    model.config.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    with pytest.raises(UsageError, match="cannot run over packed|is no vision tower"):
        Llava.load(str(tmp_path), device=torch.device("cpu"), dtype=torch.float32)


def test_the_plan_refuses_a_model_by_its_configuration(tokenizer: Any) -> None:
    for name in ("GPT-2", "OPT", "MPT", "Falcon", "GPT-NeoX"):
        config = build(named(f"text model {name}"), tokenizer)[0].config
        with pytest.raises(UsageError, match="cannot run over packed tokens"):
            dims_of(config)
        config.text_config.tie_word_embeddings = True  # of which transformers builds no model
        with pytest.raises(UsageError):
            dims_of(config)
    with pytest.raises(UsageError, match="pixtral"):
        dims_of(build(named("LLaVA: Pixtral tower"), tokenizer)[0].config)
