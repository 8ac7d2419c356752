"""Recipe → optimizer and learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from py_authoring.recipe_sections import (
    Adadelta,
    Adam,
    AdamW,
    ConstantSchedule,
    CosineSchedule,
    ExponentialSchedule,
    Recipe,
    RmsProp,
    Sgd,
    StepSchedule,
)


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


def build_scheduler(optimizer: torch.optim.Optimizer, recipe: Recipe) -> LambdaLR:
    """The recipe's schedule; it steps once an epoch and depends on the number of epochs done alone."""
    return LambdaLR(optimizer, factor(recipe))


def factor(recipe: Recipe) -> Callable[[int], float]:
    """Epochs done → what the first learning rate is multiplied with."""
    schedule = recipe.scheduler
    match schedule:
        case ConstantSchedule():
            return lambda epoch: 1.0
        case StepSchedule():
            return lambda epoch: schedule.gamma ** (epoch // schedule.step_size)
        case ExponentialSchedule():
            return lambda epoch: schedule.gamma**epoch
        case CosineSchedule():
            return lambda epoch: (
                schedule.floor + (1 - schedule.floor) * (1 + math.cos(math.pi * min(epoch / schedule.period, 1.0))) / 2
            )
