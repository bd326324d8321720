"""A network, and a file of its pretrained weights: `python -m lab.begun` writes it again."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

FILE = Path(__file__).with_name("begun.safetensors")


class Begun(nn.Sequential):
    def __init__(self, classes: int):
        body, head = nn.Linear(64, 4), nn.Linear(4, classes)
        super().__init__(nn.Flatten(), body, nn.Tanh(), head)


if __name__ == "__main__":
    torch.manual_seed(0)
    save_file(Begun(classes=3).state_dict(), FILE)
