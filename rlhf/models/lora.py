"""Named LoRA adapters on one base model."""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from peft import LoraConfig, PeftModel, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.nn import functional

from rlhf.config.schema import LoraType, ModelConfig
from rlhf.errors import UsageError, as_usage_error
from rlhf.models.adapter_files import LANGUAGE_LINEARS, read_adapter
from rlhf.models.locations import write_relative_base


class Adapters:
    """Named LoRA adapters of one model; at most one is active at a time.

    Whether an adapter trains is set when it is added and does not change when another becomes
    active (peft would freeze all but the active one).

    An adapter of type `alora` (activated LoRA, Greenewald et al. 2025, arXiv:2504.12397) applies to
    the tokens from the invocation on, the ids that end every prompt. The caller has to run the
    tokens before the invocation without the adapter. It is saved as peft's activated LoRA.

    Args:
        model: the base model; its linear layers are wrapped in place when an adapter is added.
        invocation: token ids that end every prompt; if empty, the type `alora` is not available.
    """

    def __init__(self, model: nn.Module, invocation: Sequence[int] = ()) -> None:
        self._model, self.invocation = model, list(invocation)
        self._peft: PeftModel | None = None
        self._trains: dict[str, bool] = {}
        # Listed once: adapters are switched often, and walking the modules of a model is slow.
        self._layers: list[Any] = []
        self._parameters: dict[str, dict[str, nn.Parameter]] = {}
        self._lora_types: dict[str, LoraType] = {}
        self.current: str | None = None

    @property
    def names(self) -> list[str]:
        """Names of all adapters."""
        return [] if self._peft is None else list(self._peft.peft_config)

    @property
    def trained_types(self) -> set[LoraType]:
        """Types of the adapters that train."""
        return {self._lora_types[name] for name, trains in self._trains.items() if trains}

    @property
    def layers(self) -> list[str]:
        """Names of the layers that carry adapters."""
        named = self._model.named_modules()
        return [name for name, layer in named if isinstance(layer, BaseTunerLayer)]

    @property
    def lora_type(self) -> LoraType:
        """Type of the active adapter; if none is active, the common type of all adapters.

        `lora` if there is no adapter, or if none is active and the adapters differ in type.
        """
        if self.current is not None:
            return self._lora_types[self.current]
        return "alora" if set(self._lora_types.values()) == {"alora"} else "lora"

    def add(self, name: str, *, rank: int, alpha: float, lora_type: LoraType = "lora") -> None:
        """Add a fresh trainable adapter and make it active; its update B·A is 0 at first.

        Args:
            name: of the adapter.
            rank: columns of each factor.
            alpha: the update is scaled by alpha / rank.
            lora_type: `alora` applies from the invocation on only.

        Raises:
            UsageError: the model has no linear layer named in LANGUAGE_LINEARS; or `alora` without
                an invocation.
        """
        config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=LANGUAGE_LINEARS)
        self._insert(name, config, lora_type, trains=True)

    def load(self, name: str, directory: Path, *, trains: bool) -> None:
        """Load an adapter saved in peft's format and make it active.

        Args:
            name: name of the adapter in this model.
            directory: with adapter_config.json and adapter_model.safetensors.
            trains: whether its parameters are trainable.

        Raises:
            UsageError: it cannot be read, it reaches beyond the linear layers of the language
                model, or its weights or its invocation do not fit this model.
        """
        config, weights, invocation = read_adapter(directory, self._model)
        if invocation and invocation != self.invocation:
            raise UsageError(
                "the adapter's invocation differs from the ids that end this model's prompts",
                f"{directory}: {invocation} in the adapter, {self.invocation} in the model",
                "use the tokenizer and chat template it was trained with",
            )
        self._insert(name, config, "alora" if invocation else "lora", trains=trains)
        fix = "load it on the model it was trained on"
        with as_usage_error("the adapter was trained on another model", directory, fix):
            loaded = set_peft_model_state_dict(self._peft, weights, adapter_name=name)
        missing = [key for key in loaded.missing_keys if f".{name}." in key and ".lora_" in key]
        if mismatched := [*missing, *loaded.unexpected_keys]:
            where = f"{directory}: {mismatched[0]}"
            raise UsageError("the adapter was trained on another model", where, fix)

    def _insert(self, name: str, config: LoraConfig, lora_type: LoraType, *, trains: bool) -> None:
        if lora_type == "alora" and not self.invocation:
            fix = "use model.lora_type=lora"
            raise UsageError("no fixed ids end this model's prompts", f"adapter {name}", fix)
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
        self._layers = [x for x in self._model.modules() if isinstance(x, BaseTunerLayer)]
        for layer in self._layers:
            if name in layer.lora_A:  # two adapters may cover different layers
                _multiply_in_input_dtype(layer, name)
        self._model.eval()  # what peft inserts is in training mode
        self._parameters[name] = {
            key: value
            for key, value in self._model.named_parameters()
            if ".lora_" in key and key.rsplit(".", 2)[1] == name  # ….lora_A.NAME.weight
        }
        self.switch(name)

    def switch(self, name: str | None) -> None:
        """Make `name` the active adapter; None: the base model runs without adapter."""
        for layer in self._layers:
            layer.enable_adapters(name is not None)
            if name is not None:
                layer.set_adapter(name)
        for adapter, parameters in self._parameters.items():  # peft lets only the active one train
            for value in parameters.values():
                value.requires_grad_(self._trains[adapter])
        self.current = name

    def set_trainable(self, name: str) -> None:
        """Make a loaded adapter trainable, and active."""
        self._trains[name] = True
        self.switch(name)

    @contextmanager
    def use(self, name: str | None) -> Iterator[None]:
        """A context in which `name` is the active adapter (None: no adapter)."""
        previous = self.current
        if name == previous:
            yield
            return
        self.switch(name)
        try:
            yield
        finally:
            self.switch(previous)

    def tensors(self, name: str) -> dict[str, nn.Parameter]:
        """Parameters of the adapter `name`, by name; empty if there is no such adapter."""
        return dict(self._parameters.get(name, {}))

    def save(self, name: str, directory: Path, base: str) -> None:
        """Write an adapter so that `peft.PeftModel.from_pretrained(model, directory)` loads it.

        Args:
            name: of the adapter.
            directory: made if missing; files of the same names are replaced.
            base: directory or hub id of the base model, written to the adapter's configuration.
        """
        assert self._peft is not None
        config = self._peft.peft_config[name]
        config.base_model_name_or_path = base
        if self._lora_types[name] == "alora":  # peft ignores the invocation without this task type
            config.task_type, config.alora_invocation_tokens = "CAUSAL_LM", self.invocation
        with tempfile.TemporaryDirectory() as scratch:
            self._peft.save_pretrained(scratch, selected_adapters=[name])
            shutil.copytree(Path(scratch, name), directory, dirs_exist_ok=True)
        config.task_type = config.alora_invocation_tokens = None
        write_relative_base(base, directory)

    def merge(self, name: str) -> None:
        """Add the update of the adapter `name` to the weights, and remove all adapters.

        W ← W + alpha / rank · B A, in the dtype of W.

        Raises:
            UsageError: the adapter is of type `alora`; merged, it would apply to every token.
        """
        assert self._peft is not None
        if self._lora_types[name] == "alora":
            fix = "load it with peft as it is, or train with model.lora_type=lora"
            raise UsageError("an adapter of type alora cannot be merged", name, fix)
        self._peft.merge_and_unload(adapter_names=[name])
        self._peft, self.current = None, None
        for state in (self._trains, self._lora_types, self._parameters, self._layers):
            state.clear()


class LoraFactor(nn.Linear):
    """A float32 LoRA factor, A or B, cast to the dtype of its input for the product.

    peft casts the input to float32 instead; with a half-precision base model that doubles the
    activations saved for the backward pass.
    """

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] to [..., out], in the dtype of `x`."""
        return functional.linear(x, self.weight.to(x.dtype))


def _multiply_in_input_dtype(layer: Any, name: str) -> None:
    """Replace the factors of the adapter `name` in a peft layer by `LoraFactor`s."""
    layer.cast_input_dtype_enabled = False
    for factors in (layer.lora_A, layer.lora_B):
        old = factors[name]
        factors[name] = LoraFactor(old.in_features, old.out_features, bias=False, device="meta")
        factors[name].weight = old.weight


def refuse_full_training(adapter: Path | None, where: str) -> None:
    """Refuse to train all weights of a model that an adapter belongs to.

    Args:
        adapter: directory of the adapter; None: there is none.
        where: what asks for full training, e.g. `model.train=full`.

    Raises:
        UsageError: there is an adapter.
    """
    if adapter is not None:
        fix = "train a LoRA, or merge the adapter: rlhf export RUN export.merge=true"
        what = "full training cannot start from an adapter"
        raise UsageError(what, f"{where}: {adapter}", fix)


def add_adapter(adapters: Adapters, name: str, config: ModelConfig) -> None:
    """Add a fresh trainable adapter with rank, scale and type from the configuration.

    Args:
        adapters: adapters of the model.
        name: name of the new adapter.
        config: reads `lora_rank`, `lora_alpha` and `lora_type`.
    """
    rank, alpha, lora_type = config.lora_rank, config.lora_alpha, config.lora_type
    adapters.add(name, rank=rank, alpha=alpha, lora_type=lora_type)
