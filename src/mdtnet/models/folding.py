"""Batch norms taken into the convolutions before them: a network that only predicts."""

import copy
import itertools
from typing import TypeVar

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import fuse_conv_bn_eval

from mdtnet.models.temporal import ConvBN, TemporalModule

Model = TypeVar("Model", bound=nn.Module)


def folded(model: Model) -> Model:
    """A copy in eval mode that computes the same in fewer passes, to about 1e-6 of the largest logit.

    In every trunk a batch norm is registered right after its convolution, which is how the pairs are found; a `ConvBN`
    becomes one convolution in its owner.
    """
    model = copy.deepcopy(model).eval()
    for module in [m for m in model.modules() if not isinstance(m, ConvBN)]:
        children = list(module.named_children())
        for (name, conv), (bn_name, bn) in itertools.pairwise(children):
            if isinstance(conv, nn.Conv2d) and isinstance(bn, nn.BatchNorm2d):
                setattr(module, name, fuse_conv_bn_eval(conv, bn))
                setattr(module, bn_name, getattr(bn, "act", nn.Identity()))  # timm's holds its activation
        for name, child in children:
            if isinstance(child, ConvBN):
                setattr(module, name, child.folded())
        if isinstance(module, TemporalModule):
            module.fold()
    return model


def stored_in(model: Model, dtype: torch.dtype) -> Model:
    """The same network with its parameters in `dtype`, so that autocast has no weights to cast; those of batch norms,
    and buffers, stay as they are."""
    for module in model.modules():
        if not isinstance(module, _BatchNorm):
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.to(dtype)
    return model
