"""A scalar read from a hidden state: values and scores."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rlhf.errors import as_usage_error


class ScalarHead(nn.Module):
    """w·h + b in float32, zero at the start.

    Starting at zero makes the first values and scores 0 whatever the trunk's scale.

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
        """A head that computes what a classifier's own [1, D] layer does."""
        head = cls(linear.in_features)
        with torch.no_grad():
            head.linear.weight.copy_(linear.weight)
            if linear.bias is not None:
                head.linear.bias.copy_(linear.bias)
        return head

    @classmethod
    def identity(cls, features: int) -> "ScalarHead":
        """A head of that many features that passes the last one on."""
        head = cls(features)
        nn.init.ones_(head.linear.weight[:, -1])
        return head

    def forward(self, hidden: Tensor) -> Tensor:
        """[..., D] of any float dtype to [...] float32."""
        scalar: Tensor = self.linear(hidden.float())
        return scalar.squeeze(-1)

    def save(self, path: Path) -> None:
        """Write the weights to a safetensors file."""
        save_file({name: tensor.contiguous() for name, tensor in self.state_dict().items()}, path)

    @classmethod
    def load(cls, path: Path, device: torch.device) -> "ScalarHead":
        """The head of a safetensors file; a missing or extra key is an error."""
        with as_usage_error(
            "the scalar head cannot be read", path, "name a folder that a run left"
        ):
            state = load_file(path, device=str(device))
            head = cls(state["linear.weight"].shape[1]).to(device)
            head.load_state_dict(state, strict=True)
        return head
