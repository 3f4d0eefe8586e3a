"""Thirty files and words made to run something, each given to the command that would read it.

Every payload tries to write one marker file. A payload gets a directory of its own that holds a
copy of a tiny model, an image and the words of a command that reads what it has spoilt.
"""

import json
import os
import pickle  # noqa: TID251 to make what must never be read
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file


@dataclass(frozen=True)
class Place:
    """Where a payload is laid.

    Attributes:
        marker: the file whose existence shows that something ran.
    """

    directory: Path
    marker: Path

    @property
    def model(self) -> Path:
        return self.directory / "model"

    @property
    def code(self) -> str:
        """Python that shows it ran."""
        return f"open({str(self.marker)!r}, 'w').close()"

    @property
    def pickled(self) -> bytes:
        """A pickle that shows it was read."""
        return pickle.dumps(_Runs(f"touch {self.marker}"))

    def merge(self, file: str, **values: Any) -> None:
        """Add values to a JSON file."""
        path = self.directory / file
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    def write(self, file: str, content: str | bytes) -> Path:
        """Write a file, its directories made."""
        path = self.directory / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path


class _Runs:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


Payload = Callable[[Place], list[str]]
PAYLOADS: dict[str, Payload] = {}
GENERATE = ["generate", "model", "picture.png", "sampling.max_new_tokens=2"]


def payload(make: Payload) -> Payload:
    """Enter it in the list under its name."""
    PAYLOADS[make.__name__] = make
    return make


# A model's directory


@payload
def pickled_weights(at: Place) -> list[str]:
    (at.model / "model.safetensors").unlink()
    at.write("model/pytorch_model.bin", at.pickled)
    return GENERATE


@payload
def pickled_shards(at: Place) -> list[str]:
    (at.model / "model.safetensors").unlink()
    at.write("model/shard.bin", at.pickled)
    index = {"metadata": {}, "weight_map": {"lm_head.weight": "shard.bin"}}
    at.write("model/pytorch_model.bin.index.json", json.dumps(index))
    return GENERATE


@payload
def pickle_named_safetensors(at: Place) -> list[str]:
    at.write("model/model.safetensors", at.pickled)
    return GENERATE


@payload
def safetensors_with_a_huge_header(at: Place) -> list[str]:
    at.write("model/model.safetensors", (2**62).to_bytes(8, "little") + b"{}")
    return GENERATE


@payload
def config_with_code(at: Place) -> list[str]:
    at.write("model/evil.py", at.code)
    names = ("AutoConfig", "AutoModel", "AutoModelForImageTextToText", "AutoProcessor")
    at.merge("model/config.json", auto_map={name: "evil.Evil" for name in names})
    return GENERATE


@payload
def unknown_kind_with_code(at: Place) -> list[str]:
    at.write("model/evil.py", at.code)
    at.merge("model/config.json", model_type="evil", auto_map={"AutoConfig": "evil.Evil"})
    return GENERATE


@payload
def tokenizer_with_code(at: Place) -> list[str]:
    at.write("model/evil.py", at.code)
    names = {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}
    at.merge("model/tokenizer_config.json", auto_map=names, tokenizer_class="Evil")
    return GENERATE


@payload
def processor_with_code(at: Place) -> list[str]:
    at.write("model/evil.py", at.code)
    at.merge("model/processor_config.json", auto_map={"AutoProcessor": "evil.Evil"})
    return GENERATE


@payload
def generation_with_code(at: Place) -> list[str]:
    at.write("model/custom_generate/generate.py", at.code)
    at.merge("model/generation_config.json", custom_generate=str(at.model))
    return GENERATE


@payload
def template_that_reaches_os(at: Place) -> list[str]:
    reach = f"cycler.__init__.__globals__.os.system('touch {at.marker}')"
    at.write("model/chat_template.jinja", "{{ " + reach + " }}")
    return GENERATE


@payload
def template_that_walks_classes(at: Place) -> list[str]:
    walk = "().__class__.__base__.__subclasses__()"
    run = f"{{% for c in {walk} %}}{{{{ c.__init__.__globals__['sys'] }}}}{{% endfor %}}"
    at.write(
        "model/chat_template.jinja",
        run + f"{{{{ lipsum.__globals__.os.popen('touch {at.marker}').read() }}}}",
    )
    return GENERATE


# Adapters and reward models


def _adapter(at: Place, **config: Any) -> Path:
    """The directory of a run with an adapter."""
    text = {"peft_type": "LORA", "base_model_name_or_path": str(at.model), "r": 2}
    at.write("run/adapter/adapter_config.json", json.dumps({**text, **config}))
    return at.directory / "run"


@payload
def pickled_adapter(at: Place) -> list[str]:
    _adapter(at)
    at.write("run/adapter/adapter_model.bin", at.pickled)
    return ["generate", "run", *GENERATE[2:]]


@payload
def adapter_pickle_named_safetensors(at: Place) -> list[str]:
    _adapter(at)
    at.write("run/adapter/adapter_model.safetensors", at.pickled)
    return ["generate", "run", *GENERATE[2:]]


@payload
def adapter_that_names_a_library(at: Place) -> list[str]:
    at.write("evil.py", at.code)
    _adapter(at, auto_mapping={"base_model_class": "Evil", "parent_library": "evil"})
    at.write("run/adapter/adapter_model.safetensors", at.pickled)
    return ["generate", "run", *GENERATE[2:]]


@payload
def adapter_whose_base_has_code(at: Place) -> list[str]:
    at.write("model/evil.py", at.code)
    at.merge("model/config.json", model_type="evil", auto_map={"AutoConfig": "evil.Evil"})
    _adapter(at)
    return ["generate", "run", *GENERATE[2:]]


def _scored(at: Place, **card: Any) -> list[str]:
    text = {"kind": "llava_head", "base": str(at.model), "adapter": False, "mean": 0.0, "std": 1.0}
    text |= {"captioner": "", "caption_instruction": "", "fingerprint": {}, "training": {}}
    at.write("run/reward/reward.json", json.dumps({**text, **card}))
    row = {"image_path": "picture.png", "instruction": "What?", "response": "red"}
    at.write("rows.jsonl", json.dumps(row))
    return ["score", "run", "rows.jsonl", "output=scores.jsonl"]


@payload
def pickled_reward_head(at: Place) -> list[str]:
    at.write("run/reward/head.safetensors", at.pickled)
    at.write("run/reward/head.pt", at.pickled)
    return _scored(at)


@payload
def reward_of_a_kind_that_is_a_function(at: Place) -> list[str]:
    return _scored(at, kind="os.system")


@payload
def reward_whose_text_model_has_code(at: Place) -> list[str]:
    at.write("text/evil.py", at.code)
    at.write("text/config.json", json.dumps({"auto_map": {"AutoConfig": "evil.Evil"}}))
    return _scored(
        at, kind="caption_text", base=str(at.directory / "text"), captioner=str(at.model)
    )


# Runs to continue, and words of the command line


def _resumed(at: Place, config: str) -> list[str]:
    at.write("run/config.yaml", config)
    return ["ppo", "resume=run"]


@payload
def yaml_that_calls(at: Place) -> list[str]:
    return _resumed(at, f"seed: !!python/object/apply:os.system ['touch {at.marker}']\n")


@payload
def yaml_that_makes_an_object(at: Place) -> list[str]:
    return _resumed(at, f"name: !!python/object/new:subprocess.Popen [['touch', '{at.marker}']]\n")


@payload
def stored_target(at: Place) -> list[str]:
    return _resumed(at, f"ppo:\n  _target_: os.system\n  command: touch {at.marker}\n")


@payload
def stored_scorer(at: Place) -> list[str]:
    at.write("evil.py", at.code + "\ndef score(*given):\n    return []\n")
    return _resumed(at, "scorer: evil.py:score\n")


@payload
def target_on_the_command_line(at: Place) -> list[str]:
    return ["ppo", "+ppo._target_=os.system", f"+ppo.command=touch {at.marker}"]


@payload
def search_path_of_configurations(at: Place) -> list[str]:
    at.write("evil/experiment/x.yaml", "ppo:\n  _target_: os.system\n")
    return ["ppo", f"hydra.searchpath=[file://{at.directory}/evil]", "experiment=x"]


@payload
def resolver_in_an_option(at: Place) -> list[str]:
    return ["ppo", f"name=${{oc.decode:__import__('os').system('touch {at.marker}')}}"]


@payload
def run_name_with_a_command(at: Place) -> list[str]:
    return [*GENERATE, f"name=x; touch {at.marker}", f"instruction=$(touch {at.marker})"]


# Checkpoints


def _checkpoint(at: Place, **files: bytes) -> Path:
    """A step whose manifest is right in every point."""
    from rlhf.storage.checkpoint import _hash_and_size, _manifest_bytes

    named = {name.replace("__", "."): data for name, data in files.items()}
    stamps = {name: _hash_and_size(data) for name, data in named.items()}
    manifest = {"schema": 1, "step": 1, "files": stamps, "libraries": {}}
    for name, data in named.items():
        at.write(f"run/checkpoints/step-000001/{name}", data)
    at.write("run/checkpoints/step-000001/manifest.json", _manifest_bytes(manifest))
    return at.directory / "run"


@payload
def pickled_checkpoint(at: Place) -> list[str]:
    from rlhf.storage.checkpoint import load_checkpoint

    run = _checkpoint(at, state__json=b"{}", optimizer__safetensors=at.pickled)
    _refused(lambda: load_checkpoint(run / "checkpoints"))
    return GENERATE


@payload
def pickled_state(at: Place) -> list[str]:
    from rlhf.storage.checkpoint import load_checkpoint

    run = _checkpoint(at, state__json=at.pickled)
    _refused(lambda: load_checkpoint(run / "checkpoints"))
    return GENERATE


def _refused(read: Callable[[], object]) -> None:
    from rlhf.errors import DataError

    try:
        read()
    except DataError:
        return
    raise AssertionError("it was read")


# Data


@payload
def image_that_is_a_program(at: Place) -> list[str]:
    run = f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(%pipe%touch {at.marker}) (w) file\n"
    at.write("picture.png", run)
    return GENERATE


@payload
def image_that_is_a_pickle(at: Place) -> list[str]:
    at.write("picture.png", at.pickled)
    return GENERATE


@payload
def path_with_a_command(at: Place) -> list[str]:
    rows = [f"|touch {at.marker}", f"$(touch {at.marker}).png", f"`touch {at.marker}`"]
    lines = [json.dumps({"image_path": row, "instruction": "x"}) for row in rows]
    at.write("prompts.jsonl", "\n".join(lines))
    return ["validate", "prompts.jsonl"]


@payload
def kept_features_that_are_pickles(at: Place) -> list[str]:
    words = [*GENERATE, "model.vision_cache_dir=features"]
    for name in range(3):
        at.write(f"features/{name}.safetensors", at.pickled)
    return words


def lay(tiny: Path, directory: Path, marker: Path) -> Place:
    """A place with a model and an image."""
    shutil.copytree(tiny / "model", directory / "model")
    shutil.copy(tiny / "pictures" / "00000.png", directory / "picture.png")
    weights = directory / "model" / "model.safetensors"
    save_file(load_file(weights), weights, metadata={"format": "pt"})
    return Place(directory, marker)
