"""A small residual network in PyTorch, and how to train it: the model that `port_pytorch.py` brings over.

python examples/digits_torch.py digits.pt
"""

import argparse

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F


class Block(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)

    def forward(self, x):
        y = F.relu_(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        y += x
        return F.relu_(y)


class Net(nn.Module):
    def __init__(self, width: int = 32):
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1)
        self.blocks = nn.ModuleList([Block(width) for _ in range(2)])
        self.pool = nn.MaxPool2d(2)
        self.place = nn.Parameter(torch.randn(1, 16, width) * 0.02)
        self.attend = nn.MultiheadAttention(width, 4, batch_first=True)
        self.norm = nn.LayerNorm(width)
        self.drop = nn.Dropout(0.1)
        self.head = nn.Linear(width, 10)

    def forward(self, x):  # (N, 1, 8, 8)
        x = F.gelu(self.stem(x))
        for block in self.blocks:
            x = block(x)
        x = self.pool(x)
        n, c, h, w = x.size()
        tokens = x.permute(0, 2, 3, 1).contiguous().view(n, h * w, c) + self.place
        query = self.norm(tokens)
        tokens = tokens + self.attend(query, query, query, need_weights=False)[0]
        return self.head(self.drop(tokens.mean(dim=1)))


def train(x: np.ndarray, y: np.ndarray, epochs: int, seed: int, path: str) -> None:
    """Train on images and labels, and write the checkpoint that a PyTorch script would."""
    torch.manual_seed(seed)
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    images, labels = torch.from_numpy(x), torch.from_numpy(y)
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
    torch.save({"epoch": epochs, "model": model.state_dict(), "optimizer": optimizer.state_dict()}, path)


if __name__ == "__main__":
    from sklearn.datasets import load_digits

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", help="the checkpoint to write")
    parser.add_argument("--epochs", type=int, default=5, help="passes over the digits (default 5)")
    parser.add_argument("--seed", type=int, default=0, help="of the weights and the batches (default 0)")
    options = parser.parse_args()
    digits, numbers = load_digits(return_X_y=True)
    train((digits / 16.0).astype(np.float32).reshape(-1, 1, 8, 8), numbers, options.epochs, options.seed, options.path)
