"""deft protein: scaffolds from the command line, and one line for each bad input."""

from __future__ import annotations

import csv
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from deft.cli import main
from deft.domains.protein import scaffold as protein_scaffold
from deft.domains.protein.chains import chains, pad
from deft.domains.protein.checks import REASONS, failures, summary_lines
from deft.domains.protein.htransform import ChainDEFT
from deft.domains.protein.metrics import motif_rmsd
from deft.domains.protein.motif import MotifTask
from deft.domains.protein.place import bundled_h, draw_placements, observe_placements
from deft.domains.protein.prior import backbone_prior
from deft.domains.protein.problems import problems
from deft.domains.protein.structure import read_structure, write_pdb
from deft.errors import NonFiniteError
from deft.io.h_files import save_h
from deft.methods import SCORE_FORM
from proteins import entries, helix, problem_file
from toys import refused, result, run, toy_prior


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A tiny prior and an h for it, an h of another prior, and a chain as a PDB file."""
    here = tmp_path_factory.mktemp("protein")
    torch.manual_seed(0)
    for name in ("", "other-"):
        prior = backbone_prior("tiny")
        prior.save(here / f"{name}prior.safetensors", name=name)
        prior.requires_grad_(False)
        h = ChainDEFT(32).calibrate(prior, pad([c.x for c in chains("validation", longest=48)[:4]], 48))
        (here / f"{name}run").mkdir()
        save_h(here / f"{name}run" / "h.safetensors", h, prior, MotifTask())
    chain = next(c for c in chains("validation", longest=64))
    write_pdb(here / "native.pdb", 8 * chain.x.numpy() + 30, sequence=chain.sequence)
    return here


@pytest.fixture
def short(place):
    """What makes a command fast; a contig and an output folder are still to be given."""
    return ("protein", "scaffold", "--prior", place / "prior.safetensors", "--run", place / "run", "--steps", 3)


def test_scaffolds(place, short, tmp_path, capsys):
    out = tmp_path / "out"
    made = result(
        capsys,
        *short,
        "--motif",
        place / "native.pdb",
        "--contig",
        "4-8/A10-21/5-9/A30-34/4",
        "-n",
        3,
        "--batch",
        2,
        "--out",
        out,
    )
    assert sorted(p.name for p in out.iterdir()) == [
        *(f"scaffold-00{i}.pdb" for i in range(3)),
        "scaffold.json",
        "sheet.png",
        "table.csv",
        "view.html",
    ]
    native, motif = read_structure(place / "native.pdb"), slice(9, 21)
    rows = list(csv.DictReader((out / "table.csv").read_text().splitlines()))
    assert [r["file"] for r in rows] == [f"scaffold-00{i}.pdb" for i in range(3)]
    assert {
        "length",
        "motif_rmsd",
        "geometry_valid",
        "junctions_valid",
        "nll",
        "proxy_success",
        "helix",
        "strand",
    } <= set(rows[0])
    for i, row in enumerate(rows):
        drawn = read_structure(out / row["file"])
        first, second = re.fullmatch(r"(\d+)/A10-21/(\d+)/A30-34/4", row["contig"]).groups()
        start = int(first)
        assert len(drawn) == int(row["length"]) == start + 12 + int(second) + 5 + 4
        assert drawn.sequence[start : start + 12] == native.sequence[motif] and set(drawn.sequence[:start]) == {"X"}
        marks = [float(line[60:66]) for line in (out / row["file"]).read_text().splitlines() if line.startswith("ATOM")]
        assert sum(marks) == 17 and marks[start] == 1 and marks[start - 1] == 0
        # it lies where the motif lies in the file given
        where = [*range(start, start + 12), *range(start + 12 + int(second), start + 17 + int(second))]
        given = native.x[[*range(9, 21), *range(29, 34)]]
        assert np.sqrt(np.square(drawn.x[where] - given).sum(1).mean()) == pytest.approx(
            float(row["motif_rmsd"]), abs=2e-3
        )
        assert made["scaffolds"][i]["against"] or row["proxy_success"] == "1"
    kept = json.loads((out / "scaffold.json").read_text())
    assert (
        kept["whole"]
        and kept["calls"] == 3
        and "no folding network" in kept["note"]
        and kept["summary"]["samples"] == 3
    )
    page = (out / "view.html").read_text()
    assert not re.search(r"https?:|src=|@[A-Z]+@", page) and page.count('"title"') == 3


def test_a_scaffold_does_not_depend_on_its_batch(place, short, tmp_path, capsys):
    more = ("--problem", "5W0GA", "--overwrite")
    for batch in (1, 3):
        code, out, err = run(capsys, *short, *more, "-n", 3, "--batch", batch, "--out", tmp_path / f"b{batch}")
        assert code == 0, err
        assert (
            "of 3 pass every check" in out and "no folding network" in out and "designable" not in (out + err).lower()
        )
    lengths = set()
    for i in range(3):
        one, three = (read_structure(tmp_path / f"b{b}" / f"scaffold-{i:03d}.pdb").x for b in (1, 3))
        assert np.abs(one - three).max() < 0.01
        lengths.add(len(one))
    assert len(lengths) > 1  # a shorter chain must not take other numbers because a longer one is in its batch


@pytest.mark.parametrize("method", ["pigdm", "dps", "replacement", "prior"])
def test_every_method(place, tmp_path, capsys, method):
    made = result(
        capsys,
        "protein",
        "scaffold",
        "--prior",
        place / "prior.safetensors",
        "--method",
        method,
        "--steps",
        3,
        "-n",
        1,
        "--problem",
        "5W0GA",
        "--out",
        tmp_path / "o",
    )
    assert (
        made["plan"]["method"] == SCORE_FORM.get(method, method)
        and made["h"] is None
        and made["plan"]["settings"].get("zeta", 0.3) == 0.3
    )


def test_groups_settings_and_noise_reach_the_work(place, short, tmp_path, capsys):
    made = result(
        capsys,
        *short,
        "--motif",
        place / "native.pdb",
        "--contig",
        "5/A10-15@a/5-9/A30-34@b/4",
        "--length",
        27,
        "--set",
        "scale=0.5",
        "--sigma-y",
        0.4,
        "-n",
        1,
        "--seed",
        3,
        "--out",
        tmp_path / "o",
    )
    assert (
        made["scaffolds"][0]["length"] == 27
        and made["plan"]["settings"] == {"scale": 0.5}
        and made["sigma_y_angstrom"] == pytest.approx(0.4)
    )


@pytest.mark.parametrize(
    ("failure", "code"), [(NonFiniteError("the state was not finite"), 2), (KeyboardInterrupt(), 130)]
)
def test_what_is_drawn_before_it_breaks_is_kept(short, tmp_path, capsys, monkeypatch, failure, code):
    kept, calls = protein_scaffold.draw_scaffolds, []

    def breaks(*args, **options):
        calls.append(1)
        if len(calls) == 2:
            raise failure
        return kept(*args, **options)

    monkeypatch.setattr(protein_scaffold, "draw_scaffolds", breaks)
    found, said, err = run(capsys, *short, "--problem", "5W0GA", "-n", 2, "--batch", 1, "--out", tmp_path)
    assert found == code and "stopped after 1 of 2" in said and len(err.strip().splitlines()) == 1
    about = json.loads((tmp_path / "scaffold.json").read_text())
    assert (about["drawn"], about["whole"]) == (1, False) and len(
        (tmp_path / "table.csv").read_text().splitlines()
    ) == 2


def test_problems(capsys):
    made = result(capsys, "protein", "problems")
    assert {"name", "contig", "lengths", "motif"} <= set(made["problems"][0])
    assert (
        sum(p["entry"] is not None for p in made["problems"]) == 17
        and sum(p["entry"] is None for p in made["problems"]) == 12
    )
    said = run(capsys, "protein", "problems")[1]
    assert (
        "10-40/A163-181/10-40" in said
        and "https://files.rcsb.org/download/1YCR.pdb" in said
        and "0-47/A25-35/0-47" in said
    )


def test_published_problems_take_the_entry_that_is_given(place, short, tmp_path, capsys):
    folder = entries(tmp_path / "entries")
    out = ("-n", 1, "--out", tmp_path / "o", "--overwrite")
    made = result(capsys, *short, "--problem", "4zyp", "--pdb", folder, *out)
    assert (
        made["problem"] == "4ZYP"
        and made["contig"] == "10-40/A422-436/10-40"
        and 30 <= made["scaffolds"][0]["length"] <= 50
        and made["pdb"] == [str(folder)]
    )
    drawn = read_structure(tmp_path / "o" / "scaffold-000.pdb")
    assert "CTASNKNRGIIKTFS" in drawn.sequence
    (tmp_path / "any.pdb").write_bytes((folder / "4zyp.pdb").read_bytes())
    assert (
        result(capsys, *short, "--problem", "4ZYP", "--pdb", tmp_path / "any.pdb", *out)["scaffolds"]
        == made["scaffolds"]
    )
    said = refused(capsys, *short, "--problem", "4ZYP", *out)
    assert "https://files.rcsb.org/download/4ZYP.pdb" in said and "--pdb" in said
    assert "needs none" in refused(capsys, *short, "--problem", "5W0GA", "--pdb", folder, *out)
    assert "give --problem" in refused(
        capsys, *short, "--motif", place / "native.pdb", "--contig", "9/A5-9/9", "--pdb", folder, *out
    )
    assert "no such structure file" in refused(capsys, *short, "--problem", "4ZYP", "--pdb", tmp_path / "gone", *out)


def test_the_length_of_a_problem_can_be_changed(short, tmp_path, capsys):
    file = problem_file(tmp_path / "long.pdb", helix(40), most=150)
    said = refused(capsys, *short, "--problem", file, "--out", tmp_path / "o")
    length = re.search(r"give a total length of (\S+)", said)[1]  # the way out that is advised leads out
    made = result(capsys, *short, "--problem", file, "--length", length, "-n", 1, "--out", tmp_path / "o")
    assert made["lengths"] == [30, 128]
    assert "does not add up" in refused(capsys, *short, "--problem", file, "--length", "10-15", "--out", tmp_path / "p")


def test_bad_motifs(place, short, tmp_path, capsys):
    native = place / "native.pdb"
    text = native.read_text()

    def said(contig, source=native, *more):
        return refused(capsys, *short, "--motif", source, "--contig", contig, *more, "--out", tmp_path / "o")

    assert "needs chain 'B'" in said("10/B10-20/10")
    assert "no residue A95" in said("10/A95-120/10")
    assert "does not add up" in said("10/A10-20/10", native, "--length", "50-60")
    assert "the prior at most 128" in said("100-200/A10-20/10")
    assert "twice" in said("10/A10-20/5/A15-25/10")
    assert "has no motif" in said("10-20/30")
    assert "is empty" in said("10/A20-10/10")
    assert "empty part" in said("")
    assert "cannot read 'A10..20'" in said("10/A10..20/10")
    assert "one residue by itself" in said("10/A10@a/10/A20-30@b/10")
    assert "cannot read the total length" in said("10/A10-20/10", native, "--length", "long")
    assert "6 at least" in said("1/A10-11/1")
    (tmp_path / "cut.pdb").write_text(text[: text.index("CA", len(text) // 2) + 22])
    assert "cut off or damaged" in said("10/A10-20/10", tmp_path / "cut.pdb")
    (tmp_path / "bare.pdb").write_text(text.replace(" CA ", " CB "))
    assert "no C-alpha" in said("10/A10-20/10", tmp_path / "bare.pdb")
    lines = text.splitlines(keepends=True)
    (tmp_path / "gap.pdb").write_text(
        "".join(line.replace(" CA ", " CB ") if line[22:26].strip() == "15" else line for line in lines)
    )
    assert "no C-alpha for A15" in said("10/A10-20/10", tmp_path / "gap.pdb")
    (tmp_path / "empty.pdb").write_text("")
    assert "is empty" in said("10/A10-20/10", tmp_path / "empty.pdb")
    assert "no such structure" in said("10/A10-20/10", tmp_path / "gone.pdb")
    assert not (tmp_path / "o").exists()


def test_bad_options(place, short, tmp_path, capsys):
    native, out = place / "native.pdb", ("--out", tmp_path / "o")
    ok = (*short, "--problem", "5W0GA")
    assert "did you mean '5TPN'" in refused(capsys, *short, "--problem", "5TPM", *out)
    assert "leave --motif" in refused(capsys, *ok, "--motif", native, "--contig", "10/A10-20/10", *out)
    for some in ((), ("--motif", native), ("--contig", "10/A10-20/10")):
        assert "or --problem NAME" in refused(capsys, *short, *some, *out)
    assert "of the same convention and other weights" in refused(
        capsys,
        "protein",
        "scaffold",
        "--problem",
        "5W0GA",
        "--prior",
        place / "prior.safetensors",
        "--run",
        place / "other-run",
        *out,
    )
    assert "belongs to the prior backbone" in refused(
        capsys, "protein", "scaffold", "--problem", "5W0GA", "--prior", place / "prior.safetensors", *out
    )
    assert "not protein backbones" in refused(
        capsys, "protein", "scaffold", "--problem", "5W0GA", "--prior", toy_prior(tmp_path / "image.safetensors"), *out
    )
    assert "one of the two" in refused(capsys, *ok, "--size", 9, *out)
    assert "gone" in refused(capsys, *short[:4], "--run", tmp_path / "gone", "--problem", "5W0GA", *out)
    assert "which pigdm has none of" in refused(capsys, *ok, "--method", "pigdm", *out)
    assert "did you mean 'pigdm'" in refused(capsys, *ok, "--method", "pigdn", *out)
    assert "setting 'zeta' of deft" in refused(capsys, *ok, "--set", "zeta=3", *out)
    assert "--samples = 0: expected a whole number of at least 1" in refused(capsys, *ok, "-n", 0, *out)
    assert "--batch = 0: expected" in refused(capsys, *ok, "--batch", 0, *out)
    assert "steps" in refused(capsys, *ok, "--steps", 0, *out)
    assert "--eta = 2.0: expected" in refused(capsys, *ok, "--eta", 2, *out)
    assert "is for samplers with noise" in refused(capsys, *ok, "--eta", 0, "--temperature", 0.5, *out)
    assert "--temperature = 0.0: expected a number above 0" in refused(capsys, *ok, "--temperature", 0, *out)
    assert "above 0" in refused(capsys, *ok, "--sigma-y", -1, *out)
    assert not (tmp_path / "o").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    assert "not empty" in refused(capsys, *ok, "--out", tmp_path / "full")
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["notes.txt"]


def test_a_damaged_problem_file(short, tmp_path, capsys):
    text = problem_file(tmp_path / "p.pdb", helix(40)).read_text()
    (tmp_path / "p.pdb").write_text(
        "".join(line for line in text.splitlines(keepends=True) if not line.startswith("REMARK"))
    )
    assert "no motif-scaffolding problem" in refused(
        capsys, *short, "--problem", tmp_path / "p.pdb", "--out", tmp_path / "o"
    )


def test_commands_for_images_refuse_backbones(tmp_path, capsys):
    (tmp_path / "x.png").touch()
    for words in (
        ("sample", "--task", "sr4", "--measurement", tmp_path / "x.png"),
        ("fit", "--task", "sr4", "--data", "fashion"),
        ("evaluate", "--task", "sr4", "--data", "fashion"),
    ):
        assert "the task sr4 is for images" in refused(
            capsys, *words, "--prior", "backbone", "--out", tmp_path / "o"
        ), words


def test_list_and_info_know_the_prior(capsys):
    assert "backbone" in [p["name"] for p in result(capsys, "list")["priors"]]
    made = result(capsys, "info", "backbone")
    assert made["card"]["unit"] == "8 angstrom" and made["parameters"] > 3e6


def test_placements_are_the_same_however_many():
    problem = problems(["5W0GA"])[0]
    few, many = draw_placements(problem.contig, 2, 5), draw_placements(problem.contig, 6, 5)
    assert [p.scaffolds for p in few] == [p.scaffolds for p in many[:2]] and len({p.scaffolds for p in many}) > 3
    obs = observe_placements(problem.motif, many)
    assert obs.y.shape == (6, max(p.length for p in many), 3)
    for row, p in zip(obs.y, many, strict=True):
        assert motif_rmsd(8 * row.numpy(), problem.goal(p)) < 1e-4


def test_reasons_are_counted():
    n = 3
    columns = {k: np.ones(n, bool) for k in REASONS if k != "motif_valid"} | {
        "length": np.full(n, 50),
        "motif_rmsd": np.array([0.2, 1.3, 0.4]),
    }
    columns["clashes_valid"][1:] = False
    assert failures(columns) == [[], ["motif_valid", "clashes_valid"], ["clashes_valid"]]
    lines = summary_lines(["a", "b", "c"], columns)
    assert (
        lines[0] == "1 of 3 pass every check: a"
        and lines[2].strip().startswith("2  residues nearer")
        and "several" in lines[-1]
    )


def test_without_biotite_one_line_names_the_extra(tmp_path):
    code = (
        "import sys; sys.modules['biotite'] = None; sys.modules['biotite.structure'] = None; from deft.cli import main;"
        " sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "protein", "scaffold", "--problem", "5W0GA", "--out", str(tmp_path / "o")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and "'deft-diffusion[protein]'" in done.stderr
    assert main(["protein", "--help"]) == 0


def commands() -> list[str]:
    """Every `deft protein` line of the pages' shell blocks."""
    root = Path(__file__).parents[1]
    lines = []
    for page in (root / "README.md", *sorted((root / "docs").glob("*.md"))):
        for block in re.findall(r"^```bash\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
            lines += [
                line.partition(" #")[0].strip()
                for line in block.replace("\\\n", " ").splitlines()
                if line.startswith("deft protein")
            ]
    return list(dict.fromkeys(lines))


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A folder with what the pages name: entries of the PDB (stand-ins), a prior and an h of one's own. Nothing else is
    needed by any of them."""
    here = tmp_path_factory.mktemp("pages")
    for file in entries(here / "entries").iterdir():
        for name in (file.name, f"{file.stem.upper()}.pdb"):
            (here / name).write_bytes(file.read_bytes())
    (here / "backbone").mkdir()
    (here / "backbone" / "prior.safetensors").write_bytes(bundled_h(9).with_name("backbone.safetensors").read_bytes())
    for name, size in (("run", 9), ("my-h", 9), ("my-h-2", 4)):
        (here / name).mkdir()
        (here / name / "h.safetensors").write_bytes(bundled_h(size).read_bytes())
    return here


@pytest.mark.parametrize("command", commands())
def test_the_commands_of_the_pages_run(bare, tmp_path, capsys, monkeypatch, command):
    monkeypatch.chdir(bare)
    words = shlex.split(command)[1:]
    small = {"scaffold": ("-n", 1, "--steps", 2), "benchmark": ("-n", 1, "--steps", 2, "--natives", 2)}.get(
        words[1], ()
    )
    count = ("--count", 1) if words[1] == "benchmark" and "b" not in words else ()
    words = [":".join((w.partition(":")[0], "particles=2")) if "particles" in w else w for w in words]
    out = ("--out", tmp_path / "o") if words[1] in ("scaffold", "benchmark") else ()
    code, _, err = run(capsys, *words, *small, *count, *out)
    assert code == 0, err


def test_no_coordinates_of_published_problems_are_bundled():
    """Of other people's data the package has the Debian chains alone."""
    data = bundled_h(9).parents[1] / "data"
    assert sorted(p.name for p in data.iterdir() if not p.name.startswith("__")) == [
        "MPNN-LICENSE.txt",
        "PROVENANCE.txt",
        "ca-mpnn-48-020.safetensors",
        "ca-mpnn-48-020.txt",
        "chains.npz",
        "published.txt",
        "view.html",
    ]
    root = Path(__file__).parents[1]
    tracked = [
        p
        for folder in ("src", "docs", "benchmarks", "examples")
        for p in (root / folder).rglob("*")
        if p.suffix in (".pdb", ".cif", ".ent", ".html", ".md", ".json", ".txt")
    ]
    assert len(tracked) > 50
    assert not [
        p
        for p in tracked
        if re.search(
            r"^(ATOM  |HETATM).{24}[ -]*\d+\.\d{3}", p.read_text(encoding="utf-8", errors="replace"), re.MULTILINE
        )
    ]
