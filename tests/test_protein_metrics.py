"""What is measured on C-alpha traces: known geometry, natives' pass rates, broken traces, and CA-MPNN against its
reference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import deft.domains.protein
from deft.domains.protein.chains import UNIT, chains
from deft.domains.protein.measure import variety
from deft.domains.protein.metrics import (
    METRICS,
    Goal,
    bond_lengths,
    clashes,
    fit_quantile,
    gyration,
    gyration_band,
    helix_turns,
    highest_nll,
    junctions_valid,
    measure,
    motif_rmsd,
    secondary_structure,
    summary,
)
from deft.domains.protein.mpnn import (
    ALPHABET,
    WEIGHTS,
    bundled,
    draw_orders,
    encode_sequence,
    load_mpnn,
    pad,
    plausibility,
)
from deft.domains.protein.problems import set_a
from deft.domains.protein.similarity import clusters, novelty, tm_scores
from deft.errors import CheckpointError, InputError
from deft.kinds.domain import find_domain

MIRROR = np.array([1.0, 1.0, -1.0])


def helix(n):
    """An ideal alpha helix: 100 degrees and 1.5 angstrom a residue, radius 2.3."""
    turn = np.radians(100 * np.arange(n))
    return np.stack([2.3 * np.cos(turn), 2.3 * np.sin(turn), 1.5 * np.arange(n)], 1)


def turned(x, seed=0):
    """x in another pose."""
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return x @ (q * np.sign(np.linalg.det(q))) + 7.0


@pytest.fixture(scope="module")
def held_out():
    """The test split, angstrom."""
    return chains("test")


@pytest.fixture(scope="module")
def natives(held_out):
    """Every third chain of it."""
    return [c.x.double().numpy() * UNIT for c in held_out[::3]]


# one trace


def test_rmsd_is_blind_to_pose_and_sees_mirrors():
    x = helix(20)
    everywhere = np.arange(20)
    assert motif_rmsd(turned(x), Goal(everywhere, x)) < 1e-6
    assert motif_rmsd(x * MIRROR, Goal(everywhere, x)) > 1.0
    moved = x.copy()
    moved[10] += [0, 0, 2.0]
    assert 0.3 < motif_rmsd(moved, Goal(everywhere, x)) < 2 / 20**0.5


def test_rmsd_of_native_motifs_and_their_mirrors(natives):
    """Motifs of 20 residues out of natives, whatever their structure."""
    cuts = [x[10:30] for x in natives]
    mirrored = np.array([motif_rmsd(c * MIRROR, Goal(np.arange(20), c)) for c in cuts])
    assert mirrored.min() > 0.5 and (mirrored > 1).mean() > 0.98


def test_groups_are_superposed_one_by_one():
    x, goal = helix(20), np.concatenate([helix(20)[:10], turned(helix(20))[10:]])
    groups = np.repeat([0, 1], 10)
    assert motif_rmsd(x, Goal(np.arange(20), goal, groups)) < 1e-6 < 1 < motif_rmsd(x, Goal(np.arange(20), goal))
    goal[10:] = helix(10) * MIRROR
    assert motif_rmsd(x, Goal(np.arange(20), goal, groups)) > 0.5


def test_an_ideal_helix():
    x = helix(30)
    assert bond_lengths(x) == pytest.approx(3.83, abs=0.01) and clashes(x) == 0
    assert helix_turns(x) == (1.0, 0.0) and helix_turns(x * MIRROR) == (0.0, 1.0)
    assert secondary_structure(x).count("a") >= 26
    assert gyration(x) == pytest.approx(np.sqrt(2.3**2 + 1.5**2 * (30**2 - 1) / 12), abs=0.1)


def test_junctions(natives):
    x = natives[0].copy()
    places = np.arange(20, 40)
    assert junctions_valid(x, places)
    pasted = x.copy()
    pasted[places] += [0.8, 0.8, 0]  # a motif pasted a little off
    assert not junctions_valid(pasted, places)
    assert junctions_valid(pasted[20:40], np.arange(20))  # no scaffold, no junction


def test_quantiles_are_found():
    rng = np.random.default_rng(0)
    lengths = rng.integers(40, 129, 3000)
    values = 1 + 0.5 * np.log(lengths) + rng.normal(0, 0.1, 3000)
    a, b = fit_quantile(lengths, values, 0.95)
    assert a + b * np.log(80) == pytest.approx(1 + 0.5 * np.log(80) + 0.1645, abs=4 * 0.1 * 2.1 / 3000**0.5)
    assert abs((values < a + b * np.log(lengths)).mean() - 0.95) < 0.002


def test_the_bands_are_those_of_the_train_split():
    """The numbers in `metrics` are what `fit_quantile` finds."""
    train = [c.x.double().numpy() * UNIT for c in chains("train")]
    lengths, sizes = [len(x) for x in train], np.log([gyration(x) for x in train])
    for q, end in ((0.01, 0), (0.99, 1)):
        a, b = fit_quantile(lengths, sizes, q)
        assert np.exp(a + b * np.log(90)) == pytest.approx(gyration_band(90)[end], rel=1e-3)


# many


def test_natives_pass(natives):
    """Each cut passes 95 % of natives (less two standard errors, for 151 chains); junctions of motifs in their own
    chains, too."""
    goals = [p.goal(p.draw(0)) for p in set_a(natives)]
    row = summary(measure(natives, goals, likelihood=False))
    least = 0.95 - 2 * (0.95 * 0.05 / len(natives)) ** 0.5
    for cut in ("bonds_valid", "clashes_valid", "gyration_valid", "left_valid", "junctions_valid"):
        assert row[cut] >= least, cut
    assert row["geometry_valid"] > 0.9 and row["motif_rmsd_median"] < 1e-3 and row["motif_below_1A"] == 1
    assert row["bonds_in_range"] == pytest.approx(0.997, abs=0.002) and row["bond_mean"] == pytest.approx(
        3.804, abs=0.003
    )
    assert 0.2 < row["helix"] < 0.5 and 0.1 < row["strand"] < 0.4 and 0.003 < row["left_handed"] < 0.015
    assert np.isnan(row["nll"]) and row["proxy_success"] == 0


def test_what_is_not_protein_fails(natives):
    rng = np.random.default_rng(0)
    some = natives[:30]
    share = {
        "noise": summary(measure([x + rng.normal(0, 0.5, x.shape) for x in some], likelihood=False))["bonds_valid"],
        "walk": summary(
            measure(
                [
                    np.cumsum(v / np.linalg.norm(v, axis=1)[:, None] * 3.8, 0)
                    for v in (rng.normal(size=x.shape) for x in some)
                ],
                likelihood=False,
            )
        )["clashes_valid"],
        "swollen": summary(measure([1.5 * x for x in some], likelihood=False))["gyration_valid"],
        "mirrored helices": summary(measure([x * MIRROR for x in some if helix_turns(x)[0] > 0.2], likelihood=False))[
            "left_valid"
        ],
    }
    assert max(share.values()) < 0.1, share


@pytest.mark.parametrize(
    ("samples", "goals", "says"),
    [
        ([np.full((30, 3), np.nan)], None, "sample 0 is not finite"),
        ([np.zeros((30, 2))], None, "sample 0 has shape"),
        ([np.zeros((4, 3))], None, "at least 6 residues"),
        ([helix(30)], [], "as many goals"),
        ([helix(30)], [Goal(np.arange(5), helix(4))], "does not fit 5 positions"),
        ([helix(30)], [Goal(np.arange(25, 31), helix(6))], "25 to 30 do not fit a sample of 30"),
    ],
)
def test_bad_samples(samples, goals, says):
    with pytest.raises(InputError, match=says):
        measure(samples, goals, likelihood=False)
    with pytest.raises(InputError, match="no samples"):
        summary({})


def test_similarity(natives):
    x, y = natives[0], natives[40]
    assert min(tm_scores(turned(x), x)) > 0.999 and max(tm_scores(x, x * MIRROR)) < 0.5
    assert clusters([x, turned(x), y, x * MIRROR]).tolist() == [0, 0, 1, 2]
    found = novelty([turned(x), x * MIRROR], natives[:6], window=0.5)
    assert found[0] > 0.999 and found[1] < 0.6
    assert np.isnan(novelty([helix(20)], natives[:3])).all()
    with pytest.raises(InputError, match="200 at most"):
        clusters([x] * 201)


def test_the_numbers_of_natives(natives):
    """Motifs in their own chains: nearly all are proxy successes, none of them alike, all known."""
    some = natives[::25]
    goals = [p.goal(p.draw(0)) for p in set_a(some)]
    columns = measure(some, goals)
    row, good = summary(columns), [x for x, ok in zip(some, columns["proxy_success"], strict=True) if ok]
    assert (
        row["samples"] == len(some)
        and len(good) >= len(some) - 2
        and len(good) == round(row["proxy_success"] * len(some))
    )
    found = variety(good)
    assert found == {"compared": len(good), "clusters": len(good)} and "nearest_tm" not in found and variety([]) == {}
    assert novelty(good, some) == pytest.approx(np.ones(len(good)))
    assert set(columns) <= set(METRICS) and find_domain("protein").metrics() is METRICS


# CA-MPNN

# of the published package with the bundled (half-precision) weights; and its mean NLL with the published ones
REFERENCE = {
    0: ("1A1XA", [-2.28989, -1.76735, -3.10614, -2.32632, -3.18089, -2.68089], 2.05368),
    100: ("2FUPA", [-2.45342, -3.40507, -1.82803, -0.75143, -2.10974, -2.82820], 1.86506),
    250: ("3NEUA", [-3.30243, -1.29871, -2.66050, -2.11339, -2.17096, -2.86160], 1.90957),
}


def test_log_probabilities_are_the_references(held_out):
    """Three natives with their own sequences, in one batch, decoded in a fixed scrambled order."""
    some = [held_out[i] for i in REFERENCE]
    x, real = pad([c.x.numpy() * UNIT for c in some])
    sequence, order = torch.full(real.shape, 20), torch.arange(real.shape[1]).repeat(len(some), 1)
    for b, c in enumerate(some):
        n = len(c.sequence)
        sequence[b, :n], order[b, :n] = (
            encode_sequence(c.sequence),
            torch.from_numpy(np.argsort(np.arange(n) * 37 % 131)),
        )
    found = bundled().log_probs(x, sequence, order, real).gather(2, sequence[..., None])[..., 0]
    for row, c, (name, values, nll) in zip(found, some, REFERENCE.values(), strict=True):
        n = len(c.sequence)
        assert c.name == name
        assert row[[0, 1, 2, 20, n - 2, n - 1]].tolist() == pytest.approx(values, abs=1e-4)
        assert -float(row[:n].mean()) == pytest.approx(nll, abs=5e-3)


def test_batch_padding_and_place_do_not_matter(natives):
    """The shortest has fewer neighbours than the network takes."""
    some = [natives[0][:41], natives[1], natives[2]]
    x, real = pad(some)
    order, uniform = draw_orders([len(c) for c in some], [(0, i) for i in range(3)])
    together = bundled().sample(x, order, real, uniform)
    for i, c in enumerate(some):
        n = len(c)
        alone, one = pad([c + 7.0])
        apart = bundled().sample(alone, order[i : i + 1, :n], one, uniform[i : i + 1, :n])
        assert torch.equal(apart.sequence[0], together.sequence[i, :n])
        assert torch.allclose(apart.log_prob[0], together.log_prob[i, :n], atol=1e-3)
    assert (together.sequence[0, 41:] == 20).all() and (together.log_prob[0, 41:] == 0).all()
    again = bundled().log_probs(x, together.sequence, order, real).gather(2, together.sequence[..., None])[..., 0]
    assert torch.allclose(again * real, together.log_prob, atol=1e-4)  # what was written is scored as it was written


def test_pose_does_not_matter_to_plausibility(natives):
    some = natives[:3]
    a, b = plausibility(some), plausibility([turned(x, i) for i, x in enumerate(some)])
    assert a[1] == b[1] and a[0] == pytest.approx(b[0], abs=1e-3)


def test_nll_tells_natives_from_noise_but_not_from_mirrors(natives):
    some, rng = natives[::20], np.random.default_rng(0)
    native, letters = plausibility(some)
    noised = plausibility([x + rng.normal(size=x.shape) for x in some])[0]
    mirrored = plausibility([x * MIRROR for x in some])[0]
    assert (
        native.mean() == pytest.approx(1.03, abs=0.15)
        and (native < highest_nll(np.array([len(x) for x in some])) + 0.1).all()
    )
    assert noised.min() > native.max() and noised.mean() > native.mean() + 0.5
    assert abs(mirrored.mean() - native.mean()) < 0.15
    assert all(len(s) == len(x) and set(s) < set(ALPHABET[:-1]) for s, x in zip(letters, some, strict=True))
    assert plausibility(some[:1])[1][0] == letters[0] != plausibility(some[:1], seed=1)[1][0]


def test_weights_load_strictly(tmp_path):
    state = load_file(WEIGHTS)
    path = tmp_path / "w.safetensors"
    save_file({k: v for k, v in state.items() if k != "W_out.bias"}, path)
    with pytest.raises(CheckpointError, match=r"does not hold the CA-only ProteinMPNN.*W_out.bias"):
        load_mpnn(path)
    save_file({**state, "more": torch.zeros(3)}, path)
    with pytest.raises(CheckpointError, match=r"more"):
        load_mpnn(path)
    path.write_bytes(WEIGHTS.read_bytes()[:1000])
    with pytest.raises(CheckpointError):
        load_mpnn(path)
    with pytest.raises(InputError, match="temperature"):
        plausibility([helix(20)], temperature=0)
    assert sum(v.numel() for v in state.values()) == 1_645_765 and not bundled().training


def test_nothing_is_called_what_it_is_not():
    """No folding network is run, so no result may be named after one."""
    folder = Path(deft.domains.protein.__file__).parent
    assert not [p.name for p in folder.rglob("*.py") if "design" + "able" in p.read_text().lower()]
