"""What objects print: every argument of a constructor is an attribute of that name, and appears in `repr`; modules take
one line."""

from __future__ import annotations

import inspect
import pickle

import numpy as np
import pytest
import torch
from torch import nn

import deft
from deft import likelihood, operator
from deft.core.likelihood import AfterDecoder, Decoder, Likelihood, Tempered
from deft.core.operator import Operator
from deft.core.random import BatchNoise, Noise, RowNoise
from deft.denoiser import MeanDenoiser, NetworkDenoiser
from deft.domains.image.prior import ImagePrior
from deft.domains.image.tasks import TASKS
from deft.guidance import __all__ as GUIDANCE
from deft.guidance.combine import Clipped, Interval, Scaled, Sum, Zero
from deft.guidance.exact import Mixture
from deft.learned import LEARNED
from deft.nn import UNet
from deft.operator import wrapped
from deft.operator.basic import Identity, Linear, Matrix
from deft.operator.latent import Decoded
from deft.printing import Printed, arguments, short
from deft.prior.latent import LatentPrior
from deft.samplers import SAMPLERS, Cooled, Imputed, TimeTravel
from deft.samplers import __all__ as ALL_SAMPLERS
from deft.schedule import SCHEDULES
from deft.testing import schedules

NET = UNet(1, 1, (8,), patch=2)
PRIOR = deft.freeze(ImagePrior(NET, deft.VPCosine(), (1, 8, 8)))
MASK = torch.ones(1, 1, 8, 8)


class Codec(nn.Module):
    def encode(self, x):
        return x

    def decode(self, z):
        return z


def operators():
    yield from (
        t().check((3 if n == "colourise" else 1, 32, 32)).likelihood.operator
        for n, t in TASKS.items()
        if n != "deblur-nonlinear"
    )
    yield from (
        Matrix(torch.eye(3)),
        Linear(lambda x: x, (3,)),
        Decoded(Identity(), Codec()),
        operator.RayRadon(8, torch.ones(1, 1, 60, 12)),
    )
    yield from (operator.HDR() @ operator.BlockAverage(2), operator.stack(operator.HDR(), event_shape=(1, 4, 4)))
    yield from (operator.EdgedConvolution(torch.ones(1, 1, 3, 3) / 9), operator.ColourJPEG(30))
    yield wrapped.ArrayLinear(np.asarray, np.asarray, (3,), (3,))
    yield wrapped.ArrayMap(np.asarray, np.multiply, (3,), (3,), None)


def likelihoods():
    gaussian = deft.Gaussian(Identity(), 0.1)
    yield from (
        gaussian,
        likelihood.Poisson(Identity()),
        likelihood.Unknown((3, 8, 8), (1, 16, 16), [0.0], [1.0]),
        likelihood.Inside(0.0, 1.0),
        Tempered(likelihood.Inside(), 0.5),
    )
    yield from (
        likelihood.Classifier(nn.Flatten(), 3, (3,)),
        likelihood.Reward(torch.sum, 1.0, (3,)),
        AfterDecoder(gaussian, Decoder(Codec(), (1, 8, 8))),
    )


def guidance():
    mixture = Mixture(torch.ones(1), torch.zeros(1, 2), torch.eye(2)[None])
    needed = {
        "Pulled": (lambda a, s: s**2,),
        "ScoreAtMean": (lambda a, s: s**2,),
        "MCG": (deft.DPS(),),
        "ExactMixture": (mixture,),
    }
    for name in GUIDANCE:
        kind = getattr(deft.guidance, name)
        if name != "Mixture":
            yield kind(*needed.get(name, ()))
    yield from (Zero(), Sum(Zero(), deft.DPS()), Scaled(Zero(), 2.0), Interval(Zero(), 0.1, 1.0), Clipped(Zero(), 1.0))


def samplers():
    one = SAMPLERS["ddim"]()
    yield from (kind() for kind in SAMPLERS.values())
    for name in ALL_SAMPLERS:
        kind = getattr(deft.samplers, name)
        if (
            inspect.isclass(kind)
            and issubclass(kind, deft.Sampler)
            and not inspect.isabstract(kind)
            and kind not in SAMPLERS.values()
        ):
            yield (
                Cooled(SAMPLERS["ancestral"](), 0.5)
                if kind is Cooled
                else kind(one)
                if kind in (Imputed, TimeTravel)
                else kind()
            )


THINGS = [
    *operators(),
    *likelihoods(),
    *guidance(),
    *samplers(),
    *schedules().values(),
    *(t() for t in TASKS.values()),
    *(kind.sized(PRIOR, 5.0, 1) for kind in LEARNED.values()),
    PRIOR,
    MeanDenoiser(lambda x, a, s: x, deft.VPCosine(), (3,)),
    LatentPrior(PRIOR, Codec(), (1, 8, 8)),
    NetworkDenoiser(NET, deft.VPCosine(), (1, 8, 8), "eps"),
    Noise(0, 3),
    BatchNoise(4, 0, 1, rows=range(2)),
    RowNoise(4, 0),
    deft.Observation(torch.zeros(2, 3), deft.Gaussian(Identity(), 0.1)),
]


@pytest.mark.parametrize("thing", THINGS, ids=lambda t: type(t).__name__)
def test_every_argument_is_kept_and_printed(thing):
    text = repr(thing)
    assert (
        text.startswith(type(thing).__name__ + "(")
        and text.endswith(")")
        and "\n" not in text
        and " object at 0x" not in text
        and len(text) < 1200
    )
    free = {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}
    wanted = {
        n: p
        for n, p in inspect.signature(type(thing)).parameters.items()
        if not (isinstance(thing, nn.Module) and p.kind in free and n in ("args", "kwargs"))
    }
    if isinstance(thing, deft.Observation):
        del wanted["lifted"]  # what was computed of y already, no setting
    kept = arguments(thing)
    for name, parameter in wanted.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            continue
        assert name in kept, f"{type(thing).__name__} does not keep its argument {name!r} as an attribute of that name"
        shown = short(kept[name])
        assert parameter.kind is inspect.Parameter.VAR_POSITIONAL or shown in text, (name, shown, text)


def test_every_table_is_looked_at():
    made = {type(t) for t in THINGS}
    shown = {getattr(operator, n) for n in operator.__all__} | {getattr(likelihood, n) for n in likelihood.__all__}
    classes = {
        c for c in shown if inspect.isclass(c) and issubclass(c, (Operator, Likelihood)) and not inspect.isabstract(c)
    }
    missing = {
        c.__name__
        for c in {*classes, *SAMPLERS.values(), *SCHEDULES.values(), *LEARNED.values(), *TASKS.values()} - made
    }
    assert missing <= {"Camera", "BlurSpace", "Rescaled"}, missing  # a camera is a network of 7 million weights


@pytest.mark.parametrize("thing", [t for t in THINGS if isinstance(t, nn.Module)], ids=lambda t: type(t).__name__)
def test_modules_count_their_parameters(thing):
    n = sum(p.numel() for p in thing.parameters())
    assert (f"{n:,} parameters" in repr(thing)) == (n > 0)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (torch.tensor([0.05]), "[0.05]"),
        (torch.tensor(3), "3"),
        (torch.ones(2, 3, dtype=torch.float64), "float64[2, 3] from 1 to 1"),
        (torch.zeros(0, 9), "float32[0, 9]"),
        (torch.zeros(3, 3, dtype=torch.complex64), "complex64[3, 3]"),
        (torch.zeros(3, 3, device="meta"), "float32[3, 3]"),
        ((1,), "(1,)"),
        ([1, "a"], "[1, 'a']"),
        (tuple(range(20)), "(0, 1, 2, 3, ..., 19)"),
        (torch.sum, "sum"),
        (short, "short"),
        (nn.Linear(2, 3), "Linear(9 parameters)"),
        (np.zeros((2, 2)), "ndarray [2, 2] float64"),
        ({"a": torch.ones(1)}, "{'a': [1.0]}"),
        (None, "None"),
        (0.1, "0.1"),
        ("x" * 300, "'" + "x" * 109 + "...xxxx'"),
        (object(), "object"),
    ],
)
def test_values(value, text):
    assert short(value) == text


def test_what_people_see():
    assert (
        repr(deft.Gaussian(deft.Mask(MASK), 0.05))
        == "Gaussian(operator=Mask(mask=float32[1, 1, 8, 8] from 1 to 1), sigma_y=[0.05], surrogate=0.02)"
    )
    assert repr(deft.Observation(torch.zeros(2, 3), deft.Gaussian(Identity(), 0.1))).startswith(
        "Observation(y=float32[2, 3] from 0 to 0, likelihood=Gaussian(operator=Identity(), "
    )
    assert repr(Sum(Zero(), deft.DPS(0.3))) == "Sum(Zero(), DPS(zeta=0.3, weight=_one))"
    assert (
        repr(BatchNoise(4, 0, 1, rows=range(2))) == "BatchNoise(4, 0, 1, rows=range(0, 2))"
        and repr(Noise(3, 2)) == "Noise(seed=3, indices=range(0, 2))"
    )
    assert "net=None" in repr(LEARNED["deft"].sized(PRIOR, 5.0, 1))


def test_a_users_own():
    class Shift(Operator):
        def __init__(self, by, secret=0):
            self.by, self._secret = by, secret

        def __call__(self, x):
            return x + self.by

        def features(self, y):
            return y

    assert repr(Shift(2.0)) == "Shift(by=2.0)"  # what it does not keep is left out

    class Named(Printed):
        kept_as = {"start": "_start"}  # noqa: RUF012

        def __init__(self, start):
            self._start = start

        def start(self):
            return self._start

    assert repr(Named(3)) == "Named(start=3)"


def test_attributes_are_what_was_given():
    radon = operator.Radon(8, 5, start=10.0)
    assert (radon.side, radon.angles, radon.detectors, radon.pitch) == (8, 5, 12, 1.0) and "start=10.0" in repr(radon)
    assert torch.equal(pickle.loads(pickle.dumps(radon))(torch.ones(1, 1, 8, 8)), radon(torch.ones(1, 1, 8, 8)))
    with pytest.raises(AttributeError, match="Radon has no nothing"):
        _ = radon.nothing
    rows = torch.eye(4, dtype=torch.float64)[:2]
    assert torch.equal(operator.Separable(rows).rows, rows) and operator.Separable(rows).columns is None
    deft_net = nn.Linear(1, 1)
    h = deft.DEFT((1, 8, 8), 1, net=deft_net)
    assert (
        h.net is deft_net
        and deft.DEFT((1, 8, 8), 1).net is None
        and not any(k.startswith("net.") for k in h.state_dict())
    )
