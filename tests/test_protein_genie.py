"""Genie v1 checkpoints as priors: the published names and numbers, symmetry, padding, noise levels, files,
scaffolds."""

from __future__ import annotations

import copy
import hashlib

import numpy as np
import pytest
import torch

from deft import PiGDM
from deft.bench.compare import draw
from deft.bench.store import Store
from deft.cli import main
from deft.core.denoiser import freeze
from deft.domains.protein.chains import UNIT
from deft.domains.protein.genie import (
    GenieConfig,
    GenieNet,
    GeniePrior,
    load_genie,
    noise_schedule,
    read_config,
    recognise,
    waves,
)
from deft.domains.protein.geometry import centred, residues
from deft.domains.protein.measure import MotifCases
from deft.domains.protein.motif import SIGMA_Y, given_motif
from deft.domains.protein.plan import ChainPlan
from deft.domains.protein.prior import ChainPrior
from deft.domains.protein.problems import problems
from deft.domains.protein.scaffold import draw_scaffolds
from deft.errors import CheckpointError, DeftError, InputError
from deft.guidance.at_mean import Replacement
from deft.prior import load_prior
from deft.prior.load import family_of
from toys import refused as refused_line

SMALL = GenieConfig(
    longest=40,
    steps=50,
    single=16,
    pair=12,
    position=10,
    time=14,
    reach=5,
    pair_layers=2,
    triangle=7,
    widening=3,
    structure_layers=2,
    structure_blocks=2,
    hidden=5,
    heads=3,
    query_points=2,
    value_points=4,
    transitions=2,
)
TEXT = """maximumNumResidues 40
numTimesteps 50
singleFeatureDimension 16
pairFeatureDimension 12
positionalEmbeddingDimension 10
timestepEmbeddingDimension 14
relativePositionK 5
numPairTransformLayers 2
triangularMultiplicativeHiddenDimension 7
pairTransitionN 3
numStructureLayers 2
numStructureBlocks 2
ipaHiddenDimension 5
ipaNumHeads 3
ipaNumQkPoints 2
ipaNumVPoints 4
numStructureTransitionLayers 2
"""
PUBLISHED = """name scope_l_128_p_5
numEpoches 10000
batchSize 4
maximumNumResidues 128
dataDirectory data
datasetNames scope
templateType v1
numPairTransformLayers 5
includeTriangularAttention False
logEverySteps 1000
learningRate 1e-4
"""


def scattered(n, phase):
    """n numbers between -1 and 1 in no order, the same on every machine."""
    return torch.sin(0.37 * torch.arange(n, dtype=torch.float64) ** 2 + phase)


def stirred(config=SMALL):
    """A network in which every weight does something."""
    net = GenieNet(config)
    state = {}
    for i, (name, v) in enumerate(sorted(net.state_dict().items())):
        r = scattered(v.numel(), i).reshape(v.shape).float()
        state[name] = (
            (2 / v.shape[1]) ** 0.5 * r
            if v.ndim == 2
            else 1 + 0.1 * r
            if "norm" in name and name.endswith("weight")
            else 0.3 * r
        )
    net.load_state_dict(state)
    return net


def trace(length, phase=0.0):
    """A bent helix of 3.8 angstrom bonds, stirred by about one angstrom: [length, 3] in angstrom."""
    i = torch.arange(float(length), dtype=torch.float64)
    helix = torch.stack([2.3 * torch.cos(1.745 * i) + 0.02 * i**2, 2.3 * torch.sin(1.745 * i), 1.5 * i], -1)
    return (helix + scattered(3 * length, phase).reshape(length, 3)).float()


@pytest.fixture(scope="module")
def prior():
    return freeze(GeniePrior(stirred()))


def samples(*lengths, width=None):
    """Centred traces of several lengths in model space, padded to the longest, or to `width`."""
    x = torch.zeros(len(lengths), width or max(lengths), 3)
    for row, n in zip(x, lengths, strict=True):
        row[:n] = trace(n, n) / UNIT
    return centred(x, residues(x))


def refused(call, kind, match):
    """The call raises an error of one line."""
    with pytest.raises(kind, match=match) as caught:
        call()
    assert isinstance(caught.value, DeftError) and "\n" not in str(caught.value)


# the network


def test_names_and_shapes_are_the_published_ones():
    """The digest is of the sorted lines "name shape" of the original's Denoiser with the configuration of
    scope_l_128."""
    with torch.device("meta"):
        net = GenieNet()
    state = net.state_dict()
    assert len(state) == 325 and sum(v.numel() for v in state.values()) == 4_087_574
    lines = sorted(f"{name} {tuple(v.shape)}" for name, v in state.items())
    assert (
        hashlib.sha256("\n".join(lines).encode()).hexdigest()
        == "9b21942e3da1ec07a0ee761d0b81163f25605e63bb51743db66925b3e0433e91"
    )


def test_numbers_are_those_of_the_original():
    """Recorded from the code of aqlaboratory/genie (10d1d3a, its functions without dropout and chunks) in float32, run
    outside this repository with these weights, on traces of 23 and 31 residues padded to 40 (its positions are coded by
    the padded length), steps 7 and 42: how three residues of each are moved."""
    net = stirred()
    x = torch.zeros(2, 40, 3)
    x[0, :23], x[1, :31] = trace(23, 1), trace(31, 2)
    with torch.no_grad():
        out = net(x, torch.tensor([7.0, 42.0]))
        shorter = net(x[:1, :23], torch.tensor([7.0]))
    torch.testing.assert_close(
        (out - x)[[0, 0, 0, 1, 1, 1], [0, 11, 22, 0, 15, 30]], torch.tensor(GOLDEN), atol=5e-5, rtol=0
    )
    torch.testing.assert_close(shorter[0], out[0, :23], atol=1e-5, rtol=0)
    torch.testing.assert_close(waves(torch.tensor([3.0, 49.0]), 50, 6), torch.tensor(WAVES), atol=1e-5, rtol=0)


GOLDEN = [
    [-2.60956, 0.7287, -0.49007], [0.69827, 1.64087, -0.4231], [1.13104, -0.79627, -0.32436],
    [-2.52132, 0.24896, -1.95792], [0.34765, 2.86093, -0.36216], [0.81876, 2.01258, -1.3054],
]  # fmt: skip
WAVES = [[-1.0, 0.63994, 0.76842, 0.05114, 0.99869, 0.00377], [-1.0, -0.94051, 0.33977, 0.74177, 0.67066, 0.06154]]


def test_it_turns_with_the_chain_and_tells_a_mirror_image(prior):
    x = samples(23, 31)
    q = torch.linalg.qr(torch.tensor([[0.3, -1.2, 0.5], [0.9, 0.1, -0.4], [-0.2, 0.7, 1.1]]))[0]
    q = q * torch.det(q)
    for t in (1.0, 20.0, 45.0):
        level = torch.tensor(t)
        pred, turn, mirror = (prior(y, level) for y in (x, x @ q.T, x * torch.tensor([1.0, 1.0, -1.0])))
        assert float(pred.eps.square().mean()) > 0.1
        torch.testing.assert_close(turn.eps, pred.eps @ q.T, atol=2e-4, rtol=0)
        assert float((mirror.eps * torch.tensor([1.0, 1.0, -1.0]) - pred.eps).abs().max()) > 0.1
    net = prior.net.net
    moved = net(UNIT * x[1:] + torch.tensor([5.0, -3.0, 9.0]), torch.tensor([20.0])) - net(
        UNIT * x[1:], torch.tensor([20.0])
    )
    torch.testing.assert_close(moved, torch.tensor([5.0, -3.0, 9.0]).expand_as(moved), atol=1e-4, rtol=0)


def test_padding_changes_nothing_and_samples_stay_in_their_subspace(prior):
    level = torch.tensor(30.0)
    alone = [prior(samples(n), level).mean for n in (23, 31)]
    together = prior(samples(23, 31, width=40), level).mean
    for row, one, n in zip(together, alone, (23, 31), strict=True):
        torch.testing.assert_close(row[:n], one[0], atol=2e-5, rtol=0)
        assert bool((row[n:] == 0).all()) and float(row.mean(0).abs().max()) < 1e-5
    assert bool(torch.isfinite(prior(torch.zeros(1, 9, 3), level).mean).all())
    noise = prior.project(torch.randn(2, 31, 3), samples(23, 31))
    assert bool((noise[0, 23:] == 0).all()) and float(noise.sum(1).abs().max()) < 1e-4
    short = prior.of_length(17)
    assert short.event_shape == (17, 3) and prior.event_shape == (40, 3) and short.net is prior.net
    refused(lambda: prior.of_length(41), InputError, "41 residues")
    refused(lambda: prior(samples(41), level), InputError, "at most 40")


# noise


def test_levels_are_genies_in_our_units(prior):
    """abar_i = cos^2(pi/2 (i + 1)/(T + 1)) in angstrom; an eighth of the deviation in units of 8; the network hears
    whole steps."""
    published = noise_schedule(GenieConfig())
    i = torch.arange(1000, dtype=torch.float64)
    torch.testing.assert_close(published.alpha(i), torch.cos((i + 1) / 1001 * torch.pi / 2), atol=1e-9, rtol=0)
    assert float(noise_schedule(GenieConfig(schedule="linear")).betas[-1]) == pytest.approx(0.02)
    t = torch.tensor([20.0], dtype=torch.float64)
    a, s = (float(f(t)) for f in (prior.schedule.alpha, prior.schedule.sigma))
    assert a**2 + (UNIT * s) ** 2 == pytest.approx(1)
    x, net = samples(23), prior.net.net
    y = UNIT * x
    for told, at in ((20.0, 20.0), (20.4, 20.0), (20.6, 21.0)):
        level = torch.tensor([told], dtype=torch.float64)
        a, s = float(prior.schedule.alpha(level)), UNIT * float(prior.schedule.sigma(level))
        eps = centred(y - net(y, torch.tensor([at])), residues(y))
        pred = prior(x, level)
        torch.testing.assert_close(UNIT * pred.mean, (y - s * eps) / a, atol=1e-4, rtol=0)
        torch.testing.assert_close(pred.eps, eps, atol=1e-4, rtol=0)


# scaffolds


def test_scaffolds_are_drawn(prior):
    motif = trace(9, 5)
    one = given_motif([motif], [list(range(3, 12))], 24, SIGMA_Y)
    for h in (PiGDM(0.5), Replacement()):
        drawn, again = (
            draw_scaffolds(prior, h, one.repeat(2), [20, 24], steps=4, spacing="log-snr", batch=n) for n in (2, 1)
        )
        for x, y, n in zip(drawn, again, (20, 24), strict=True):
            assert (
                x.shape == (n, 3)
                and bool(torch.isfinite(x).all())
                and float(x.mean(0).abs().max()) < 1e-3 * float(x.abs().max())
            )
            torch.testing.assert_close(x, y, atol=1e-2, rtol=1e-2)
            away = (
                one.likelihood.residual(one.y[:, :n], torch.cat([x, torch.zeros(24 - n, 3)])[None] / UNIT)
                if n == 24
                else one.y[:, :0]
            )
            # replacement ends on the motif, in its own size
            assert isinstance(h, PiGDM) or float(UNIT * away.abs().sum()) < 1e-2


# files


def saved(path, state=None, **more):
    """What Lightning writes, with a state dict."""
    state = {f"model.{k}": v for k, v in stirred().state_dict().items()} if state is None else state
    torch.save(
        {
            "epoch": 9999,
            "global_step": 123,
            "pytorch-lightning_version": "1.8.0",
            "state_dict": state,
            "loops": {"fit_loop": {"state_dict": {}}},
            "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_score": None, "dirpath": "runs"}},
            "optimizer_states": [{"state": {}, "param_groups": []}],
            "lr_schedulers": [],
            **more,
        },
        path,
    )
    return path


def test_a_checkpoint_loads(tmp_path, prior):
    path = saved(tmp_path / "epoch=9999.ckpt")
    (tmp_path / "settings").write_text(TEXT)
    got = load_genie(path, tmp_path / "settings")
    assert (
        got.config == SMALL
        and not got.training
        and not any(p.requires_grad for p in got.parameters())
        and got.card["unsure"] == []
    )
    assert got.fingerprint() == prior.fingerprint() == load_genie(path, SMALL, "cpu").fingerprint()
    longer = GenieConfig(**{**got.card["config"], "longest": 50})
    assert load_genie(path, longer).fingerprint() != got.fingerprint()  # the same weights, other positions
    x = samples(23)
    assert torch.equal(got(x, torch.tensor(20.0)).mean, prior(x, torch.tensor(20.0)).mean)
    assert recognise(path) and not recognise(tmp_path / "settings")
    (tmp_path / "configuration").write_text(TEXT)
    assert load_genie(path).config == SMALL and got.parameter_count() == load_genie(path).card["parameters"]
    plain = tmp_path / "plain.pt"
    torch.save({k: v.half() for k, v in stirred().state_dict().items()}, plain)
    assert next(load_genie(plain, SMALL).parameters()).dtype == torch.float32


def test_the_published_configuration_is_the_default(tmp_path):
    path = saved(tmp_path / "genie.ckpt", {f"model.{k}": v for k, v in GenieNet().state_dict().items()})
    (tmp_path / "c").write_text(PUBLISHED)
    assert read_config(tmp_path / "c") == GenieConfig()
    got = load_genie(path)
    assert got.event_shape == (128, 3) and got.card["parameters"] == 4_087_574
    assert "maximumNumResidues=128" in got.card["unsure"][0] and load_genie(path, tmp_path / "c").card["unsure"] == []


class Foreign:
    """Not a tensor: reading it would run code."""


def test_bad_files_are_refused_in_a_line(tmp_path):
    good = {f"model.{k}": v for k, v in stirred().state_dict().items()}
    first = "model.single_feature_net.linear.bias"

    def without():
        state = copy.copy(good)
        del state[first]
        return state

    cases = {
        "1 missing .*single_feature_net.linear.bias": without(),
        "1 unexpected .*extra": good | {"model.extra": torch.zeros(3)},
        r"1 of another shape .*is \(17,\), expected \(16,\)": good | {first: torch.zeros(17)},
        "no tensor of floats": good | {first: torch.zeros(16, dtype=torch.long)},
        "holds no Genie network .*conv.weight": {"conv.weight": torch.zeros(3)},
    }
    for i, (match, state) in enumerate(cases.items()):
        path = saved(tmp_path / f"{i}.ckpt", state)
        refused(lambda path=path: load_genie(path, SMALL), CheckpointError, match)
    path = saved(tmp_path / "whole.ckpt")
    # another network than the default
    refused(lambda: load_genie(path), CheckpointError, "missing.*configuration file")
    (tmp_path / "cut.ckpt").write_bytes(path.read_bytes()[:-2000])
    (tmp_path / "text.ckpt").write_text("<html>not found</html>")
    (tmp_path / "empty.ckpt").write_bytes(b"")
    for name in ("cut", "text", "empty"):
        refused(
            lambda name=name: load_genie(tmp_path / f"{name}.ckpt", SMALL),
            CheckpointError,
            "truncated or not a PyTorch file",
        )
    refused(
        lambda: load_genie(saved(tmp_path / "code.ckpt", hyper_parameters=Foreign()), SMALL),
        CheckpointError,
        "more than tensors",
    )
    refused(lambda: load_genie(tmp_path / "none.ckpt"), CheckpointError, "no such checkpoint")
    torch.save([1, 2], tmp_path / "list.ckpt")
    refused(lambda: load_genie(tmp_path / "list.ckpt"), CheckpointError, "holds no Genie network")


@pytest.mark.parametrize(("text", "match"), [
    ("maximumNumResidues 128\nmaxNumResidues 9\n", "did you mean 'maximumNumResidues'"),
    ("maximumNumResidues\n", "line 1: expected a name and a value"),
    ("maximumNumResidues many\n", "expected a whole number"),
    ("maximumNumResidues 0\n", "longest of a Genie network is a whole number from 1"),
    ("maximumNumResidues 128\nschedule sigmoid\n", "unknown Genie schedule 'sigmoid'"),
    ("maximumNumResidues 128\nincludeTriangularAttention True\n", "includeTriangularAttention False alone"),
    ("name x\n", "neither maximumNumResidues nor minimumNumResidues"),
])  # fmt: skip
def test_bad_configurations_are_refused_in_a_line(tmp_path, text, match):
    (tmp_path / "c").write_text(text)
    refused(lambda: read_config(tmp_path / "c"), InputError, match)


def test_configurations(tmp_path):
    refused(lambda: read_config(tmp_path / "none"), InputError, "cannot be read")
    (tmp_path / "c").write_text("minimumNumResidues 64\n\nschedule linear\n")
    assert read_config(tmp_path / "c") == GenieConfig(longest=64, schedule="linear")


def test_its_name_is_enough(tmp_path, capsys):
    """`--prior genie.ckpt`: recognised before other checkpoints, drawn from by a benchmark, and the bundled h is not
    for it."""
    torch.manual_seed(0)
    torch.save(
        {"state_dict": {f"model.{k}": v for k, v in GenieNet(SMALL).state_dict().items()}}, tmp_path / "genie.ckpt"
    )
    (tmp_path / "configuration").write_text(TEXT.replace("maximumNumResidues 40", "maximumNumResidues 64"))
    name = str(tmp_path / "genie.ckpt")
    assert family_of(name) == "genie"
    prior = load_prior(name)
    assert isinstance(prior, GeniePrior) and isinstance(prior, ChainPrior) and prior.event_shape == (64, 3)
    assert main(["info", name]) == 0
    shown = capsys.readouterr().out
    assert f"{prior.parameter_count():,} parameters" in shown and "unsure" in shown
    cases = MotifCases(problems(["5W0GA"]), 2, max_length=64)
    x = draw(ChainPlan("pigdm", steps=3), prior, cases, store=Store(tmp_path)).x
    assert [len(v) for v in x] == [p.length for p in cases.placements] and all(np.isfinite(v).all() for v in x)
    assert "belongs to the prior backbone" in refused_line(
        capsys, "protein", "scaffold", "--prior", name, "--problem", "5W0GA", "--out", tmp_path / "s"
    )
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.ckpt")
    assert family_of(tmp_path / "other.ckpt") == "adm"
