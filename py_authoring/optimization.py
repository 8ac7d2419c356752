"""Recipe → optimizer."""

from __future__ import annotations

import torch
from torch import nn

from py_authoring.recipe_sections import Adadelta, Adam, AdamW, Recipe, RmsProp, Sgd


def build_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimizer for all parameters that want a gradient.

    Example:
        >>> from py_authoring.recipe import load_recipe
        >>> type(build_optimizer(nn.Linear(1, 1), load_recipe("models/mnist").recipe)).__name__
        'Adam'
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = recipe.optimizer
    lr, decay = optimizer.lr, optimizer.weight_decay
    match optimizer:
        case Adam():
            return torch.optim.Adam(parameters, lr=lr, betas=optimizer.betas, weight_decay=decay)
        case AdamW():
            return torch.optim.AdamW(parameters, lr=lr, betas=optimizer.betas, weight_decay=decay)
        case Sgd():
            return torch.optim.SGD(
                parameters, lr=lr, momentum=optimizer.momentum, nesterov=optimizer.nesterov, weight_decay=decay
            )
        case RmsProp():
            return torch.optim.RMSprop(parameters, lr=lr, momentum=optimizer.momentum, weight_decay=decay)
        case Adadelta():
            return torch.optim.Adadelta(parameters, lr=lr, rho=optimizer.rho, weight_decay=decay)
