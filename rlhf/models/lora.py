"""LoRA adapters by role on one trunk. The only file that knows peft."""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from peft import LoraConfig, PeftModel, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from rlhf.config.schema import LoraType, ModelConfig
from rlhf.errors import UsageError, as_usage_error

# Linear layers of the language model only: bare names would also match the vision tower.
LANGUAGE_LINEARS = r"(?!.*vision_tower).*\.(q|k|v|o|gate|up|down)_proj"


class Adapters:
    """Named LoRA adapters of one model. At most one is active; which ones train never changes.

    An adapter of type `alora` is meant for the tokens from the invocation on, the ids that end
    every prompt; to run what stands before them without it is up to the caller. It is saved as
    peft's activated LoRA.

    Args:
        model: the trunk; its linear layers are wrapped in place when an adapter is added.
        invocation: the ids that end every prompt; without any there is no type `alora`.

    Source: Greenewald et al. 2025, arXiv:2504.12397.
    """

    def __init__(self, model: nn.Module, invocation: Sequence[int] = ()) -> None:
        self._model, self.invocation = model, list(invocation)
        self._peft: PeftModel | None = None
        self._trains: dict[str, bool] = {}
        self._tuned: list[Any] = []  # layers, and below their factors by adapter: roles change
        self._factors: dict[str, dict[str, nn.Parameter]] = {}  # often, and the model is large
        self._lora_types: dict[str, LoraType] = {}
        self.current: str | None = None

    @property
    def names(self) -> list[str]:
        return [] if self._peft is None else list(self._peft.peft_config)

    @property
    def layers(self) -> list[str]:
        """Names of the layers that carry adapters."""
        named = self._model.named_modules()
        return [name for name, layer in named if isinstance(layer, BaseTunerLayer)]

    @property
    def lora_type(self) -> LoraType:
        """Of the active adapter; with none active, of all adapters if they agree."""
        known = (
            set(self._lora_types.values())
            if self.current is None
            else {self._lora_types[self.current]}
        )
        return "alora" if known == {"alora"} else "lora"

    def add(self, name: str, *, rank: int, alpha: float, lora_type: LoraType = "lora") -> None:
        """Add a fresh adapter, which changes nothing until trained; it trains, and is active.

        Raises:
            UsageError: the model has no layer of the names that LoRA is put on, or no invocation.
        """
        config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=LANGUAGE_LINEARS)
        self._insert(name, config, lora_type, trains=True)

    def load(self, name: str, directory: Path, *, trains: bool) -> None:
        """Load an adapter saved in peft's format and make it active; does it train from here?

        Raises:
            UsageError: its weights or its invocation are not for this model.
        """
        fix = "name a folder that a run left"
        with as_usage_error("the adapter cannot be read", directory, fix):
            config = LoraConfig.from_pretrained(str(directory))
            weights = load_file(directory / "adapter_model.safetensors")
        invocation, config.alora_invocation_tokens = config.alora_invocation_tokens, None
        if invocation and list(invocation) != self.invocation:
            raise UsageError(
                "the adapter waits for other ids than those that end this model's prompts",
                f"{directory}: {invocation} there, {self.invocation} here",
                "use the tokenizer and chat template it was trained with",
            )
        self._insert(name, config, "alora" if invocation else "lora", trains=trains)
        loaded = set_peft_model_state_dict(self._peft, weights, adapter_name=name)
        missing = [key for key in loaded.missing_keys if f".{name}." in key and ".lora_" in key]
        if wrong := [*missing, *loaded.unexpected_keys]:
            where, fix = f"{directory}: {wrong[0]}", "load it on the model it was trained on"
            raise UsageError("the adapter is of another model", where, fix)

    def _insert(self, name: str, config: LoraConfig, lora_type: LoraType, *, trains: bool) -> None:
        if lora_type == "alora" and not self.invocation:
            fix = "use model.lora_type=lora"
            raise UsageError("nothing tells this model where a response begins", name, fix)
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
        self._trains[name], self._lora_types[name] = trains, lora_type
        self._tuned = [x for x in self._model.modules() if isinstance(x, BaseTunerLayer)]
        for layer in self._tuned:
            _multiply_as_stored(layer, name)
        self._factors[name] = {
            key: value
            for key, value in self._model.named_parameters()
            if ".lora_" in key and key.rsplit(".", 2)[1] == name  # ….lora_A.NAME.weight
        }
        self.switch(name)

    def switch(self, name: str | None) -> None:
        """Make `name` the active adapter; None runs the bare trunk."""
        for layer in self._tuned:
            layer.enable_adapters(name is not None)
            if name is not None:
                layer.set_adapter(name)
        for owner, factors in self._factors.items():  # peft lets only the active one train
            for value in factors.values():
                value.requires_grad_(self._trains[owner])
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
        return dict(self._factors.get(name, {}))

    def save(self, name: str, directory: Path, base: str) -> None:
        """Write the adapter where stock `PeftModel.from_pretrained(model, directory)` reads it."""
        assert self._peft is not None
        config = self._peft.peft_config[name]
        config.base_model_name_or_path = base
        if self._lora_types[name] == "alora":  # peft is silent without this task, and does nothing
            config.task_type, config.alora_invocation_tokens = "CAUSAL_LM", self.invocation
        with tempfile.TemporaryDirectory() as scratch:
            self._peft.save_pretrained(scratch, selected_adapters=[name])
            shutil.copytree(Path(scratch, name), directory, dirs_exist_ok=True)
        config.task_type = config.alora_invocation_tokens = None

    def merge(self, name: str) -> None:
        """Add the adapter `name` to the weights and take all adapters off.

        W + alpha / rank · B A in the dtype of W.

        Raises:
            UsageError: it is of type `alora`, and weights serve every token.
        """
        assert self._peft is not None
        if self._lora_types[name] == "alora":
            fix = "load it with peft as it is, or train with model.lora_type=lora"
            raise UsageError("an adapter of responses alone cannot be merged", name, fix)
        self._peft.merge_and_unload(adapter_names=[name])
        self._peft, self.current = None, None
        for known in (self._trains, self._lora_types, self._factors, self._tuned):
            known.clear()


class LoraFactor(nn.Linear):
    """A float32 factor of LoRA that multiplies in the dtype of what it is given.

    peft widens that instead: beside a half-precision trunk, half of what the backward keeps.
    """

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight.to(x.dtype))


def _multiply_as_stored(layer: Any, name: str) -> None:
    """Let the adapter `name` of a peft layer work in the dtype of the layer's input."""
    layer.cast_input_dtype_enabled = False
    for factors in (layer.lora_A, layer.lora_B):
        old = factors[name]
        factors[name] = LoraFactor(old.in_features, old.out_features, bias=False, device="meta")
        factors[name].weight = old.weight


def add_adapter(adapters: Adapters, name: str, config: ModelConfig) -> None:
    """Add a fresh adapter of the rank, scale and type that the options name."""
    rank, alpha, lora_type = config.lora_rank, config.lora_alpha, config.lora_type
    adapters.add(name, rank=rank, alpha=alpha, lora_type=lora_type)
