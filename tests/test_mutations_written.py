"""Folders as a mistaken command would have left them: each must be caught by a check of the last metre."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from golden import arrays, read
from golden_checks import check_samples
from golden_proteins import check_scaffolds
from test_last_metre_proteins import motif, place, scaffold_line
from test_mutations_commands import check_methods, shop

_ = (place, shop)  # fixtures


@pytest.fixture(scope="module")
def folders(shop, place, tmp_path_factory):
    """A folder of `deft sample`, of `deft evaluate` and of `deft protein scaffold`, with what their checks are told."""
    from deft.cli import main

    here = tmp_path_factory.mktemp("folders")
    mask = (np.asarray(Image.open(shop / "mask.png")) > 127).astype(np.float32)[None]
    y = (np.asarray(Image.open(shop / "photo.png"), np.float32)[None] / 127.5 - 1) * mask
    lines = {
        "sample": (
            "sample",
            shop / "run",
            "--measurement",
            shop / "photo.png",
            "--mask",
            shop / "mask.png",
            "-n",
            3,
            "--steps",
            3,
        ),
        "evaluate": (
            "evaluate",
            shop / "run",
            "--data",
            shop / "tested",
            "--images",
            10,
            "--samples",
            3,
            "--steps",
            3,
            "--methods",
            "pigdm,deft,prior",
        ),
        "scaffold": scaffold_line(place, here / "scaffold", "-n", 3),
    }
    for kind, line in lines.items():
        assert main([str(a) for a in (*line, *(() if kind == "scaffold" else ("--out", here / kind)))]) == 0
    given = motif(place)

    def check(kind: str, out: Path) -> None:
        if kind == "sample":
            check_samples(out, read(out / "sample.json") | {"out": str(out)}, n=3, steps=3, y=y, mask=mask)
        elif kind == "evaluate":
            check_methods(out)
        else:
            check_scaffolds(out, read(out / "scaffold.json"), n=3, motif=given, seed=0, steps=3)

    return here, check


def rewritten(name, change):
    """A JSON file, or arrays of an npz, with a change to what is in it."""

    def spoil(out):
        if name.endswith(".json"):
            value = read(out / name)
            change(value)
            (out / name).write_text(json.dumps(value))
        else:
            value = arrays(out / name)
            change(value)
            np.savez(out / name, **value)

    return spoil


def swapped_files(a, b):
    def spoil(out):
        one, two = (out / a).read_bytes(), (out / b).read_bytes()
        (out / a).write_bytes(two)
        (out / b).write_bytes(one)

    return spoil


def swapped_rows(pick):
    """Two rows of report.json exchange what pick tells: (row -> which of the two, or None), value, low and high."""

    def change(report):
        a, b = ([r for r in report["rows"] if "versus" not in r and pick(r) == k] for k in (0, 1))
        assert a and len(a) == len(b)
        for one, two in zip(a, b, strict=True):
            for k in ("value", "low", "high"):
                one[k], two[k] = two[k], one[k]

    return rewritten("report.json", change)


def between(key, first, second, **also):
    return lambda row: {first: 0, second: 1}.get(row[key]) if all(row[k] == v for k, v in also.items()) else None


def swapped_columns(i, j):
    """Two columns of the main table of report.md exchanged, under their headings."""

    def spoil(out):
        lines = (out / "report.md").read_text().splitlines()
        for n, line in enumerate(lines):
            cells = line.split("|")
            if line.startswith("| ") and len(cells) == 6 and "PSNR" in line:
                cells[i], cells[j] = cells[j], cells[i]
                lines[n] = "|".join(cells)
        (out / "report.md").write_text("\n".join(lines))

    return spoil


def table(change):
    """A change to the rows of table.csv."""

    def spoil(out):
        rows = list(csv.DictReader((out / "table.csv").read_text().splitlines()))
        change(rows)
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        (out / "table.csv").write_text(text.getvalue())

    return spoil


def exchange(a, b):
    def change(rows):
        for r in rows:
            r[a], r[b] = r[b], r[a]

    return change


def reversed_rows(rows):
    """The rows in the opposite order, under the names of the files as they were."""
    rows[:] = [row | {"file": own["file"]} for own, row in zip(list(rows), rows[::-1], strict=True)]


def shift_marks(out):
    """B-factors moved on by one residue."""
    for path in out.glob("*.pdb"):
        lines = path.read_text().splitlines()
        at = [i for i, line in enumerate(lines) if line.startswith("ATOM")]
        marks = [lines[i][60:66] for i in at]
        for i, mark in zip(at, [marks[-1], *marks[:-1]], strict=True):
            lines[i] = lines[i][:60] + mark + lines[i][66:]
        path.write_text("\n".join(lines))


FILES = {
    "mean.png is a sample": ("sample", lambda out: shutil.copy(out / "sample-000.png", out / "mean.png")),
    "spread.png is the mean": ("sample", lambda out: shutil.copy(out / "mean.png", out / "spread.png")),
    "two samples in each other's file": ("sample", swapped_files("sample-000.png", "sample-001.png")),
    "a sample too few": ("sample", lambda out: (out / "sample-002.png").unlink()),
    "a mean of other samples in the npz": (
        "sample",
        rewritten("samples.npz", lambda d: d.update(mean=d["samples"][:2].mean(0))),
    ),
    "a spread of other samples in the npz": (
        "sample",
        rewritten("samples.npz", lambda d: d.update(spread=d["samples"][:2].std(0))),
    ),
    "the mask upside down": ("sample", rewritten("samples.npz", lambda d: d.update(mask=1 - d["mask"]))),
    "another seed in the card": ("sample", rewritten("sample.json", lambda d: d.update(seed=7))),
    "a residual of one sample": ("sample", rewritten("sample.json", lambda d: d.update(residual=d["residual"] * 1.01))),
    "a spread that is a variance": ("sample", rewritten("sample.json", lambda d: d.update(spread=d["spread"] ** 2))),
    "two methods exchanged in the report": (
        "evaluate",
        swapped_rows(between("method", "pigdm", "prior", metric="psnr")),
    ),
    "PSNR of the mean for that of samples": (
        "evaluate",
        swapped_rows(between("metric", "psnr", "psnr_mean", method="deft")),
    ),
    "spread and residual exchanged": ("evaluate", swapped_rows(between("metric", "spread", "residual", method="deft"))),
    "two columns of report.md exchanged": ("evaluate", swapped_columns(2, 3)),
    "samples of two methods exchanged": (
        "evaluate",
        rewritten("samples.npz", lambda d: d.update(samples_deft=d["samples_prior"], samples_prior=d["samples_deft"])),
    ),
    "one image fewer in the npz": (
        "evaluate",
        rewritten("samples.npz", lambda d: d.update({k: v[:-1] for k, v in d.items()})),
    ),
    "intervals of 50 %": (
        "evaluate",
        rewritten(
            "report.json",
            lambda d: [
                r.update(low=(r["low"] + r["value"]) / 2, high=(r["high"] + r["value"]) / 2)
                for r in d["rows"]
                if r["low"] is not None
            ],
        ),
    ),
    "two columns of table.csv exchanged": ("scaffold", table(exchange("bond_mean", "gyration_ratio"))),
    "RMSD and likelihood exchanged": ("scaffold", table(exchange("motif_rmsd", "nll"))),
    "rows of table.csv exchanged": ("scaffold", table(reversed_rows)),
    "residues marked one too late": ("scaffold", shift_marks),
    "two scaffolds in each other's file": ("scaffold", swapped_files("scaffold-000.pdb", "scaffold-001.pdb")),
    "the median of the summary": (
        "scaffold",
        rewritten(
            "scaffold.json", lambda d: d["summary"].update(motif_rmsd_median=d["scaffolds"][0]["motif_rmsd"] + 0.01)
        ),
    ),
}


@pytest.mark.parametrize("kind", ["sample", "evaluate", "scaffold"])
def test_folders_pass_as_they_are_written(folders, kind):
    here, check = folders
    check(kind, here / kind)


@pytest.mark.parametrize("name", FILES)
def test_a_wrong_file_is_caught(folders, tmp_path, name):
    here, check = folders
    kind, spoil = FILES[name]
    shutil.copytree(here / kind, tmp_path / kind)
    if kind == "sample":  # the folder says where it is
        rewritten("sample.json", lambda d: d.update(out=str(tmp_path / kind)))(tmp_path / kind)
    check(kind, tmp_path / kind)
    spoil(tmp_path / kind)
    with pytest.raises(AssertionError):
        check(kind, tmp_path / kind)
