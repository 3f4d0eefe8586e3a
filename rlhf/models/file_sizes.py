"""Refuse a model's files, before any library reads them, if they are larger than any honest one."""

import re
from pathlib import Path
from typing import Any

from rlhf.errors import DataError
from rlhf.storage.bounded import check_size
from rlhf.storage.json_files import JsonObject, read_json

MAX_VOCABULARY_BYTES = 40_000_000  # tokenizer.json and the like; that of Gemma 3 has 33 MB
MAX_HEADER_BYTES = 5_000_000  # of a file of weights: 50,000 tensors
_READ = """
    config.json generation_config.json adapter_config.json model.safetensors.index.json
    preprocessor_config.json video_preprocessor_config.json processor_config.json
    tokenizer.json tokenizer_config.json special_tokens_map.json added_tokens.json vocab.json
    vocab.txt merges.txt tokenizer.model spiece.model sentencepiece.bpe.model
    chat_template.jinja chat_template.json
"""
_READ_WHOLE = ("config.json", "preprocessor_config.json", "processor_config.json")
_LAYERS = re.compile(r".*(layers?|depth|experts)")  # each is built, one after the other
_MAX_LAYERS = 1000
_SIDES = """
    size crop_size height width shortest_edge longest_edge image_size image_grid_pinpoints
"""
_MAX_SIDE = 5000  # pixels that a processor scales every image to
_FIX = "use the files of a published LLaVA, e.g. llava-hf/llava-1.5-7b-hf"


def check_model_files(directory: Path) -> None:
    """Refuse a model whose files would take a library minutes or gigabytes to read.

    Args:
        directory: of a model or an adapter.

    Raises:
        DataError: a file is too large, nested too deeply, or describes an absurd model.
    """
    for path in (directory / name for name in _READ.split()):
        if path.exists():
            check_size(path, MAX_VOCABULARY_BYTES)
    for path in directory.glob("[!.]*.safetensors"):
        if path.is_file():
            _check_header(path)
    for path in (directory / name for name in _READ_WHOLE):
        if path.exists():
            _check_sizes(read_json(path, JsonObject, _FIX), path)


def _check_header(path: Path) -> None:
    """Refuse a file of weights with a long header, of which safetensors accepts 100 MB."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if length > MAX_HEADER_BYTES:
        what = f"the header has {length:,} bytes, at most {MAX_HEADER_BYTES:,} are read"
        raise DataError(what, str(path), "download or save the weights again")


def _check_sizes(values: Any, path: Path, name: str = "") -> None:
    """Refuse a number of layers, or a side of images, that no model has."""
    if isinstance(values, dict):
        for key, value in values.items():
            _check_sizes(value, path, key)
    elif isinstance(values, list):
        for value in values:
            _check_sizes(value, path, name)
    elif isinstance(values, int):
        limits = (_MAX_LAYERS, _LAYERS.fullmatch(name)), (_MAX_SIDE, name in _SIDES.split())
        if any(values > limit for limit, counts in limits if counts):
            raise DataError(f"no model has {name}={values}", str(path), _FIX)
