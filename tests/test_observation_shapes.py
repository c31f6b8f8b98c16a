"""Where an observation meets a prior: y, masks and noise levels of other shapes are refused, never broadcast. And what
cannot be loaded is not saved."""

from __future__ import annotations

import copy
import io
import pickle

import numpy as np
import pytest
import torch
from torch import nn

import deft
from deft.core.condition import fitted_to
from deft.domains.image.prior import ImagePrior
from deft.domains.image.tasks import MRI, Inpaint
from deft.errors import InputError
from deft.io.h_files import load_h, save_h
from deft.likelihood import Poisson
from deft.methods import METHODS, plan
from deft.nn import UNet
from deft.operator import HDR, BlockAverage, Compressed, Convolution, MaskedFourier, Radon, gaussian_blur

N, C, S = 3, 1, 8
torch.manual_seed(0)
PRIOR = deft.freeze(ImagePrior(UNet(C, C, (8,), patch=2), deft.VPCosine(), (C, S, S)))
RGB = deft.freeze(ImagePrior(UNet(3, 3, (8,), patch=2), deft.VPCosine(), (3, S, S)))
X = torch.linspace(-1, 1, N * C * S * S).reshape(N, C, S, S)
HOLE = torch.ones(N, 1, S, S)
HOLE[:, :, 2:4] = 0


def gaussian(y, op, sigma=0.1):
    return deft.Observation(y, deft.Gaussian(op, sigma))


OPERATORS = {
    "identity": deft.Identity(),
    "mask": deft.Mask(HOLE),
    "blocks": BlockAverage(4),
    "blur": gaussian_blur((S, S), 1.0),
    "k-space": MaskedFourier(HOLE[:, :, :1].expand(N, 1, S, S)),
    "radon": Radon(S, 5),
    "compressed": Compressed((C, S, S), 0.25),
    "hdr": HDR(2.0),
    "kernel": Convolution(torch.ones(N, 1, 3, 3) / 9),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_the_right_shape_is_taken_and_all_others_refused(name):
    """Every operator: y of one axis less, one more, another row, another number of rows of y; each draws nothing."""
    op = OPERATORS[name]
    y = op(X)
    assert fitted_to(PRIOR, gaussian(y, op)).y.shape == y.shape
    wrong = [
        y[:, 0] if y.ndim > 2 else y[:, :-1],
        y[:, None],
        torch.cat([y, y], 1),
        y[..., :-1],
        y[..., :1],
        y.flatten(1)[:, :5],
        y[0],
    ]
    if any(v.shape[0] > 1 for _, v in op.drawn()):
        wrong += [y[:2], torch.cat([y, y])]
    tried = 0
    for bad in wrong:
        with pytest.raises(InputError):
            deft.sample_posterior(PRIOR, deft.PiGDM(data_std=1.0), gaussian(bad, op), steps=2)
        tried += 1
    assert tried >= 5


@pytest.mark.parametrize(
    ("mask", "says"),
    [
        (HOLE[:, 0], "mask has shape"),
        (HOLE[0, 0], "rows|shape"),
        (HOLE.expand(N, 3, S, S), "expected"),
        (HOLE[:2], "2 rows and y 3"),
        (HOLE.repeat(2, 1, 1, 1), "6 rows and y 3"),
        (HOLE[..., :4], "does not fit"),
        (torch.zeros(1, 1, S, S), "hides everything"),
        (torch.cat([HOLE[:2], torch.zeros(1, 1, S, S)]), "number 2 measures nothing"),
    ],
)
def test_masks(mask, says):
    with pytest.raises(InputError, match=says):
        fitted_to(PRIOR, gaussian(X, deft.Mask(mask)))


def test_a_mask_without_its_channel_axis_on_as_many_channels_as_rows():
    """[3, H, W] on three colour images would be each channel's mask: a result of the right shape, and wrong."""
    x = torch.zeros(3, 3, S, S)
    with pytest.raises(InputError, match="mask has shape"):
        fitted_to(RGB, gaussian(x, deft.Mask(HOLE[:, 0])))
    assert len(fitted_to(RGB, gaussian(x, deft.Mask(HOLE)))) == 3


@pytest.mark.parametrize(("sigma", "rows"), [([0.1, 0.2], 2), ([0.1] * 4, 4)])
def test_noise_levels(sigma, rows):
    with pytest.raises(InputError, match=f"sigma_y has {rows} rows and y 3"):
        fitted_to(PRIOR, gaussian(X, deft.Identity(), torch.tensor(sigma)))
    assert len(fitted_to(PRIOR, gaussian(X, deft.Identity(), torch.tensor([0.1, 0.2, 0.3])))) == 3


@pytest.mark.parametrize(
    ("y", "says"),
    [
        (X.to(torch.complex64), "complex"),
        ((X * 127).to(torch.uint8), "uint8"),
        (X.long(), "int64"),
        (X > 0, "bool"),
        (X[:0], "no measurement"),
        (torch.where(X > 0.9, torch.nan, X), "not finite"),
        (torch.where(X > 0.9, torch.inf, X), "not finite"),
    ],
)
def test_values(y, says):
    with pytest.raises(InputError, match=says):
        fitted_to(PRIOR, gaussian(y, deft.Identity()))


def test_nan_where_nothing_was_measured_is_nothing():
    y = torch.where(HOLE > 0, X, torch.nan)
    a, b = (
        deft.sample_posterior(PRIOR, deft.PiGDM(data_std=1.0), gaussian(v, deft.Mask(HOLE)), steps=3).x
        for v in (y, HOLE * X)
    )
    assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", ">f8", "f2", "longdouble"])
def test_numpy_arrays_and_other_precisions(dtype):
    """Samples are those of a float32 tensor."""
    y = (HOLE * X).numpy().astype(dtype)
    obs = fitted_to(PRIOR, gaussian(y, deft.Mask(HOLE)))
    assert obs.y.dtype == torch.float32 and torch.allclose(obs.y, HOLE * X, atol=1e-3)
    assert (
        deft.sample_posterior(PRIOR, deft.PiGDM(data_std=1.0), gaussian(y, deft.Mask(HOLE)), steps=2).x.dtype
        == torch.float32
    )


@pytest.mark.parametrize("y", [[1.0, 2.0], "y.npz", None, np.array(["a"]), np.array([object()])])
def test_what_is_no_array(y):
    with pytest.raises(InputError, match="expected a tensor"):
        gaussian(y, deft.Identity())


@pytest.mark.parametrize("method", [m for m, row in METHODS.items() if not row.trained and m not in ("mcgdiff", "hmc")])
def test_every_method_meets_the_check(method):
    """By whichever way a method draws, y without its channel axis is refused."""
    if METHODS[method].why_unsupported(deft.Gaussian(deft.Mask(HOLE), 0.1)) is None:
        with pytest.raises(InputError, match="expected"):
            plan(method, steps=5).draw(PRIOR, gaussian((HOLE * X)[:, 0], deft.Mask(HOLE)), 2)


def test_pairs_and_fits_to_one_measurement_meet_the_check():
    from deft.train.control import learn
    from deft.train.data import Pairs
    from deft.train.importance import importance_fit
    from deft.train.path import LogVariance

    bad = gaussian((HOLE * X)[:, 0], deft.Mask(HOLE))
    with pytest.raises(InputError, match="expected"):
        Pairs(X, bad)
    with pytest.raises(InputError, match="expected"):
        learn(h_of(), PRIOR, bad[:1], LogVariance(PRIOR, 4), deft.FitConfig(steps=1, batch=2))
    with pytest.raises(InputError, match="expected"):
        importance_fit(h_of(), PRIOR, bad, rounds=1, paths=2, steps=4)


def test_photon_counts_have_their_image_shape():
    with pytest.raises(InputError, match="expected"):
        fitted_to(PRIOR, deft.Observation(X[:, 0].abs(), Poisson(deft.Identity(), 20.0)))


def test_rows_of_an_observation():
    obs = gaussian(HOLE * X, deft.Mask(HOLE))
    assert [len(one) for one in obs] == [1, 1, 1] and len(list(obs)) == 3
    index = [
        0,
        -1,
        np.int64(1),
        slice(1, 3),
        [0, 2],
        torch.tensor([2, 0]),
        torch.tensor([True, False, True]),
        np.array([1]),
    ]
    for i in index:
        rows = X[i] if not isinstance(i, (int, np.integer)) else X[int(i)][None]
        assert torch.equal(obs[i].y, (HOLE[: len(rows)] * rows)), i
    for i in (3, -4):
        with pytest.raises(IndexError):
            obs[i]
    for i in ((0, 0), None, ..., (slice(None), 0)):
        with pytest.raises(InputError, match="by rows alone"):
            obs[i]
    assert "Mask" in repr(obs)


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
@pytest.mark.parametrize("name", OPERATORS)
def test_an_observation_is_copied(way, name):
    obs = gaussian(OPERATORS[name](X), OPERATORS[name])
    again = way(obs)
    assert (
        torch.equal(again.y, obs.y)
        and torch.equal(again.log_prob(X), obs.log_prob(X))
        and again.fingerprint() == obs.fingerprint()
    )
    with pytest.raises(AttributeError):
        again.y = X


def test_operators_around_others_count_what_is_drawn_inside():
    """A mask inside another convention: rows are compared, and the fingerprint sees it."""
    masks = HOLE[:, :, :1].expand(N, 1, S, S)
    op = MRI(norm="backward").build(masks)
    y = op(X)
    assert [k for k, _ in op.drawn()] == ["mask"]
    with pytest.raises(InputError, match="2 rows and y 3"):
        fitted_to(PRIOR, gaussian(y, MRI(norm="backward").build(masks[:2])))
    other = masks.clone()
    other[..., 0] = 1 - other[..., 0]
    assert gaussian(y, op).fingerprint() != gaussian(y, MRI(norm="backward").build(other)).fingerprint()


def test_a_torch_file_of_an_observation():
    file = io.BytesIO()
    obs = gaussian(HOLE * X, deft.Mask(HOLE))
    torch.save(obs, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=False).y, obs.y)


class Tilted(deft.Operator):
    """An operator of a user's own, with a tensor of its own for each measurement."""

    per_sample = ("angle",)

    def __init__(self, angle):
        self.angle = angle

    def __call__(self, x):
        return x * self.angle.reshape(-1, 1, 1, 1)

    def features(self, y):
        return y


def test_the_fingerprint_covers_all_that_was_drawn():
    """Any name of a drawn tensor, not only mask and kernel; and y alone as well."""
    a, b = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.1, 0.2, 0.4])
    first, other = (gaussian(X, Tilted(v)) for v in (a, b))
    assert (
        first.fingerprint() != other.fingerprint()
        and first.fingerprint() == gaussian(X.clone(), Tilted(a.clone())).fingerprint()
    )
    assert first.fingerprint() != gaussian(X + 1e-3, Tilted(a)).fingerprint()


# what is saved


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(5, 2, 1)

    def forward(self, features, time):
        return self.layer(features)


def h_of(kind=deft.DEFT, **options):
    return kind((C, S, S), 2, 8, **options)


@pytest.mark.parametrize(
    ("h", "task", "says"),
    [(h_of(net=Net()), Inpaint(), "net="), (h_of(net=lambda *sizes: Net()), Inpaint(), "lambda")],
)
def test_what_could_not_be_loaded_is_not_saved(tmp_path, h, task, says):
    with pytest.raises(InputError, match=says):
        save_h(tmp_path / "h.safetensors", h, PRIOR, task)
    assert not (tmp_path / "h.safetensors").exists()


def test_what_is_saved_is_loaded(tmp_path):
    save_h(tmp_path / "h.safetensors", h_of(), PRIOR, Inpaint())
    assert type(load_h(tmp_path / "h.safetensors", PRIOR)[0]) is deft.DEFT


def test_a_network_of_ones_own_is_not_sized():
    with pytest.raises(InputError, match="build h with it directly"):
        deft.DEFT.sized(PRIOR, 0.5, 2, net=Net())
