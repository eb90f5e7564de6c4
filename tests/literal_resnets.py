"""Small residual networks, written as torchvision and mmaction v1 write theirs."""

import torch
from torch import nn


class BasicBlock(nn.Module):
    """2D, or 3D with `conv` and `bn` of that kind; names are torchvision's."""

    expansion = 1

    def __init__(self, inplanes, planes, stride=1, conv=nn.Conv2d, bn=nn.BatchNorm2d):
        super().__init__()
        self.conv1 = conv(inplanes, planes, 3, stride, 1, bias=False)
        self.bn1 = bn(planes)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = conv(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = bn(planes)
        self.downsample = None
        if stride != 1 or inplanes != planes:
            self.downsample = nn.Sequential(
                conv(inplanes, planes, 1, stride, bias=False), bn(planes)
            )

    def forward(self, x):
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


class Bottleneck(nn.Module):
    expansion = 4

    def __init__(self, inplanes, planes, stride=1, conv=nn.Conv2d, bn=nn.BatchNorm2d):
        super().__init__()
        outplanes = 4 * planes
        self.conv1 = conv(inplanes, planes, 1, bias=False)
        self.bn1 = bn(planes)
        self.conv2 = conv(planes, planes, 3, stride, 1, bias=False)
        self.bn2 = bn(planes)
        self.conv3 = conv(planes, outplanes, 1, bias=False)
        self.bn3 = bn(outplanes)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or inplanes != outplanes:
            self.downsample = nn.Sequential(
                conv(inplanes, outplanes, 1, stride, bias=False), bn(outplanes)
            )

    def forward(self, x):
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


class ResNet(nn.Module):
    """torchvision's ResNet without its head; of any width, 2D or 3D.

    In 3D, from the second stage on, each halves the frames.
    """

    def __init__(self, block, layers, width=64, dims=2):
        super().__init__()
        conv, bn = (nn.Conv2d, nn.BatchNorm2d), (nn.Conv3d, nn.BatchNorm3d)
        kind = dict(zip(('conv', 'bn'), conv if dims == 2 else bn))
        size, stride, pad = (
            (7, 2, 3) if dims == 2 else ((3, 7, 7), (1, 2, 2), (1, 3, 3))
        )
        pool = (
            nn.MaxPool2d(3, 2, 1) if dims == 2 else nn.MaxPool3d((1, 3, 3), (1, 2, 2))
        )
        self.conv1 = kind['conv'](3, width, size, stride, pad, bias=False)
        self.bn1 = kind['bn'](width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = pool
        self.stages = [f'layer{i + 1}' for i in range(len(layers))]
        inplanes = width
        for i, (name, count) in enumerate(zip(self.stages, layers)):
            blocks, planes = [], width * 2**i
            for b in range(count):
                stride = 2 if i and not b else 1
                blocks.append(block(inplanes, planes, stride, **kind))
                inplanes = planes * block.expansion
            self.add_module(name, nn.Sequential(*blocks))

    def forward(self, x):
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for name in self.stages:
            x = getattr(self, name)(x)
        return x


def small(block=BasicBlock, dims=2, layers=(2, 2), seed=0, width=8):
    torch.manual_seed(seed)
    return ResNet(block, layers, width, dims)
