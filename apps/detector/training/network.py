"""The accident score's network in torch, for training; inference is koren_detector.accident."""

import numpy as np
import torch
from torch import Tensor, nn

from koren_detector.motion import FEATURES


class Network(nn.Module):
    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.entry = nn.Linear(len(FEATURES), width)
        self.recurrent = nn.GRU(width, width, batch_first=True)
        self.exit = nn.Linear(2 * width, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Logits (batch, frames) of features (batch, frames, len(FEATURES))."""
        entry = torch.relu(self.entry(features))
        state, _ = self.recurrent(entry)
        logits: Tensor = self.exit(torch.cat([state, entry], 2))[..., 0]
        return logits

    def weights(self) -> dict[str, np.ndarray]:
        """The weights under the names that koren_detector.accident reads."""
        names = {
            "entry": self.entry.weight,
            "entry_bias": self.entry.bias,
            "input": self.recurrent.weight_ih_l0,
            "input_bias": self.recurrent.bias_ih_l0,
            "hidden": self.recurrent.weight_hh_l0,
            "hidden_bias": self.recurrent.bias_hh_l0,
            "exit": self.exit.weight,
            "exit_bias": self.exit.bias,
        }
        return {name: value.detach().numpy().astype(np.float32) for name, value in names.items()}
