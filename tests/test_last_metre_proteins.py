"""The last metre: tables, reports and pictures of `deft protein` are those of the chains that were written."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from deft.domains.protein.chains import chains, pad
from deft.domains.protein.htransform import ChainDEFT
from deft.domains.protein.motif import MotifTask
from deft.domains.protein.prior import backbone_prior
from deft.domains.protein.structure import write_pdb
from deft.io.h_files import save_h
from golden import arrays, close, markdown_tables, png, read, shown, shown_and_reported
from golden_proteins import check_scaffolds, measured_trace, read_trace
from toys import result, run


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A tiny prior of backbones, an h for it, and a chain as a PDB file."""
    here = tmp_path_factory.mktemp("protein")
    torch.manual_seed(0)
    prior = backbone_prior("tiny")
    prior.save(here / "prior.safetensors", name="tiny")
    prior.requires_grad_(False)
    h = ChainDEFT(32).calibrate(prior, pad([c.x for c in chains("validation", longest=48)[:4]], 48))
    (here / "run").mkdir()
    save_h(here / "run" / "h.safetensors", h, prior, MotifTask())
    chain = next(c for c in chains("validation", longest=64))
    write_pdb(here / "native.pdb", 8 * chain.x.numpy() + 30, sequence=chain.sequence)
    return here


def scaffold_line(here, out, *more):
    return (
        "protein", "scaffold", "--prior", here / "prior.safetensors", "--run", here / "run", "--steps", 3, "--motif",
        here / "native.pdb", "--contig", "4-8/A10-21/5-9/A30-34/4", "--out", out, *more,
    )  # fmt: skip


def motif(here):
    x, _ = read_trace(here / "native.pdb")
    return x[[*range(9, 21), *range(29, 34)]]


def test_scaffolds(place, tmp_path, capsys):
    about = result(capsys, *scaffold_line(place, tmp_path / "s", "-n", 4, "--seed", 2, "--batch", 3))
    check_scaffolds(tmp_path / "s", about, n=4, motif=motif(place), seed=2, steps=3)
    assert (
        about["sigma_y_angstrom"] == 0.3
        and about["batch"] == 3
        and about["prior"] == str(place / "prior.safetensors")
        and about["h"] == str(place / "run")
    )


@pytest.mark.slow
def test_scaffolds_of_the_bundled_prior(place, tmp_path, capsys):
    """Chains of which some pass and some do not."""
    line = (
        "protein", "scaffold", "--motif", place / "native.pdb", "--contig", "12-20/A10-21/12-20/A30-34/10", "-n", 6,
        "--steps", 60, "--seed", 2, "--out", tmp_path / "s",
    )  # fmt: skip
    about = result(capsys, *line)
    check_scaffolds(tmp_path / "s", about, n=6, motif=motif(place), seed=2, steps=60)
    assert about["summary"]["bonds_in_range"] > 0.9


def test_what_is_said_and_drawn_of_scaffolds(place, tmp_path, capsys, monkeypatch):
    """The terminal's counts are the table's; every panel of sheet.png and view.html is one scaffold under its
    own title."""
    from matplotlib.axes import Axes

    titles, title = [], Axes.set_title
    monkeypatch.setattr(Axes, "set_title", lambda self, text, **o: titles.append(text) or title(self, text, **o))
    code, said, err = run(capsys, *scaffold_line(place, tmp_path / "s", "-n", 3))
    assert code == 0, err
    kept = read(tmp_path / "s" / "scaffold.json")
    good = sum(not s["against"] for s in kept["scaffolds"])
    assert (
        f"{good} of 3 pass every check" in said
        and f"motif RMSD {kept['summary']['motif_rmsd_median']:.2f} Å (median)" in said
    )
    lengths = [s["length"] for s in kept["scaffolds"]]
    assert f"3 scaffolds of {min(lengths)} to {max(lengths)} residues" in said and "3 calls of the prior each" in said
    page = (tmp_path / "s" / "view.html").read_text()
    start = page.index('[{"title"')
    panels = json.JSONDecoder().raw_decode(page[start:])[0]
    assert len(panels) == len(titles) == 3 and png(tmp_path / "s" / "sheet.png").std() > 5
    for i, (panel, above, one) in enumerate(zip(panels, titles, kept["scaffolds"], strict=True)):
        assert (
            panel["title"] == above
            and above.startswith(f"{i:03d}: {one['motif_rmsd']:.2f} Å")
            and panel["good"] == (not one["against"])
        )
        x, marks = read_trace(tmp_path / "s" / one["file"])
        drawn = np.array(panel["x"])
        between = [
            np.linalg.norm(v[:, None] - v[None], axis=-1) for v in (x, drawn)
        ]  # moved and turned, but the same chain
        assert drawn.shape == x.shape and np.abs(between[0] - between[1]).max() < 0.05
        triple = [np.linalg.det(np.stack([v[7] - v[0], v[14] - v[0], v[21] - v[0]])) for v in (x, drawn)]
        assert triple[0] * triple[1] > 0, "a chain is shown as its mirror image"
        assert sorted(i for r in panel["motif"] for i in r) == np.flatnonzero(marks).tolist()


def test_benchmark(place, tmp_path, capsys, monkeypatch):
    from matplotlib.axes import Axes

    bars, barh = [], Axes.barh
    monkeypatch.setattr(
        Axes, "barh", lambda self, y, width, **o: bars.append((list(y), list(width))) or barh(self, y, width, **o)
    )
    line = (
        "protein", "benchmark", "--prior", place / "prior.safetensors", "--run", place / "run", "--arm", "prior",
        "--set", "validation", "--count", 2, "-n", 2, "--steps", 3, "--natives", 3, "--seed", 1, "--out",
        tmp_path / "b",
    )  # fmt: skip
    code, said, err = run(capsys, *line)
    assert code == 0, err
    kept = read(tmp_path / "b" / "report.json")
    arms = {"prior": "prior", str(place / "run"): "deft"}
    assert (
        list(kept["rows"]) == ["natives", *arms]
        and (kept["set"], kept["each"], kept["count"]) == ("validation", 2, 2)
        and "seed 1" in kept["settings"]
        and "3 steps" in kept["settings"]
    )
    for name, method in arms.items():
        (file,) = (tmp_path / "b" / "chains").glob(f"{method}-*.npz")
        data, row = arrays(file), kept["rows"][name]
        traces = np.split(data["x"].astype(float), np.cumsum(data["length"])[:-1])
        found = [measured_trace(x) for x in traces]
        assert row["chains"] == len(traces) == 4 and row["problems"] == 2
        for key in ("bonds_valid", "clashes_valid", "gyration_valid", "geometry_valid"):
            close(row[key], float(np.mean([f[key] for f in found])), 0, f"{key} of {name}", 1e-9)
        assert row["cost"]["calls"] == 3
        close(row["cost"]["seconds"], float(data["seconds"]) / 4, 1e-6, f"seconds a chain of {name}")
        p, low, high = row["proxy_success"]
        assert low <= p <= high and p * 4 == round(p * 4) and (row["solved"] > 0) == (p > 0)
    every = chains("test")
    natives = [measured_trace(8.0 * c.x.double().numpy()) for c in every[:: len(every) // 3][:3]]
    for key in ("bonds_valid", "clashes_valid", "gyration_valid", "geometry_valid"):
        close(kept["rows"]["natives"][key], float(np.mean([f[key] for f in natives])), 0, f"{key} of natives", 1e-9)
    # report.md and success.png
    head, *body = next(t for t in markdown_tables((tmp_path / "b" / "report.md").read_text()) if t[0][1] == "chains")
    assert [r[0] for r in body] == list(kept["rows"])
    for cells in body:
        cell, row = dict(zip(head, cells, strict=True)), kept["rows"][cells[0]]
        assert (
            shown(row["chains"], cell["chains"])
            and shown(100 * row["geometry_valid"], cell["geometry"])
            and shown(100 * row["junctions_valid"], cell["junctions"])
        )
        pairs = [
            ("bonds, clashes, size pass", [100 * row[k] for k in ("bonds_valid", "clashes_valid", "gyration_valid")]),
            ("helix, strand", [100 * row["helix"], 100 * row["strand"]]),
        ]
        pairs.append(("CA-MPNN NLL, passes", [row["nll"], 100 * row["nll_valid"]]))
        pairs.append(("proxy success", [100 * v for v in row["proxy_success"]]))
        for key, values in pairs:
            parts = cell[key].replace("[", ",").replace("%", "").strip("] ").split(",")
            assert all(shown(v, c) for v, c in zip(values, parts, strict=True)), (
                f"{key} of {cells[0]}: {cell[key]!r}, the report has {values}"
            )
        if "solved" in row:
            assert cell["problems with one"] == f"{row['solved']} of {row['problems']}" and shown(
                row["motif_rmsd"], cell["motif RMSD, Å"]
            )
            calls, seconds, mib = cell["calls, s a chain, MiB"].split(", ")
            assert (
                shown(row["cost"]["calls"], calls)
                and shown(row["cost"]["seconds"], seconds)
                and (mib == "–" or shown(row["cost"]["mib"], mib))
            )
    for name, row in kept["rows"].items():
        assert any(
            line.startswith(name) and f"proxy success {100 * row['proxy_success'][0]:5.1f} %" in line
            for line in said.splitlines()
        )
    ((names, widths),) = bars
    assert (
        dict(zip(names, widths, strict=True))
        == pytest.approx({n: 100 * r["proxy_success"][0] for n, r in kept["rows"].items()})
        and png(tmp_path / "b" / "success.png").std() > 5
    )
    gaps = kept["first_less_others"]
    for name, (d, low, high) in gaps.items():
        assert low <= d <= high and d == pytest.approx(
            kept["rows"]["prior"]["proxy_success"][0] - kept["rows"][name]["proxy_success"][0]
        )


def test_problems_are_listed_as_they_are_reported(capsys):
    found, said = shown_and_reported(capsys, "protein", "problems")
    for one in found["problems"]:
        low, high = one["lengths"]
        row = next(line for line in said.splitlines() if line.split()[:1] == [one["name"]])
        assert row.split() == [
            one["name"],
            one["contig"],
            f"{low}-{high}" if low < high else str(low),
            str(one["motif"]),
        ]
