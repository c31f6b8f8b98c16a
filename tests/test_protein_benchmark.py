"""Clearance, and methods side by side on motif problems."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from deft.bench.compare import compare, draw
from deft.bench.result import Result
from deft.bench.store import Store
from deft.bench.success_report import SuccessReport, differences
from deft.core.denoiser import Prediction
from deft.core.htransform import HTransform
from deft.domains.protein import measure as measuring
from deft.domains.protein import scaffold as protein_scaffold
from deft.domains.protein.chains import UNIT, chains, pad
from deft.domains.protein.clearance import Clearance, apart
from deft.domains.protein.contig import Contig, Scaffold
from deft.domains.protein.geometry import centred, residues
from deft.domains.protein.htransform import ChainDEFT
from deft.domains.protein.measure import MotifCases, named_set
from deft.domains.protein.metrics import clashes
from deft.domains.protein.motif import Motif, MotifTask
from deft.domains.protein.plan import ChainPlan
from deft.domains.protein.prior import backbone_prior
from deft.domains.protein.problems import problems
from deft.domains.protein.scaffold import draw_scaffolds
from deft.errors import InputError
from deft.guidance.combine import Zero
from deft.io.h_files import save_h
from deft.kinds.domain import find_domain
from deft.likelihood import Gaussian, Observation
from deft.prior import load_prior
from proteins import entries
from toys import refused, result, run


class Towards(HTransform):
    """The h that makes the denoised mean `goal`."""

    def __init__(self, goal):
        super().__init__()
        self.goal = goal

    def forward(self, pred, obs):
        return (self.goal - pred.mean) * pred.alpha / pred.sigma**2


def clashing(length=30, seed=0):
    """A native with its residue 20 moved to within 2 angstrom of residue 5."""
    x = next(c.x for c in chains("validation") if len(c.x) >= length)[:length].double()
    x[20] = x[5] + torch.tensor([2.0, 0, 0]).double() / UNIT
    return centred(x[None], torch.ones(1, length, dtype=torch.bool))


def expected(x_hat, h, sigma, **options):
    """(x̂ after h and clearance, h's own)."""
    b = len(x_hat)
    a, s = torch.ones(1, 1, 1).double(), torch.tensor(sigma).double().reshape(1, 1, 1)
    noise = (
        torch.randn(x_hat.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        * residues(x_hat)[..., None]
    )
    pred = Prediction(x_hat + s * noise, torch.zeros(b), a, s, x_hat)
    obs = Observation(torch.zeros_like(x_hat), Gaussian(Motif(torch.zeros(b, x_hat.shape[1], dtype=torch.long)), 0.1))
    return x_hat + s**2 / a * Clearance(h, **options)(pred, obs)


def test_a_pair_is_moved_exactly_apart_and_the_rest_stays():
    x = torch.zeros(1, 6, 3).double()
    x[0, :, 0] = torch.arange(6) * 1.0
    x[0, 5] = x[0, 0] + torch.tensor([0.0, 0.25, 0])  # 2 angstrom from residue 0
    y = x + 0.5 * apart(x, torch.ones(1, 6, dtype=torch.bool), 4.0 / UNIT)
    assert torch.allclose((y[0, 5] - y[0, 0]).norm() * UNIT, torch.tensor(4.0).double())
    assert torch.equal(y[0, 1:5], x[0, 1:5]) and torch.allclose(y.mean(1), x.mean(1))


def test_it_acts_on_what_h_leads_to_and_below_its_level_alone():
    x, goal = clashing(), next(c.x for c in chains("validation") if len(c.x) >= 30)[:30].double()[None]
    goal = centred(goal, torch.ones(1, 30, dtype=torch.bool))
    distance = 0.9 * float(torch.pdist(goal[0]).min()) * UNIT
    out = expected(x, Zero(), 0.1)
    assert float((out[0, 20] - out[0, 5]).norm()) > 1.8 * float((x[0, 20] - x[0, 5]).norm())
    # h takes the clash away itself: nothing is added
    assert torch.allclose(expected(x, Towards(goal), 0.1, distance=distance), goal)
    assert torch.equal(expected(x, Zero(), 0.6), x) and not torch.equal(expected(x, Zero(), 0.4), x)


def test_neighbours_are_no_clash():
    """Bonds are 3.8 angstrom: a native without near pairs stays as it is."""
    x = next(
        c.x
        for c in chains("validation")
        if float(apart(c.x[None], torch.ones(1, len(c.x), dtype=torch.bool), 4.0 / UNIT).abs().max()) == 0
    )[None].double()
    assert float(x.diff(dim=1).norm(dim=-1).min()) * UNIT < 4.0
    assert torch.allclose(expected(x, Zero(), 0.1), x, atol=1e-12)


def test_it_turns_with_the_chain_and_does_not_see_padding():
    x = clashing()
    x[0, 10] = torch.tensor([0.1, 0, 0])  # where padding is, too
    x = centred(x, torch.ones(1, 30, dtype=torch.bool))
    q = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64))[0]
    there = expected(x, Zero(), 0.1)
    assert torch.allclose(expected(x @ q, Zero(), 0.1), there @ q)
    padded = torch.cat([x, torch.zeros(1, 7, 3).double()], 1)
    out = expected(padded, Zero(), 0.1)
    assert (
        torch.allclose(out[:, :30], there)
        and torch.equal(out[:, 30:], padded[:, 30:])
        and torch.allclose(out.sum(1), torch.zeros(1, 3).double(), atol=1e-12)
    )


def test_it_takes_clashes_from_the_bundled_prior():
    prior = load_prior("backbone")
    n, length = 24, 48
    two = torch.zeros(n, length, dtype=torch.long)
    two[:, :2] = 1  # something must be measured; neither h looks at it
    obs = Observation(torch.zeros(n, length, 3), Gaussian(Motif(two), 0.0125))
    counts = [
        sum(clashes(x.numpy()) for x in draw_scaffolds(prior, h, obs, [length] * n, steps=20, spacing="log-snr"))
        for h in (Zero(), Clearance(Zero()))
    ]
    assert counts[0] >= 4 and counts[1] <= counts[0] / 4


@pytest.mark.parametrize("options", [{"distance": 0.0}, {"distance": 42.0}, {"gain": 0.0}, {"top": 0.0}])
def test_clearance_refuses(options):
    with pytest.raises(InputError, match="a clearance needs"):
        Clearance(Zero(), **options)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    here = tmp_path_factory.mktemp("trial")
    torch.manual_seed(0)
    prior = backbone_prior("tiny")
    prior.save(here / "prior.safetensors", name="")
    prior.requires_grad_(False)
    h = ChainDEFT(32).calibrate(prior, pad([c.x for c in chains("validation", longest=48)[:4]], 48))
    (here / "run").mkdir()
    save_h(here / "run" / "h.safetensors", h, prior, MotifTask())
    return here


@pytest.fixture
def three(monkeypatch):
    """Three short problems for any set."""
    found = problems(["5W0GA", "5A1QB", "4ESNA"])
    monkeypatch.setattr(measuring, "named_set", lambda *_, **__: found)
    return found


def named_problems(found, ends):
    """The same motifs and names with other contigs."""
    segments = [next(str(q) for q in p.contig.parts if not isinstance(q, Scaffold)) for p in found]
    return [replace(p, contig=Contig.parse(f"{ends}/{s}/{ends}")) for p, s in zip(found, segments, strict=True)]


def test_an_h_that_was_fitted_anew_is_another_plan(place):
    prior = load_prior(str(place / "prior.safetensors"))
    h = protein_scaffold.load_scaffolder(place / "run" / "h.safetensors", prior)[0].eval()
    before = ChainPlan("deft", h=h, h_name="run").config()
    with torch.no_grad():
        next(h.parameters()).add_(0.1)
    after = ChainPlan("deft", h=h, h_name="run").config()
    assert before["h_sha256"] != after["h_sha256"] and {**before, "h_sha256": 0} == {**after, "h_sha256": 0}


def test_sets(tmp_path):
    assert len(named_set("b", pdb=[entries(tmp_path)])) == 17 and len(named_set("a", 30)) == 30
    a, v, left = ({p.name for p in named_set(k, 1000)} for k in ("a", "validation", "left-out"))
    assert len(a) == 451 and v and len(left) == 97 and not a & v and not left & (a | v)
    with pytest.raises(InputError, match="1YCR, 3IXT, 4ZYP"):
        named_set("b")
    (tmp_path / "5wn9.pdb").unlink()
    with pytest.raises(InputError, match=r"5WN9 are? not part of deft|entry 5WN9"):
        named_set("b", pdb=[tmp_path])
    with pytest.raises(InputError, match="unknown set"):
        named_set("c")


def kept(cases, plan, prior, folder, **options):
    return draw(plan, prior, cases, seed=3, store=Store(folder), kind="chains", **options)


def test_plans_share_placements_and_noise_and_goals_fit(place, three):
    prior, plan = load_prior(str(place / "prior.safetensors")), ChainPlan("prior", steps=3)
    cases = MotifCases(three, 2, seed=3)
    assert cases.of == [0, 1, 2, 0, 1, 2] and len({p.length for p in cases.placements}) > 1
    one, other = kept(cases, plan, prior, place / "c1", batch=4), kept(cases, plan, prior, place / "c2", batch=1)
    assert all(np.allclose(a, b, atol=1e-4) for a, b in zip(one.x, other.x, strict=True))  # whatever the batch
    fewer = kept(MotifCases(three, 1, seed=3), plan, prior, place / "c3")
    more = kept(cases, plan, prior, place / "c3")  # goes on from the fewer
    assert (
        len(fewer.x) == 3
        and all(np.array_equal(a, b) for a, b in zip(fewer.x, more.x[:3], strict=True))
        and len(list((place / "c3" / "chains").iterdir())) == 1
    )
    again = kept(MotifCases(three, 1, seed=3), plan, prior, place / "c3")
    assert len(again.x) == 3 and again.seconds == pytest.approx(more.seconds / 2)
    # the same names, other contigs: the same folder has none of its chains
    other = MotifCases(named_problems(three, "20-30"), 2, seed=3)
    assert [len(v) for v in kept(other, plan, prior, place / "c3").x] == [p.length for p in other.placements]
    assert cases.measure(one.x)["length"].tolist() == [p.length for p in cases.placements]
    result = compare({"alone": plan}, prior, cases, seed=3)["alone"]  # without a store
    assert result.values["length"].tolist() == [
        [p.length for p in cases.placements[:3]],
        [p.length for p in cases.placements[3:]],
    ]
    assert all(np.allclose(a, b, atol=1e-4) for a, b in zip(result.samples, one.x, strict=True))


def test_files_of_chains_keep_their_names(place, three):
    """Of what decides them: a file that an earlier version wrote is found, and nothing in it is drawn again."""
    prior, cases = load_prior(str(place / "prior.safetensors")), MotifCases(three, 1, seed=3)
    plan = ChainPlan("pigdm", steps=3)
    key = json.dumps(
        {
            **plan.config(),
            "prior": prior.fingerprint(),
            "seed": 3,
            "sigma_y": cases.sigma_y,
            "max_length": cases.max_length,
            "problems": [
                (p.name, str(p.contig), p.contig.lengths, hashlib.sha256(p.motif.x.tobytes()).hexdigest())
                for p in three
            ],
        },
        sort_keys=True,
    )
    file = place / "old" / "chains" / f"pigdm-{hashlib.sha256(key.encode()).hexdigest()[:12]}.npz"
    file.parent.mkdir(parents=True)
    traces = [np.full((p.length, 3), i, np.float32) for i, p in enumerate(cases.placements)]
    with file.open("wb") as f:  # as version 0.1.0 wrote it
        np.savez_compressed(
            f,
            x=np.concatenate(traces),
            length=np.array([len(x) for x in traces], np.int64),
            seconds=2.0,
            mib=np.nan,
            key=np.array(key),
        )
    found = kept(cases, plan, prior, place / "old")
    assert all(np.array_equal(a, b) for a, b in zip(found.x, traces, strict=True)) and (found.seconds, found.mib) == (
        2.0,
        None,
    )
    file.write_bytes(file.read_bytes()[:200])  # damaged: drawn again
    assert not any(np.array_equal(a, b) for a, b in zip(kept(cases, plan, prior, place / "old").x, traces, strict=True))


@pytest.mark.parametrize("method", ["tds", "deft-smc", "mcgdiff"])
def test_particles_draw_chains_of_several_lengths(place, three, method):
    prior = load_prior(str(place / "prior.safetensors"))
    h = protein_scaffold.load_scaffolder(place / "run" / "h.safetensors", prior)[0].eval()
    cases = MotifCases(three, 1)
    plan = ChainPlan(method, {"particles": 2}, h if method == "deft-smc" else None, steps=3)
    assert cases.at_once(plan, 16) == 1
    x = kept(cases, plan, prior, place / "p").x
    assert [len(v) for v in x] == [p.length for p in cases.placements] and all(
        np.isfinite(v).all() and np.abs(v.mean(0)).max() < 1e-2 for v in x
    )
    with pytest.raises(InputError, match="temperature 1 and no clearance"):
        ChainPlan(method, {"particles": 2}, h, steps=3, clearance=4.2)


def test_a_row_is_what_the_values_say(three, tmp_path, monkeypatch):
    """Every number of the table, from values that are known."""
    domain, cases, rng = (
        find_domain("protein"),
        MotifCases(problems(["5W0GA", "5A1QB", "4ESNA", "2EJ8A"]), 3),
        np.random.default_rng(0),
    )
    monkeypatch.setattr(measuring, "clusters", lambda samples, **_: np.zeros(len(samples), int))
    values = {
        k: (rng.random((3, 4)) < 0.5).astype(float)
        for k in ("bonds_valid", "clashes_valid", "gyration_valid", "geometry_valid", "junctions_valid", "nll_valid")
    }
    values |= {k: rng.random((3, 4)) for k in ("motif_rmsd", "nll", "helix", "strand")}
    values["proxy_success"] = np.array([[1, 0, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]], float)
    figures, plan = {"calls": 50.0, "seconds": 2.0, "memory_mib": 7.0}, ChainPlan("prior", steps=3)
    x = Result("x", plan, values, samples=[np.zeros((20, 3))] * 12, figures=figures)
    report = SuccessReport(domain, cases, tmp_path, title="t", settings="s", about={"set": "a"}, references=2, batch=4)
    report.add({"x": x})
    r = report.rows["x"]
    share = r["proxy_success"]
    assert share[0] == pytest.approx(0.25) and 0 <= share[1] < 0.25 < share[2]
    assert (
        r["chains"] == 12
        and r["motif_rmsd"] == np.median(values["motif_rmsd"])
        and r["helix"] == pytest.approx(values["helix"].mean())
    )
    assert (r["solved"], r["problems"], r["compared"], r["clusters"]) == (2, 4, 3, 1) and r["cost"] == {
        "calls": 50.0,
        "seconds": 2.0,
        "mib": 7.0,
    }
    line = next(line for line in (tmp_path / "report.md").read_text().splitlines() if line.startswith("| x | 12 |"))
    cells = [c.strip() for c in line.strip("|").split("|")]
    per_cent = [f"{100 * values[k].mean():.0f}" for k in ("bonds_valid", "clashes_valid", "gyration_valid")]
    assert cells[2:4] == [f"{r['motif_rmsd']:.2f}", ", ".join(per_cent) + " %"]
    assert (
        cells[6] == f"{values['nll'].mean():.2f}, {100 * values['nll_valid'].mean():.0f} %"
        and cells[8].startswith("25.0 % [")
        and cells[9:] == ["2 of 4", "1 of 3", "", "50, 2.0, 7"]
    )
    stored = json.loads((tmp_path / "report.json").read_text())
    assert (
        stored["rows"]["x"] == r and stored["note"] == domain.note and "2EJ8A" in (tmp_path / "report.md").read_text()
    )

    other = replace(x, name="y", values=values | {"proxy_success": values["proxy_success"].copy()})
    other.values["proxy_success"][0, 0] = 0  # one chain of twelve
    words, gaps = differences(domain, {"x": x, "y": other, "z": x})
    assert (
        gaps["z"] == [0, 0, 0]
        and gaps["y"][0] == pytest.approx(1 / 12)
        and 0 <= gaps["y"][1] < 1 / 12 < gaps["y"][2] < 0.5
    )
    assert "y +8.3 [" in words and differences(domain, {"x": x}) == ("", {})
    none = replace(x, values=values | {"proxy_success": np.zeros((3, 4))})
    assert report.numbers(none)["proxy_success"] == [0, 0, 0] and "clusters" not in report.numbers(none)


def test_benchmark_goes_on_where_it_was_stopped(place, three, tmp_path, capsys, monkeypatch):
    args = (
        "protein",
        "benchmark",
        "--prior",
        place / "prior.safetensors",
        "--run",
        place / "run",
        "--arm",
        "pigdm",
        "-n",
        1,
        "--steps",
        3,
        "--natives",
        2,
        "--batch",
        2,
        "--clearance",
        4,
    )
    whole = result(capsys, *args, "--out", tmp_path / "whole")
    real, calls = measuring.draw_scaffolds, []

    def counted(*a, **k):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*a, **k)

    monkeypatch.setattr(measuring, "draw_scaffolds", counted)
    assert run(capsys, *args, "--out", tmp_path / "parts")[0] != 0
    again = result(capsys, *args, "--out", tmp_path / "parts")
    assert len(calls) == 4 + 1  # two batches of each of two entries in all, and the one that was stopped
    for name in ("pigdm", str(place / "run")):
        one, two = ({k: v for k, v in r["rows"][name].items() if k != "cost"} for r in (whole, again))
        assert one == two
    text = (tmp_path / "parts" / "report.md").read_text()
    assert (
        "no folding network was run" in text
        and "| natives | 2 |" in text
        and "5W0GA" in text
        and "clearance 4 Å" in text
    )
    assert list(json.loads((tmp_path / "parts" / "report.json").read_text())["rows"]) == [
        "natives",
        "pigdm",
        str(place / "run"),
    ]
    assert f"pigdm less that of the others, in points, paired: {place / 'run'}" in text
    assert {p.name for p in (tmp_path / "parts").iterdir()} == {"chains", "report.md", "report.json", "success.png"}


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--arm", "redif"), "unknown entry"),
        (("--arm", "dps:zetta=1"), "zetta"),
        (("--arm", "dps:zeta"), "KEY=VALUE"),
        (("--set", "c"), "'c'"),
        (("-n", 0), "at least 1"),
        (("--temperature", 0), "above 0"),
        (("--arm", "pigdm", "--arm", "pigdm"), "two entries"),
        (("--run", "nowhere"), "nowhere"),
        (("--prior", "fashion"), "not protein backbones"),
        (("--sigma-y", -1), "above 0"),
        (("--set", "b"), "download/1YCR.pdb"),
        (("--pdb", "."), "--set b"),
        (("--set", "b", "--count", 5), "--count"),
        (("--set", "b", "--free"), "--free"),
        (("--clearance", 20, "--arm", "prior"), "a clearance needs"),
    ],
)
def test_benchmark_refuses(tmp_path, capsys, args, said):
    assert said in refused(capsys, "protein", "benchmark", *args, "--out", tmp_path / "b")


def test_scaffold_knows_clearance(place, tmp_path, capsys):
    short = (
        "protein",
        "scaffold",
        "--prior",
        place / "prior.safetensors",
        "--method",
        "prior",
        "--problem",
        "5W0GA",
        "--steps",
        3,
        "-n",
        2,
    )
    free, clear = (result(capsys, *short, "--clearance", d, "--out", tmp_path / str(d)) for d in (0, 6))
    assert free["clearance_angstrom"] == 0 and clear["clearance_angstrom"] == 6
    assert (tmp_path / "0" / "scaffold-000.pdb").read_text() != (tmp_path / "6" / "scaffold-000.pdb").read_text()
    assert "--clearance = -1.0" in refused(capsys, *short, "--clearance", -1, "--out", tmp_path / "x")
