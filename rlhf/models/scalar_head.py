"""Heads that map a hidden state to a value or a score."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn.functional import gelu

from rlhf.errors import as_usage_error
from rlhf.models.finite_weights import check_finite
from rlhf.storage.atomic import replaced_file
from rlhf.storage.bounded import check_size

MAX_HEAD_BYTES = 500_000_000  # also of a network of one hidden layer

MAX_MLP_WIDTH = 1024  # units of the hidden layer of an `MLPHead`, at most


class ScalarHead(nn.Module):
    """A linear layer w·h + b in float32, initialized to w = b = 0.

    So the first values and scores are 0, whatever the scale of the hidden states.

    Args:
        hidden_size: D, the width of the hidden states.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden_size, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    @classmethod
    def from_linear(cls, linear: nn.Linear) -> "ScalarHead":
        """Build a head with the weights of a classifier's linear layer [1, D]."""
        head = cls(linear.in_features)
        with torch.no_grad():
            head.linear.weight.copy_(linear.weight)
            if linear.bias is not None:
                head.linear.bias.copy_(linear.bias)
        return head

    @classmethod
    def identity(cls, hidden_size: int) -> "ScalarHead":
        """Build a head of `hidden_size` inputs that returns the last input unchanged."""
        head = cls(hidden_size)
        nn.init.ones_(head.linear.weight[:, -1])
        return head

    def forward(self, hidden: Tensor) -> Tensor:
        """The scalar of each hidden state.

        Args:
            hidden: [..., D], of any float dtype.

        Returns:
            [...] float32.
        """
        scalar: Tensor = self.linear(hidden.float())
        return scalar.squeeze(-1)

    def save(self, path: Path) -> None:
        """Write the weights to the safetensors file `path`."""
        save_weights(self, path)

    @classmethod
    def load(cls, path: Path, device: torch.device) -> "ScalarHead":
        """Load a head from the safetensors file `path`.

        Raises:
            UsageError: the file is missing or damaged, or holds other tensors, or NaN.
        """
        with as_usage_error(
            "the scalar head cannot be read", path, "name a directory written by a run"
        ):
            check_size(path, MAX_HEAD_BYTES)
            state = load_file(path, device=str(device))
            head = cls(state["linear.weight"].shape[1]).to(device)
            head.load_state_dict(state, strict=True)
        check_finite(state.items(), path)
        return head


class MLPHead(nn.Module):
    """A float32 network of one hidden layer, whose first outputs are 0.

    Args:
        hidden_size: D, the width of the hidden states; the hidden layer has at most 1,024 units.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        width = min(hidden_size, MAX_MLP_WIDTH)
        self.hidden = nn.Linear(hidden_size, width)
        self.linear = nn.Linear(width, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """The scalar of each hidden state.

        Args:
            hidden: [..., D], of any float dtype.

        Returns:
            [...] float32.
        """
        scalar: Tensor = self.linear(gelu(self.hidden(hidden.float())))
        return scalar.squeeze(-1)


def save_weights(module: nn.Module, path: Path) -> None:
    """Write the weights of a module to the safetensors file `path`."""
    state = {name: value.contiguous() for name, value in module.state_dict().items()}
    with replaced_file(path) as file:
        file.write(save(state))
