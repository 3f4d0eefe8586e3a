"""Save and load checkpoints: written completely or not at all, verified by hash, bit-exact."""

import json
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
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

from rlhf.config.option_types import leaves
from rlhf.errors import DataError, ResourceError
from rlhf.storage.atomic import temporary_path
from rlhf.storage.bounded import read_bytes
from rlhf.storage.directories import flush
from rlhf.storage.json_files import MAX_JSON_BYTES

Tensors = Mapping[str, Tensor]
Json = Mapping[str, Any]
_SCHEMA = 1
_ODD = (ValueError, LookupError, TypeError, AttributeError, RecursionError)  # of JSON values


class NoCheckpointError(DataError, FileNotFoundError):
    """There is no checkpoint, not even a damaged one."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint read from the disk.

    Attributes:
        step: the step at which it was saved.
        tensors: by group, then by name; on the CPU.
        state: the JSON values saved with them.
        path: the checkpoint's directory.
    """

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
    """Write the directory `root/step-000123`; a kill at any instant leaves it complete or absent.

    Args:
        root: the directory of a run's checkpoints.
        step: the step that the checkpoint belongs to.
        tensors: groups of named tensors; each group becomes `<name>.safetensors`.
        state: JSON values, written to state.json.
        facts: further entries of manifest.json.
        keep: how many checkpoints stay, this one included (at least 2). Older ones are deleted,
            those of later steps are left alone.
        protect: a step whose checkpoint is never deleted.

    Returns:
        The checkpoint's directory.

    Raises:
        ValueError: `keep` is below 2.
        ResourceError: it cannot be written; the older checkpoints are untouched.
    """
    if keep < 2:
        raise ValueError(f"keep: got {keep}, wanted at least 2")
    files = _checkpoint_files(step, tensors, state, facts or {})
    final = root / step_name(step)
    try:
        _write_directory(files, final)
    except OSError as error:
        what = f"The checkpoint could not be written: {error.strerror}."
        raise ResourceError(what, str(final), "Free disk space and resume.") from error
    finally:
        for leftover in root.glob(".step-*.tmp-*"):
            shutil.rmtree(leftover, ignore_errors=True)
    _delete_older(root, final, keep, protect)
    return final


def load_checkpoint(path: Path) -> Checkpoint:
    """Load the newest undamaged checkpoint of a run; warn about each damaged one.

    Args:
        path: the directory of a run's checkpoints, or of one checkpoint.

    Raises:
        NoCheckpointError: there is none.
        DataError: all of them are damaged.
    """
    directories = [path] if (path / "manifest.json").exists() else _newest_first(path)
    for directory in directories:
        try:
            return _read_verified(directory)
        except (*_ODD, DataError, OSError, SafetensorError) as error:
            warnings.warn(f"{directory} is damaged and skipped: {error}", stacklevel=2)
    if directories:
        raise DataError(
            "Every checkpoint here is damaged.", str(path), "Restore one from a backup."
        )
    raise NoCheckpointError("There is no checkpoint here.", str(path), "Name a run directory.")


@contextmanager
def restoring(checkpoint: Checkpoint) -> Iterator[None]:
    """Inside the block, what is missing in a checkpoint or of another kind is said in three lines.

    Args:
        checkpoint: the one that the block restores.

    Raises:
        DataError: the block met values that a trainer does not save.
    """
    try:
        yield
    except _ODD as error:
        what = f"the checkpoint is not one of this version: {type(error).__name__}: {error}"
        fix = "resume with the version that saved it, or start a new run"
        raise DataError(what, str(checkpoint.path), fix) from error


def step_name(step: int) -> str:
    """Return the directory name of a step's checkpoint, e.g. `step-000123`."""
    return f"step-{step:06d}"


def optimizer_tensors(
    optimizer: Optimizer, gather: Callable[[Tensor], Tensor | None] = lambda tensor: tensor
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Split an optimizer's state into tensors and JSON values.

    Args:
        optimizer: its state is copied.
        gather: returns a tensor as it is to be saved; None: not at all.

    Returns:
        Copies of the tensors on the CPU, named `<parameter number>.<name>`; and the parameter
        groups, the other values and the parameters' shapes as JSON.
    """
    saved = optimizer.state_dict()
    nested = leaves(saved["state"])  # 8-bit optimizers nest their state
    flat = {key: value for key, value in nested if not isinstance(value, Mapping)}
    gathered = ((key, gather(x.detach())) for key, x in flat.items() if torch.is_tensor(x))
    tensors = {key: x.to("cpu", copy=True) for key, x in gathered if x is not None}
    others = {key: x for key, x in flat.items() if not torch.is_tensor(x)}
    shapes = _parameter_shapes(optimizer)
    return tensors, {"groups": saved["param_groups"], "others": others, "shapes": shapes}


def restore_optimizer(
    optimizer: Optimizer,
    tensors: Tensors,
    state: Json,
    place: Callable[[Tensor, Tensor], Tensor] = lambda parameter, value: value,
) -> None:
    """Load what `optimizer_tensors` returned; the next steps are then equal to the bit.

    Args:
        optimizer: has the same parameters in the same order; loaded in place.
        tensors: named `<parameter number>.<name>`, any device.
        state: the JSON values saved with them.
        place: returns a saved value of a parameter's shape as the optimizer is to hold it.

    Raises:
        DataError: number or shapes of the parameters differ.
    """
    shapes = zip_longest(_parameter_shapes(optimizer), state["shapes"])
    for number, (shape, saved_shape) in enumerate(shapes):
        if shape != saved_shape:
            where = f"parameter {number}: shape {shape} here, {saved_shape} in the checkpoint"
            fix = "Resume with the configuration it was saved with."
            raise DataError("The optimizer state belongs to another model.", where, fix)
    values: dict[Any, Any] = {}
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for key, value in {**{k: x.clone() for k, x in tensors.items()}, **state["others"]}.items():
        index, *path, name = key.split(".")
        parameter = parameters[int(index)]
        if torch.is_tensor(value) and value.shape == parameter.shape:
            value = place(parameter, value)
        parent = values.setdefault(int(index), {})
        for part in path:
            parent = parent.setdefault(part, {})
        parent[name] = value
    groups = [{k: tuple(x) if k == "betas" else x for k, x in g.items()} for g in state["groups"]]
    optimizer.load_state_dict({"state": values, "param_groups": groups})


def _checkpoint_files(
    step: int, tensors: Mapping[str, Tensors], state: Json, facts: Json
) -> dict[str, bytes]:
    """File names and contents of a checkpoint; the manifest, which hashes the others, is last."""
    files = {"state.json": json.dumps(state).encode()}
    for name, group in tensors.items():
        copies = {key: t.detach().to("cpu", copy=True).contiguous() for key, t in group.items()}
        files[f"{name}.safetensors"] = save(copies)
    hashes = {name: _hash_and_size(data) for name, data in files.items()}
    libraries = {name: version(name) for name in ("torch", "transformers", "safetensors")}
    manifest = {**facts, "schema": _SCHEMA, "step": step, "config": _config_hash(state)}
    manifest |= {"files": hashes, "libraries": libraries}
    files["manifest.json"] = _manifest_bytes(manifest)
    return files


def _parameter_shapes(optimizer: Optimizer) -> list[list[int]]:
    return [list(p.shape) for group in optimizer.param_groups for p in group["params"]]


def _hash_and_size(data: bytes) -> dict[str, Any]:
    return {"sha256": sha256(data).hexdigest(), "size": len(data)}


def _config_hash(state: Json) -> str:
    """Hash the options in the state; a state without options hashes as null."""
    return sha256(json.dumps(state.get("config"), sort_keys=True).encode()).hexdigest()


def _manifest_bytes(manifest: Json) -> bytes:
    """Encode a manifest with the hash of its other entries under `sha256`."""
    sealed = {key: value for key, value in manifest.items() if key != "sha256"}
    sealed["sha256"] = sha256(json.dumps(sealed).encode()).hexdigest()
    return json.dumps(sealed, indent=1).encode()


def _delete_older(root: Path, newest: Path, keep: int, protect: int | None) -> None:
    directories = _newest_first(root)
    for directory in directories[directories.index(newest) + keep :]:
        if protect is None or directory.name != step_name(protect):
            shutil.rmtree(directory, ignore_errors=True)


def _write_directory(files: Mapping[str, bytes], final: Path) -> None:
    """Write files into a temporary directory, wait for the disk, and rename it to `final`."""
    temp = temporary_path(final)
    temp.mkdir(parents=True)
    for name, data in files.items():
        (temp / name).write_bytes(data)
        flush(temp / name)
    flush(temp)
    if final.exists():
        final.rename(temporary_path(final))
    temp.rename(final)
    flush(final.parent)


def _read_verified(directory: Path) -> Checkpoint:
    """Read one checkpoint; ValueError when a file is not what was written."""
    written = read_bytes(directory / "manifest.json", MAX_JSON_BYTES)
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
