"""Files of models and adapters that a library would read, build or match without end."""

import json
from pathlib import Path
from typing import Any

from peft import LoraConfig
from safetensors.torch import save_file

from tests.support.hostile.place import GB, GENERATE, Place, hostile


def _sparse(place: Place, file: str, start: str = "{") -> list[str]:
    place.model()
    place.write_sparse(f"model/{file}", start)
    return GENERATE


@hostile
def model_configuration_of_8_gb(place: Place) -> list[str]:
    return _sparse(place, "config.json")


@hostile
def generation_configuration_of_8_gb(place: Place) -> list[str]:
    return _sparse(place, "generation_config.json")


@hostile
def tokenizer_of_8_gb(place: Place) -> list[str]:
    return _sparse(place, "tokenizer.json")


@hostile
def chat_template_of_8_gb(place: Place) -> list[str]:
    return _sparse(place, "chat_template.jinja")


@hostile
def index_of_weights_of_8_gb(place: Place) -> list[str]:
    return _sparse(place, "model.safetensors.index.json")


@hostile
def weights_with_a_header_of_90_mb(place: Place) -> list[str]:
    place.model()
    start = (90_000_000).to_bytes(8, "little") + b'{"a":'
    place.write_sparse("model/model.safetensors", start, 100_000_000)
    return GENERATE


@hostile
def model_configuration_of_100_thousand_brackets(place: Place) -> list[str]:
    model = place.model()
    (model / "config.json").write_text('{"model_type": ' + "[" * 100_000)
    return GENERATE


@hostile
def model_configuration_with_a_number_of_a_million_digits(place: Place) -> list[str]:
    model = place.model()
    (model / "config.json").write_text('{"model_type": ' + "1" * 1_000_000 + "}")
    return GENERATE


def _text_config(place: Place, **values: Any) -> list[str]:
    path = place.model() / "config.json"
    config = json.loads(path.read_text())
    config["text_config"] |= values
    path.write_text(json.dumps(config))
    return GENERATE


@hostile
def model_of_ten_million_layers(place: Place) -> list[str]:
    return _text_config(place, num_hidden_layers=10_000_000)


@hostile
def model_of_64_gb_in_a_file_of_100_kb(place: Place) -> list[str]:
    return _text_config(place, intermediate_size=100_000_000)


@hostile
def processor_that_makes_images_of_100_gigapixels(place: Place) -> list[str]:
    path = place.model() / "processor_config.json"
    config = json.loads(path.read_text())
    sides = {"height": 300_000, "width": 300_000}
    config["image_processor"] |= {"size": sides, "crop_size": sides}
    path.write_text(json.dumps(config))
    return GENERATE


def _template(place: Place, text: str) -> list[str]:
    model = place.model()
    (model / "chat_template.jinja").write_text(text + "{{ messages[0]['content'] }}")
    return GENERATE


@hostile
def chat_template_that_loops(place: Place) -> list[str]:
    loops = "{% for a in range(99999) %}" * 3 + "{% endfor %}" * 3
    return _template(place, loops)


@hostile
def chat_template_that_writes_gigabytes(place: Place) -> list[str]:
    return _template(place, "{% for a in range(99999) %}{{ 'x' * 99999 }}{% endfor %}")


@hostile
def chat_template_that_doubles_a_text(place: Place) -> list[str]:
    doubled = "{% set x = namespace(t='x') %}{% for a in range(60) %}{% set x.t = x.t ~ x.t %}"
    return _template(place, doubled + "{% endfor %}")


@hostile
def chat_template_of_one_long_text(place: Place) -> list[str]:
    return _template(place, "{{ 'x' * 10 ** 11 }}")


@hostile
def chat_template_of_a_power(place: Place) -> list[str]:
    return _template(place, "{{ (7 ** (10 ** 9)) % 2 }}")


def _tokenizer(place: Place, **values: Any) -> list[str]:
    path = place.model() / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return GENERATE


def _split(pattern: str) -> dict[str, Any]:
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated"}
    return {"pre_tokenizer": {**split, "invert": False}}


@hostile
def tokenizer_whose_pattern_backtracks(place: Place) -> list[str]:
    return _tokenizer(place, **_split(r"(a+)+$"))


@hostile
def tokenizer_whose_pattern_backtracks_at_each_letter(place: Place) -> list[str]:
    """Each search stays below the limit of the library; there are a thousand of them."""
    return _tokenizer(place, **_split(r"(?:a|a){22}\d"))


def _replace(text: str, content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"String": text}, "content": content}


@hostile
def tokenizer_that_makes_a_text_a_billion_times_as_long(place: Place) -> list[str]:
    steps = {"type": "Sequence", "normalizers": [_replace("a", "a" * 10)] * 9}
    return _tokenizer(place, normalizer=steps)


@hostile
def tokenizer_that_decodes_to_gigabytes(place: Place) -> list[str]:
    steps = {"type": "Sequence", "decoders": [_replace("o", "o" * 10)] * 10}
    return _tokenizer(place, decoder=steps)


def _adapter(place: Place, **values: Any) -> list[str]:
    model = place.model()
    options = LoraConfig(r=2, base_model_name_or_path=str(model), task_type="CAUSAL_LM").to_dict()
    config = {key: x for key, x in options.items() if x is not None} | values
    config["target_modules"] = values.get("target_modules", ["q_proj"])
    place.write("run/adapter/adapter_config.json", json.dumps(config))
    _save_lora(place.directory / "run/adapter/adapter_model.safetensors")
    return ["generate", "run", *GENERATE[2:]]


def _save_lora(path: Path) -> None:
    import torch

    layer = "base_model.model.model.language_model.layers.0.self_attn.q_proj"
    shapes = {"A": (2, 32), "B": (32, 2)}
    save_file({f"{layer}.lora_{x}.weight": torch.zeros(shapes[x]) for x in shapes}, path)


@hostile
def adapter_whose_layers_are_a_pattern_that_backtracks(place: Place) -> list[str]:
    return _adapter(place, target_modules=r"(([a-z_.0-9])+)+\d!")


@hostile
def adapter_whose_ranks_are_a_pattern_that_backtracks(place: Place) -> list[str]:
    return _adapter(place, rank_pattern={r"(([a-z_.0-9])+)+\d!": 4})


@hostile
def adapter_configuration_of_8_gb(place: Place) -> list[str]:
    words = _adapter(place)
    place.write_sparse("run/adapter/adapter_config.json", "{", 8 * GB)
    return words
