"""Checkpoints: complete or absent, verified when read, exact to the bit."""

import json
import os
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor
from torch.optim import Optimizer

from rlhf.config.schema import leaves
from rlhf.errors import DataError, ResourceError

Tensors = Mapping[str, Tensor]
Json = Mapping[str, Any]
_SCHEMA = 1


class NoCheckpointError(DataError, FileNotFoundError):
    """There is no checkpoint, not even a damaged one."""


@dataclass(frozen=True)
class Checkpoint:
    """What `save_checkpoint` was given, tensors on the CPU, and the directory it came from."""

    step: int
    tensors: dict[str, dict[str, Tensor]]
    state: dict[str, Any]
    path: Path


def save_checkpoint(
    root: Path,
    step: int,
    *,
    tensors: Mapping[str, Tensors],
    state: Json,
    facts: Json | None = None,
    keep: int = 2,
    protect: int | None = None,
) -> Path:
    """Write `root/step-000123`: a kill at any instant leaves it complete or absent.

    Each entry of `tensors` becomes `<name>.safetensors`; `facts` stand in the manifest. Of the
    checkpoints up to this step the newest `keep`, at least 2, stay, and that of the step
    `protect`; later ones are left alone. Raises: ValueError for a smaller keep; ResourceError
    when the disk refuses, the older checkpoints untouched.
    """
    if keep < 2:
        raise ValueError(f"keep: got {keep}, wanted at least 2")
    files = {"state.json": json.dumps(state).encode()}
    for name, group in tensors.items():
        copies = {key: t.detach().to("cpu", copy=True).contiguous() for key, t in group.items()}
        files[f"{name}.safetensors"] = save(copies)
    stamps = {name: _hash_and_size(data) for name, data in files.items()}
    libraries = {name: version(name) for name in ("torch", "transformers", "safetensors")}
    manifest = {**(facts or {}), "schema": _SCHEMA, "step": step, "config": _config_hash(state)}
    manifest |= {"files": stamps, "libraries": libraries}
    files["manifest.json"] = _manifest_bytes(manifest)
    final = root / step_name(step)
    try:
        _publish(files, final)
    except OSError as error:
        what = f"The checkpoint could not be written: {error.strerror}."
        raise ResourceError(what, str(final), "Free disk space and resume.") from error
    finally:
        for leftover in root.glob(".step-*.tmp-*"):
            shutil.rmtree(leftover, ignore_errors=True)
    _prune(root, final, keep, protect)
    return final


def load_checkpoint(path: Path) -> Checkpoint:
    """The newest checkpoint under `path` that verifies, or the one in the step directory `path`.

    Warns of each damaged one it passes over. Raises: NoCheckpointError, a DataError, when there
    is none; plain DataError when there are some and none verifies.
    """
    directories = [path] if (path / "manifest.json").exists() else _newest_first(path)
    for directory in directories:
        try:
            return _read(directory)
        except (OSError, ValueError, LookupError, TypeError, SafetensorError) as error:
            warnings.warn(f"{directory} is damaged, passed over: {error}", stacklevel=2)
    if directories:
        raise DataError("No checkpoint here verifies.", str(path), "Restore one from a backup.")
    raise NoCheckpointError("There is no checkpoint here.", str(path), "Name the folder of a run.")


def step_name(step: int) -> str:
    """The name of a checkpoint's directory."""
    return f"step-{step:06d}"


def optimizer_tensors(optimizer: Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """State of an optimizer: CPU copies named `<parameter number>.<name>`, the rest as JSON."""
    saved = optimizer.state_dict()
    nested = leaves(saved["state"])  # 8-bit optimizers nest their state
    flat = {key: value for key, value in nested if not isinstance(value, Mapping)}
    tensors = {k: x.detach().to("cpu", copy=True) for k, x in flat.items() if torch.is_tensor(x)}
    others = {key: x for key, x in flat.items() if key not in tensors}
    shapes = _shapes(optimizer)
    return tensors, {"groups": saved["param_groups"], "others": others, "shapes": shapes}


def restore_optimizer(optimizer: Optimizer, tensors: Tensors, state: Json) -> None:
    """Undo `optimizer_tensors`, parameters matched by order: the next steps are bit-equal.

    Raises: DataError when number or shapes of the parameters differ.
    """
    for number, (here, saved) in enumerate(zip_longest(_shapes(optimizer), state["shapes"])):
        if here != saved:
            where = f"parameter {number}: shape {here} here, {saved} in the checkpoint"
            fix = "Resume with the configuration it was saved with."
            raise DataError("The optimizer state belongs to another model.", where, fix)
    values: dict[Any, Any] = {}
    for key, value in {**{k: x.clone() for k, x in tensors.items()}, **state["others"]}.items():
        index, *path, name = key.split(".")
        place = values.setdefault(int(index), {})
        for step in path:
            place = place.setdefault(step, {})
        place[name] = value
    groups = [{k: tuple(x) if k == "betas" else x for k, x in g.items()} for g in state["groups"]]
    optimizer.load_state_dict({"state": values, "param_groups": groups})


def _shapes(optimizer: Optimizer) -> list[list[int]]:
    return [list(p.shape) for group in optimizer.param_groups for p in group["params"]]


def _hash_and_size(data: bytes) -> dict[str, Any]:
    return {"sha256": sha256(data).hexdigest(), "size": len(data)}


def _config_hash(state: Json) -> str:
    """Of the options that stand in the state, if any do."""
    return sha256(json.dumps(state.get("config"), sort_keys=True).encode()).hexdigest()


def _manifest_bytes(manifest: Json) -> bytes:
    """The file of a manifest, with its own hash in it."""
    own = {key: value for key, value in manifest.items() if key != "sha256"}
    own["sha256"] = sha256(json.dumps(own).encode()).hexdigest()
    return json.dumps(own, indent=1).encode()


def _prune(root: Path, newest: Path, keep: int, protect: int | None) -> None:
    directories = _newest_first(root)
    for directory in directories[directories.index(newest) + keep :]:
        if protect is None or directory.name != step_name(protect):
            shutil.rmtree(directory, ignore_errors=True)


def _publish(files: Mapping[str, bytes], final: Path) -> None:
    temp = final.with_name(f".{final.name}.tmp-{os.getpid()}")
    temp.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (temp / name).write_bytes(data)
        _fsync(temp / name)
    _fsync(temp)
    if final.exists():
        final.rename(f"{temp}-old")
    temp.rename(final)
    _fsync(final.parent)


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)


def _read(directory: Path) -> Checkpoint:
    written = (directory / "manifest.json").read_bytes()
    manifest = json.loads(written)
    if _manifest_bytes(manifest) != written:
        raise ValueError("manifest.json is not what was written")
    if manifest["schema"] != _SCHEMA or directory.name != step_name(manifest["step"]):
        raise ValueError("manifest.json is of another schema or step")
    if any(Path(name).name != name for name in manifest["files"]):
        raise ValueError("manifest.json names files elsewhere")
    files = {name: (directory / name).read_bytes() for name in manifest["files"]}
    if broken := [name for name in files if _hash_and_size(files[name]) != manifest["files"][name]]:
        raise ValueError(f"{', '.join(broken)} is not what was written")
    state = json.loads(files.pop("state.json"))
    tensors = {name.removesuffix(".safetensors"): load(data) for name, data in files.items()}
    return Checkpoint(manifest["step"], tensors, state, directory)


def _newest_first(root: Path) -> list[Path]:
    return sorted(root.glob("step-*"), key=lambda x: (len(x.name), x.name), reverse=True)
