"""Load the weights of a transformers checkpoint whole, or refuse it and name what is wrong."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedConfig
from transformers.utils import logging

from rlhf.errors import DataError, UsageError, as_usage_error
from rlhf.models.finite_weights import check_finite
from rlhf.models.quantization import misshapen_layers
from rlhf.models.vision.families import FAMILIES

WEIGHTS, SHARDS = "model.safetensors", "model.safetensors.index.json"
_MAX_NUMBERS_PER_BYTE = 8  # nf4 stores two
_SMALL = 50_000_000  # numbers; models of tests are checked by their tensors only
_SHOWN = 3  # tensors named in a message


def check_files(base: str) -> None:
    """Refuse a LLaVA whose files transformers would read otherwise than they were meant.

    Args:
        base: directory or hub id.

    Raises:
        UsageError: two sets of weights, or the configuration of an original LLaVA, which names
            neither text nor vision model.
    """
    directory = Path(base)
    if (directory / WEIGHTS).is_file() and (directory / SHARDS).is_file():
        raise UsageError(
            f"two sets of weights are in one directory: {WEIGHTS} and those of {SHARDS}",
            base,
            "move one of them away, so that it is clear which is meant",
        )
    config, _ = PreTrainedConfig.get_config_dict(base)
    kind = str(config.get("model_type"))
    converted = {"text_config", "vision_config"} <= config.keys()
    if kind.startswith(("llava_llama", "llava_mistral", "llava_qwen", "llava_mpt")) or (
        kind in FAMILIES and not converted
    ):
        raise UsageError(
            "this is an original LLaVA checkpoint, not one that was converted for transformers",
            f"{base}: config.json has model_type {kind} and no text_config",
            "use the -hf checkpoint, e.g. llava-hf/llava-1.5-7b-hf",
        )


@contextmanager
def reading_llava(base: str) -> Iterator[None]:
    """Check the files of a LLaVA; inside the block any fault of them becomes a usage error.

    Args:
        base: directory or hub id.

    Raises:
        UsageError: a library raised, or `check_files` did.
    """
    fix = "check model.path; if a package is named, install the package"
    with as_usage_error(f"{base} does not load as a LLaVA", "its files", fix):
        check_files(base)
        yield


def check_weights_size(model: Any, base: str) -> None:
    """Refuse a configuration that describes far more weights than the files hold.

    transformers would make what is missing, of any size, before it is found to be missing.

    Args:
        model: the model on the meta device.
        base: directory of its files; nothing is checked for a hub id.

    Raises:
        DataError: it has over eight times as many numbers as the files have bytes.
    """
    stored = sum(path.stat().st_size for path in Path(base).glob("[!.]*.safetensors"))
    described = sum(tensor.numel() for tensor in (*model.parameters(), *model.buffers()))
    if stored and described > _MAX_NUMBERS_PER_BYTE * stored + _SMALL:
        raise DataError(
            f"config.json describes {described:,} weights, the files hold {stored:,} bytes",
            base,
            "put the configuration back that the weights were saved with",
        )


def load_whole(model_class: Any, base: str, *, headless: bool = False, **options: Any) -> Any:
    """Load a model by `from_pretrained` and check that every tensor was found in its files.

    transformers draws tensors that are missing or of another shape at random, and ignores tensors
    that it does not know.

    Args:
        model_class: a transformers class.
        base: directory or hub id.
        headless: the class has no head; that of the checkpoint, and a missing pooler, are ignored.
        options: further arguments of `from_pretrained`.

    Raises:
        UsageError: a tensor is missing, of another shape, unknown, or not finite.
    """
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # it prints a table of the tensors that are refused below
    try:
        model, report = model_class.from_pretrained(
            base,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            trust_remote_code=False,
            use_safetensors=True,  # other weight files are pickles, which can run code
            **options,
        )
    finally:
        logging.set_verbosity(verbosity)
    faults = {
        "missing": list(report["missing_keys"]),
        "of another shape": [
            *(name for name, *_ in report["mismatched_keys"]),
            *misshapen_layers(model),
        ],
        "unknown to this architecture": list(report["unexpected_keys"]),
    }
    if headless:
        faults = _without_head(model, faults)
    _check_faults(base, faults)
    check_finite(model.named_parameters(), base)
    return model


def _without_head(model: nn.Module, faults: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """Drop the tensors of the checkpoint's head, and of a pooler, whose output is not read."""
    parts = {name.split(".")[0] for name, _ in model.named_parameters()} - {"pooler"}
    return {
        fault: [name for name in names if name.split(".")[0] in parts]
        for fault, names in faults.items()
    }


def _check_faults(base: str, faults: Mapping[str, list[str]]) -> None:
    found = [_summary(fault, sorted(names)) for fault, names in faults.items() if names]
    if found:
        raise UsageError(
            f"the checkpoint is not whole: {'; '.join(found)}",
            base,
            "download or save it again; weights of another layout must be converted first",
        )


def _summary(fault: str, names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    noun = "tensor is" if len(names) == 1 else "tensors are"
    return f"{len(names)} {noun} {fault} ({', '.join(names[:_SHOWN])}{more})"


def check_processor(model: Any, processor: Any, base: str) -> None:
    """Refuse a processor that belongs to another model.

    Args:
        model: a transformers LLaVA.
        processor: the processor stored beside it.
        base: directory or hub id of both.

    Raises:
        UsageError: the tokenizer has ids without an embedding, or the two name different ids of
            the image placeholder.
    """
    ids, rows = len(processor.tokenizer), model.get_input_embeddings().num_embeddings
    if ids > rows:
        raise UsageError(
            f"the tokenizer has {ids} ids, the model embeddings for {rows}",
            base,
            "resize the model's embeddings, or use the tokenizer that it was saved with",
        )
    image_ids = int(model.config.image_token_id), int(processor.image_token_id)
    if image_ids[0] != image_ids[1]:
        raise UsageError(
            f"the image placeholder is id {image_ids[0]} to the model, {image_ids[1]} to the "
            "processor",
            f"{base}: image_token_index in config.json, image_token of the processor",
            "use the processor that the model was saved with",
        )
