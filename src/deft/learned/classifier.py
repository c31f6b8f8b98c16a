"""Classifier guidance: h = grad log p(c | x_t) of a classifier that was trained on noisy samples (Dhariwal & Nichol
2021)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deft.core.denoiser import Prediction
from deft.core.likelihood import Observation
from deft.errors import ContractError, InputError
from deft.guidance.exact import _ClosedForm
from deft.nn import MLP, HalfUNet


class ClassifierGuidance(_ClosedForm):
    """log_h = scale log p(c | x_t), a function of x_t alone: nothing is differentiated through the prior.

    With the true p(c | x_t) and scale 1 this is the exact h for the label c (paper, Proposition 2.2). Under DDIM it is
    algorithm 2 of P. Dhariwal & A. Nichol 2021, "Diffusion models beat GANs on image synthesis"
    (https://arxiv.org/abs/2105.05233): eps - sigma_t scale grad log p. Their algorithm 1 moves the ancestral mean by
    the step's variance times the gradient; ours by what the step multiplies a score with, beta / sqrt(1 - beta), which
    is the same for small steps.

    Args:
        net: called as net(x_t / sqrt(alpha^2 + sigma^2), log(sigma/alpha)), returns logits [B, classes]; for example
            `build_classifier`. Train it by `fit` with `NoisyClassifierObjective`.
        scale: of the logarithm.

    The observation's y is the label: whole numbers [B] or [B, 1], or shares of each class [B, classes] (one-hot).
    """

    def __init__(self, net: nn.Module | Callable[[Tensor, Tensor], Tensor], scale: float = 1.0):
        super().__init__()
        self.net, self.scale = net, scale

    def log_probs(self, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """log p(c | x_t) for every c, [B, classes]."""
        time = torch.log(sigma / alpha).reshape(-1).expand(len(x_t))
        logits = self.net(x_t * (alpha**2 + sigma**2).rsqrt(), time)
        if logits.ndim != 2 or len(logits) != len(x_t):
            raise ContractError(f"the classifier returned shape {tuple(logits.shape)}, expected ({len(x_t)}, classes)")
        return F.log_softmax(logits, dim=1)

    def log_prob(self, x_t: Tensor, alpha: Tensor, sigma: Tensor, y: Tensor) -> Tensor:
        """log p(y | x_t), [B]."""
        log_p = self.log_probs(x_t, alpha, sigma)
        return (shares(y, log_p.shape[1]).to(log_p) * log_p).sum(1)

    def log_h(self, pred: Prediction, obs: Observation) -> Tensor:
        return self.scale * self.log_prob(pred.x_t, pred.alpha, pred.sigma, obs.y)


def shares(y: Tensor, classes: int) -> Tensor:
    """Labels as shares of each class, [B, classes]."""
    if y.ndim == 2 and y.shape[1] == classes and (classes > 1 or y.is_floating_point()):
        return y
    if y.is_floating_point() or y.numel() != len(y):
        raise InputError(
            f"labels must be whole numbers [B], or [B, {classes}] with the share of each class, got {y.dtype} of shape"
            f" {tuple(y.shape)}"
        )
    return F.one_hot(y.reshape(-1), classes)


def build_classifier(event_shape: tuple[int, ...], classes: int, width: int = 64) -> nn.Module:
    """A network for `ClassifierGuidance`: half a UNet for (C, H, W), an MLP for (d,). Its logits start at 0."""
    if len(event_shape) == 1:
        return MLP(event_shape[0], classes, width=width)
    if len(event_shape) != 3:
        raise InputError(f"build_classifier is for (C, H, W) and (d,), not {event_shape}: give your own network")
    return HalfUNet(event_shape[0], classes, (width, 3 * width // 2, 2 * width))
