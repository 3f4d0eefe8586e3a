"""The head of the critic: a value from a hidden state and from value features."""

from pathlib import Path

import torch
from torch import Tensor, nn

from rlhf.config.choices import CriticHead
from rlhf.functional import VALUE_FEATURES
from rlhf.models.scalar_head import MLPHead, ScalarHead, save_weights

MAX_FIT_WIDTH = 512  # inputs of the fit that hidden states give, at most


class ValueHead(nn.Module):
    """V = head(h) + u·f of a hidden state h and value features f, float32; at first 0.

    Args:
        hidden_size: D, the width of the hidden states.
        kind: `linear` or `mlp`, the head that reads the hidden states.
    """

    def __init__(self, hidden_size: int, kind: CriticHead = "linear") -> None:
        super().__init__()
        self.kind = kind
        head = ScalarHead if kind == "linear" else MLPHead
        self.states: ScalarHead | MLPHead = head(hidden_size)
        self.features = nn.Parameter(torch.zeros(len(VALUE_FEATURES)))
        projection = _projection(hidden_size) if hidden_size > MAX_FIT_WIDTH else None
        self.register_buffer("projection", projection, persistent=False)
        self.projection: Tensor | None

    def forward(self, hidden: Tensor, features: Tensor | None = None) -> Tensor:
        """The value of each state; without features, the part that the hidden state gives.

        Args:
            hidden: [N, D], of any float dtype.
            features: [N, 5] float32, standardized `value_features`; None: all 0.

        Returns:
            [N] float32, reward units.
        """
        values: Tensor = self.states(hidden)
        return values if features is None else values + self.feature_values(features)

    def feature_values(self, features: Tensor) -> Tensor:
        """The part of the values [N] that the value features [N, 5] give."""
        values: Tensor = features.to(self.features) @ self.features
        return values

    def fit_inputs(self, hidden: Tensor) -> Tensor:
        """What a closed-form fit reads of hidden states [N, D]: [N, min(D, 512)] float32.

        Wider states are projected by a fixed random matrix, which keeps distances.

        Source: Johnson and Lindenstrauss 1984.
        """
        states = hidden.detach().float()
        return states if self.projection is None else states @ self.projection

    @torch.no_grad()
    def set_weights(self, weights: Tensor, intercept: Tensor) -> None:
        """Take the weights [F + 5] of a fit on `fit_inputs` [N, F] and features, and its intercept.

        Raises:
            TypeError: the head is not linear.
        """
        if not isinstance(self.states, ScalarHead):
            raise TypeError("set_weights: got a head of kind mlp, wanted linear")
        linear, count = self.states.linear, len(VALUE_FEATURES)
        states = weights[:-count].to(linear.weight)
        if self.projection is not None:
            states = self.projection @ states
        linear.weight.copy_(states.unsqueeze(0))
        linear.bias.copy_(intercept)
        self.features.copy_(weights[-count:])

    def save(self, path: Path) -> None:
        """Write the weights to the safetensors file `path`."""
        save_weights(self, path)


def _projection(hidden_size: int) -> Tensor:
    """Return a random matrix [D, 512] whose columns have length 1 on average; always the same."""
    matrix = torch.randn(hidden_size, MAX_FIT_WIDTH, generator=torch.Generator().manual_seed(0))
    projection: Tensor = matrix / hidden_size**0.5
    return projection
