"""LoRA adapters by role on one trunk. The only file that knows peft."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from peft import LoraConfig, PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from rlhf.errors import UsageError

# Linear layers of the language model only: bare names would also match the vision tower.
LANGUAGE_LINEARS = r"(?!.*vision_tower).*\.(q|k|v|o|gate|up|down)_proj"


class Adapters:
    """Named LoRA adapters of one model. At most one is active; which ones train never changes.

    Args:
        model: the trunk; its linear layers are wrapped in place when an adapter is added.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._peft: PeftModel | None = None
        self._trains: dict[str, bool] = {}
        self.current: str | None = None

    @property
    def names(self) -> list[str]:
        return [] if self._peft is None else list(self._peft.peft_config)

    @property
    def layers(self) -> list[str]:
        """Names of the layers that carry adapters."""
        named = self._model.named_modules()
        return [name for name, layer in named if isinstance(layer, BaseTunerLayer)]

    def add(self, name: str, *, rank: int, alpha: float) -> None:
        """Add a fresh adapter, which changes nothing until trained; it trains, and is active.

        Raises:
            UsageError: the model has no layer of the names that LoRA is put on.
        """
        config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=LANGUAGE_LINEARS)
        try:
            if self._peft is None:
                self._peft = PeftModel(self._model, config, adapter_name=name)
            else:
                self._peft.add_adapter(name, config)
        except ValueError as error:
            raise UsageError(
                f"LoRA finds no layer in {type(self._model).__name__}",
                str(error).split("\n")[0],
                "train it in full, or only the head",
            ) from error
        self._trains[name] = True
        self.switch(name)

    def load(self, name: str, folder: Path, *, trains: bool) -> None:
        """Load an adapter saved in peft's format and make it active; does it train from here?"""
        if self._peft is None:
            self._peft = PeftModel.from_pretrained(
                self._model, folder, adapter_name=name, is_trainable=True
            )
        else:
            self._peft.load_adapter(folder, adapter_name=name, is_trainable=True)
        self._trains[name] = trains
        self.switch(name)

    def switch(self, name: str | None) -> None:
        """Make `name` the active adapter; None runs the bare trunk."""
        for layer in self._layers():
            layer.enable_adapters(name is not None)
            if name is not None:
                layer.set_adapter(name)
        for key, value in self._factors():  # peft lets only the active one train
            value.requires_grad_(self._trains[_owner(key)])
        self.current = name

    @contextmanager
    def use(self, name: str | None) -> Iterator[None]:
        """The adapter `name` (None: the bare trunk) inside the block."""
        before = self.current
        if name == before:
            yield
            return
        self.switch(name)
        try:
            yield
        finally:
            self.switch(before)

    def tensors(self, name: str) -> dict[str, nn.Parameter]:
        """The adapter's parameters by name."""
        return {key: value for key, value in self._factors() if _owner(key) == name}

    def save(self, name: str, folder: Path, base: str) -> None:
        """Write the adapter where stock `PeftModel.from_pretrained(model, folder)` reads it."""
        assert self._peft is not None
        self._peft.peft_config[name].base_model_name_or_path = base
        with tempfile.TemporaryDirectory() as scratch:
            self._peft.save_pretrained(scratch, selected_adapters=[name])
            shutil.copytree(Path(scratch, name), folder, dirs_exist_ok=True)

    def merge(self, name: str) -> None:
        """Add the adapter `name` to the weights and take all adapters off.

        W + alpha / rank · B A in the dtype of W.
        """
        assert self._peft is not None
        self._peft.merge_and_unload(adapter_names=[name])
        self._peft, self.current = None, None
        self._trains.clear()

    def _layers(self) -> Iterator[Any]:
        return (layer for layer in self._model.modules() if isinstance(layer, BaseTunerLayer))

    def _factors(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((key, v) for key, v in self._model.named_parameters() if ".lora_" in key)


def _owner(key: str) -> str:
    """The adapter's name in `….lora_A.NAME.weight`."""
    return key.rsplit(".", 2)[1]
