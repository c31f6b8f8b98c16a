"""What else can be learned for motifs, on DEFT's terms: the same objective, data and last branch.

    mean = m + n2(t) rho^2 / (rho^2 + sigma_y^2) (y - A m),    h = (alpha / sigma^2) (mean - x̂),

m of a network of its own, which never looks at the prior (rho^2 is the prior's measured error, as DEFT's). What
`deft.learned.baselines` is for images.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from deft.core.denoiser import Denoiser, Prediction
from deft.core.likelihood import Observation
from deft.denoiser.parametrisation import parametrisation
from deft.domains.protein.geometry import centred, coordinates
from deft.domains.protein.htransform import HEADS, MotifNet, Seen
from deft.domains.protein.network import ChainNet
from deft.domains.protein.prior import BackbonePrior
from deft.errors import InputError
from deft.learned.base import report_size, widest
from deft.learned.baselines import towards
from deft.learned.deft import Calibrated, Multiplier
from deft.nn.embed import zero
from deft.runtime.messages import old_messages


class ChainAmortised(Calibrated):
    """A conditional denoiser of backbones: a stage that looks at the noisy chain with the motif put in, and behind it a
    network like the prior's.

    m = c_skip x_t + c_out F, with F the sum of both (Karras et al. 2022, eq. 7).

    Args:
        net: settings of the `ChainNet`. blocks: transformer blocks of the stage before it. length: of the prior's
            event.
        tuned: the network begins as a copy of the prior's (`begin`): full fine-tuning.
    """

    feature_channels = 1

    def __init__(self, net: dict[str, Any], blocks: int = 1, length: int = 128, tuned: bool = False):
        super().__init__()
        self.event_shape, self.blocks, self.tuned = (length, 3), blocks, tuned
        self.net = ChainNet(**net)
        width = int(self.net.config["width"])
        self.motif, self.join, self.n2 = MotifNet(width, blocks), zero(nn.Linear(width, width)), Multiplier(1.0)

    @classmethod
    @old_messages("log")
    def sized(cls, prior: Denoiser, size: float, feature_channels: int = 1, **options: Any) -> ChainAmortised:
        """Below the prior's own size the widest that fits; from 1 on the prior's network, and a stage more."""
        if size >= 1:
            return report_size(cls(_chain_net(prior).config, length=prior.event_shape[0], **options), prior)

        def make(width: int) -> ChainAmortised:
            return cls(
                {"width": width, "stages": 2, "blocks": 1, "heads": HEADS, "pair": 16},
                length=prior.event_shape[0],
                **options,
            )

        return report_size(make(widest(prior, size, make, 2 * HEADS)), prior)

    def initialise(self, prior: Denoiser) -> ChainAmortised:
        """Start from the prior's weights. Returns self."""
        self.net.load_state_dict(_chain_net(prior).state_dict())
        return self

    @property
    def length(self) -> int:
        return self.event_shape[0]

    def config(self) -> dict[str, Any]:
        return {"net": self.net.config, "blocks": self.blocks, "length": self.event_shape[0], "tuned": self.tuned}

    @classmethod
    def from_config(cls, prior: Denoiser, config: dict[str, Any]) -> ChainAmortised:
        return cls(**config)

    def forward(self, pred: Prediction, obs: Observation) -> Tensor:
        a, s = pred.alpha, pred.sigma
        c_skip, c_out = parametrisation("edm")
        rho2 = self.rho2(torch.log(s / a).float()).to(pred.x_t)
        start = Seen(pred, coordinates(c_skip(a, s) * pred.x_t), obs, rho2)
        vectors, _, tokens = self.motif(start)
        f = vectors + self.net(
            pred.x_t * (a**2 + s**2).rsqrt(), torch.log(s / a).reshape(-1).expand(len(vectors)), self.join(tokens)
        )
        m = c_skip(a, s) * coordinates(pred.x_t) + c_out(a, s) * f
        mean = m + self.n2(start.time)[:, None, None] * Seen(pred, m, obs, rho2).g
        return centred(towards(pred, mean), start.real)


def _chain_net(prior: Denoiser) -> ChainNet:
    if not isinstance(prior, BackbonePrior) or not isinstance(prior.net, ChainNet):
        raise InputError(
            "only a prior of deft.domains.protein.network.ChainNet can be copied, and this one is a"
            f" {type(prior).__name__}"
        )
    return prior.net
