"""Payloads in a model's directory, in an adapter and in a reward model."""

import json
from pathlib import Path
from typing import Any

from tests.security.target import GENERATE, Target, payload


@payload
def pickled_weights(target: Target) -> list[str]:
    (target.model / "model.safetensors").unlink()
    target.write("model/pytorch_model.bin", target.pickled)
    return GENERATE


@payload
def pickled_shards(target: Target) -> list[str]:
    (target.model / "model.safetensors").unlink()
    target.write("model/shard.bin", target.pickled)
    index = {"metadata": {}, "weight_map": {"lm_head.weight": "shard.bin"}}
    target.write("model/pytorch_model.bin.index.json", json.dumps(index))
    return GENERATE


@payload
def pickle_named_safetensors(target: Target) -> list[str]:
    target.write("model/model.safetensors", target.pickled)
    return GENERATE


@payload
def safetensors_with_a_huge_header(target: Target) -> list[str]:
    target.write("model/model.safetensors", (2**62).to_bytes(8, "little") + b"{}")
    return GENERATE


@payload
def config_with_code(target: Target) -> list[str]:
    target.write("model/evil.py", target.code)
    names = ("AutoConfig", "AutoModel", "AutoModelForImageTextToText", "AutoProcessor")
    target.merge("model/config.json", auto_map={name: "evil.Evil" for name in names})
    return GENERATE


@payload
def unknown_kind_with_code(target: Target) -> list[str]:
    target.write("model/evil.py", target.code)
    target.merge("model/config.json", model_type="evil", auto_map={"AutoConfig": "evil.Evil"})
    return GENERATE


@payload
def tokenizer_with_code(target: Target) -> list[str]:
    target.write("model/evil.py", target.code)
    names = {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}
    target.merge("model/tokenizer_config.json", auto_map=names, tokenizer_class="Evil")
    return GENERATE


@payload
def processor_with_code(target: Target) -> list[str]:
    target.write("model/evil.py", target.code)
    target.merge("model/processor_config.json", auto_map={"AutoProcessor": "evil.Evil"})
    return GENERATE


@payload
def generation_with_code(target: Target) -> list[str]:
    target.write("model/custom_generate/generate.py", target.code)
    target.merge("model/generation_config.json", custom_generate=str(target.model))
    return GENERATE


@payload
def template_that_reaches_os(target: Target) -> list[str]:
    reach = f"cycler.__init__.__globals__.os.system('touch {target.marker}')"
    target.write("model/chat_template.jinja", "{{ " + reach + " }}")
    return GENERATE


@payload
def template_that_walks_classes(target: Target) -> list[str]:
    walk = "().__class__.__base__.__subclasses__()"
    run = f"{{% for c in {walk} %}}{{{{ c.__init__.__globals__['sys'] }}}}{{% endfor %}}"
    target.write(
        "model/chat_template.jinja",
        run + f"{{{{ lipsum.__globals__.os.popen('touch {target.marker}').read() }}}}",
    )
    return GENERATE


def _adapter(target: Target, **config: Any) -> Path:
    """The directory of a run with an adapter."""
    text = {"peft_type": "LORA", "base_model_name_or_path": str(target.model), "r": 2}
    target.write("run/adapter/adapter_config.json", json.dumps({**text, **config}))
    return target.directory / "run"


@payload
def pickled_adapter(target: Target) -> list[str]:
    _adapter(target)
    target.write("run/adapter/adapter_model.bin", target.pickled)
    return ["generate", "run", *GENERATE[2:]]


@payload
def adapter_pickle_named_safetensors(target: Target) -> list[str]:
    _adapter(target)
    target.write("run/adapter/adapter_model.safetensors", target.pickled)
    return ["generate", "run", *GENERATE[2:]]


@payload
def adapter_that_names_a_library(target: Target) -> list[str]:
    target.write("evil.py", target.code)
    _adapter(target, auto_mapping={"base_model_class": "Evil", "parent_library": "evil"})
    target.write("run/adapter/adapter_model.safetensors", target.pickled)
    return ["generate", "run", *GENERATE[2:]]


@payload
def adapter_whose_base_has_code(target: Target) -> list[str]:
    target.write("model/evil.py", target.code)
    target.merge("model/config.json", model_type="evil", auto_map={"AutoConfig": "evil.Evil"})
    _adapter(target)
    return ["generate", "run", *GENERATE[2:]]


def _scored(target: Target, **card: Any) -> list[str]:
    text = {
        "kind": "llava_head",
        "base": str(target.model),
        "adapter": False,
        "mean": 0.0,
        "std": 1.0,
    }
    text |= {"captioner": "", "caption_instruction": "", "fingerprint": {}, "training": {}}
    target.write("run/reward/reward.json", json.dumps({**text, **card}))
    row = {"image_path": "picture.png", "instruction": "What?", "response": "red"}
    target.write("rows.jsonl", json.dumps(row))
    return ["score", "run", "rows.jsonl", "output=scores.jsonl"]


@payload
def pickled_reward_head(target: Target) -> list[str]:
    target.write("run/reward/head.safetensors", target.pickled)
    target.write("run/reward/head.pt", target.pickled)
    return _scored(target)


@payload
def reward_of_a_kind_that_is_a_function(target: Target) -> list[str]:
    return _scored(target, kind="os.system")


@payload
def reward_whose_text_model_has_code(target: Target) -> list[str]:
    target.write("text/evil.py", target.code)
    target.write("text/config.json", json.dumps({"auto_map": {"AutoConfig": "evil.Evil"}}))
    return _scored(
        target,
        kind="caption_text",
        base=str(target.directory / "text"),
        captioner=str(target.model),
    )
