"""Chat templates in the forms in use, each with its special tokens, and what it writes."""

from typing import Any, NamedTuple

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AddedToken, PreTrainedTokenizerFast

from tests.support.processors import build_processor

# A turn's parts: images, then texts.
_PARTS = (
    "{% for p in m.content if p.type == 'image' %}<image>\n{% endfor %}"
    "{% for p in m.content if p.type == 'text' %}{{ p.text }}{% endfor %}"
)
_TRIMMED = _PARTS.replace("p.text }}", "p.text | trim }}")
_ANSWERS = "{{ 'OPEN' if add_generation_prompt }}"


def _turns(before: str, content: str, after: str, opening: str) -> str:
    turn = f"{before}{content}{after}"
    return f"{{% for m in messages %}}{turn}{{% endfor %}}" + _ANSWERS.replace("OPEN", opening)


class Form(NamedTuple):
    """A chat template and what a test expects of it.

    Attributes:
        template: in Jinja.
        specials: special tokens that it writes, besides end-of-sequence and the image's.
        eos: the tokenizer's end-of-sequence.
        end: the token that ends a response.
        written: the conversation (" hi " with an image, " yes "), the image's token once.
    """

    template: str
    specials: tuple[str, ...]
    eos: str
    end: str
    written: str


_HEADER = "<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
_CHAT_ML_OPEN = "<|im_start|>assistant\n"
_TRIMS_TEXT = "{{ m.content | trim }}"
FORMS = {
    "llama-3": Form(
        _turns(
            _HEADER,
            _TRIMMED,
            "<|eot_id|>",
            "<|start_header_id|>assistant<|end_header_id|>\n\n",
        ),
        ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        "<|end_of_text|>",
        "<|eot_id|>",
        "<|start_header_id|>user<|end_header_id|>\n\n<image>\nhi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nyes<|eot_id|>",
    ),
    "llama-3 of a language model": Form(  # the content is a text: the image stands before it
        _turns(
            _HEADER,
            _TRIMS_TEXT,
            "<|eot_id|>",
            "<|start_header_id|>assistant<|end_header_id|>\n\n",
        ),
        ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        "<|end_of_text|>",
        "<|eot_id|>",
        "<|start_header_id|>user<|end_header_id|>\n\n<image>\n hi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nyes<|eot_id|>",
    ),
    "vicuna": Form(
        "{% for m in messages %}{{ m.role.upper() }}: "
        + _PARTS
        + "{{ '</s>' if m.role == 'assistant' else ' ' }}{% endfor %}"
        + _ANSWERS.replace("OPEN", "ASSISTANT:"),
        (),
        "</s>",
        "</s>",
        "USER: <image>\n hi  ASSISTANT:  yes </s>",
    ),
    "vicuna without an end": Form(
        _turns("{{ m.role.upper() }}: ", _PARTS, " ", "ASSISTANT:"),
        (),
        "</s>",
        "</s>",
        "USER: <image>\n hi  ASSISTANT:  yes </s>",
    ),
    "mistral": Form(
        "{% for m in messages %}{{ '[INST] ' if m.role == 'user' }}"
        + _PARTS
        + "{{ ' [/INST]' if m.role == 'user' else '</s>' }}{% endfor %}",
        (),
        "</s>",
        "</s>",
        "[INST] <image>\n hi  [/INST] yes </s>",
    ),
    "chatml": Form(
        _turns("<|im_start|>{{ m.role }}\n", _PARTS, "<|im_end|>\n", _CHAT_ML_OPEN),
        ("<|im_start|>", "<|im_end|>"),
        "<|endoftext|>",
        "<|im_end|>",
        "<|im_start|>user\n<image>\n hi <|im_end|>\n<|im_start|>assistant\n yes <|im_end|>",
    ),
    "chatml, last turn open": Form(  # and a system message that is always there
        "<|im_start|>system\nBe kind.<|im_end|>\n"
        + _turns(
            "<|im_start|>{{ m.role }}\n",
            _PARTS,
            "{{ '<|im_end|>\n' if add_generation_prompt or not loop.last }}",
            _CHAT_ML_OPEN,
        ),
        ("<|im_start|>", "<|im_end|>"),
        "<|endoftext|>",
        "<|im_end|>",
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\n<image>\n hi <|im_end|>\n"
        "<|im_start|>assistant\n yes <|im_end|>",
    ),
    "chatml without an end": Form(
        _turns("<|im_start|>{{ m.role }}\n", _PARTS, "{{ '\n' }}", _CHAT_ML_OPEN),
        ("<|im_start|>",),
        "<|endoftext|>",
        "<|endoftext|>",
        "<|im_start|>user\n<image>\n hi \n<|im_start|>assistant\n yes <|endoftext|>",
    ),
    "gemma": Form(
        _turns(
            "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n",
            _TRIMMED,
            "<end_of_turn>\n",
            "<start_of_turn>model\n",
        ),
        ("<start_of_turn>", "<end_of_turn>"),
        "<eos>",
        "<end_of_turn>",
        "<start_of_turn>user\n<image>\nhi<end_of_turn>\n<start_of_turn>model\nyes<end_of_turn>",
    ),
    "phi-3": Form(
        "{% for m in messages %}<|{{ m.role }}|>\n"
        + _PARTS
        + "<|end|>\n{% endfor %}{{ '<|assistant|>\n' if add_generation_prompt else eos_token }}",
        ("<|user|>", "<|assistant|>", "<|end|>"),
        "<|endoftext|>",
        "<|end|>",
        "<|user|>\n<image>\n hi <|end|>\n<|assistant|>\n yes <|end|>",
    ),
}


def trained(*specials: str, eos: str) -> Any:
    """Train a byte-level tokenizer on a few words.

    Args:
        *specials: its special tokens besides the image's and end-of-sequence.
        eos: end-of-sequence.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        special_tokens=[eos, "<image>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(["hi yes no"] * 9, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=eos)
    fast.add_tokens([AddedToken(name, special=True) for name in specials], special_tokens=True)
    return fast


def processor_of(form: Form) -> Any:
    """Build a LLaVA processor with a form's template and special tokens."""
    return build_processor(trained(*form.specials, eos=form.eos), form.template)
