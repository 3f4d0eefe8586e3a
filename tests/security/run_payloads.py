"""Payloads in runs to continue, command lines, checkpoints and data."""

import json
from collections.abc import Callable
from pathlib import Path

from tests.security.target import GENERATE, Target, payload


def _resumed(target: Target, config: str) -> list[str]:
    target.write("run/config.yaml", config)
    return ["ppo", "resume=run"]


@payload
def yaml_that_calls(target: Target) -> list[str]:
    return _resumed(target, f"seed: !!python/object/apply:os.system ['touch {target.marker}']\n")


@payload
def yaml_that_makes_an_object(target: Target) -> list[str]:
    return _resumed(
        target, f"name: !!python/object/new:subprocess.Popen [['touch', '{target.marker}']]\n"
    )


@payload
def stored_target(target: Target) -> list[str]:
    return _resumed(target, f"ppo:\n  _target_: os.system\n  command: touch {target.marker}\n")


@payload
def stored_scorer(target: Target) -> list[str]:
    target.write("evil.py", target.code + "\ndef score(*given):\n    return []\n")
    return _resumed(target, "scorer: evil.py:score\n")


@payload
def target_on_the_command_line(target: Target) -> list[str]:
    return ["ppo", "+ppo._target_=os.system", f"+ppo.command=touch {target.marker}"]


@payload
def search_path_of_configurations(target: Target) -> list[str]:
    target.write("evil/experiment/x.yaml", "ppo:\n  _target_: os.system\n")
    return ["ppo", f"hydra.searchpath=[file://{target.directory}/evil]", "experiment=x"]


@payload
def resolver_in_an_option(target: Target) -> list[str]:
    return ["ppo", f"name=${{oc.decode:__import__('os').system('touch {target.marker}')}}"]


@payload
def run_name_with_a_command(target: Target) -> list[str]:
    return [*GENERATE, f"name=x; touch {target.marker}", f"instruction=$(touch {target.marker})"]


def _checkpoint(target: Target, **files: bytes) -> Path:
    """A step whose manifest is right in every point."""
    from rlhf.storage.checkpoint import _hash_and_size, _manifest_bytes

    named = {name.replace("__", "."): data for name, data in files.items()}
    stamps = {name: _hash_and_size(data) for name, data in named.items()}
    manifest = {"schema": 1, "step": 1, "files": stamps, "libraries": {}}
    for name, data in named.items():
        target.write(f"run/checkpoints/step-000001/{name}", data)
    target.write("run/checkpoints/step-000001/manifest.json", _manifest_bytes(manifest))
    return target.directory / "run"


@payload
def pickled_checkpoint(target: Target) -> list[str]:
    from rlhf.storage.checkpoint import load_checkpoint

    run = _checkpoint(target, state__json=b"{}", optimizer__safetensors=target.pickled)
    _refused(lambda: load_checkpoint(run / "checkpoints"))
    return GENERATE


@payload
def pickled_state(target: Target) -> list[str]:
    from rlhf.storage.checkpoint import load_checkpoint

    run = _checkpoint(target, state__json=target.pickled)
    _refused(lambda: load_checkpoint(run / "checkpoints"))
    return GENERATE


def _refused(read: Callable[[], object]) -> None:
    from rlhf.errors import DataError

    try:
        read()
    except DataError:
        return
    raise AssertionError("it was read")


@payload
def image_that_is_a_program(target: Target) -> list[str]:
    run = (
        f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(%pipe%touch {target.marker}) (w) file\n"
    )
    target.write("picture.png", run)
    return GENERATE


@payload
def image_that_is_a_pickle(target: Target) -> list[str]:
    target.write("picture.png", target.pickled)
    return GENERATE


@payload
def path_with_a_command(target: Target) -> list[str]:
    rows = [f"|touch {target.marker}", f"$(touch {target.marker}).png", f"`touch {target.marker}`"]
    lines = [json.dumps({"image_path": row, "instruction": "x"}) for row in rows]
    target.write("prompts.jsonl", "\n".join(lines))
    return ["validate", "prompts.jsonl"]


@payload
def kept_features_that_are_pickles(target: Target) -> list[str]:
    words = [*GENERATE, "model.vision_cache_dir=features"]
    for name in range(3):
        target.write(f"features/{name}.safetensors", target.pickled)
    return words
