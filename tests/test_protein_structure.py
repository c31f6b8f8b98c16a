"""Structures, contigs and problems of the protein part: what is read and drawn, and one line for each bad input."""

from __future__ import annotations

import gzip
import re
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from deft.core.random import generator
from deft.domains.protein.chains import chains
from deft.domains.protein.contig import Contig
from deft.domains.protein.problems import held_out, problems, published, read_problem, set_a
from deft.domains.protein.structure import Residue, read_structure, write_pdb
from deft.errors import InputError
from proteins import entries


def atom(
    number,
    x=0.0,
    *,
    name="CA",
    residue="ALA",
    chain="A",
    code=" ",
    alt=" ",
    occupancy=1.0,
    record="ATOM",
    element=None,
    y=0.0,
):
    """A line of a PDB file."""
    padded = f" {name:<3}" if len(name) < 4 and element is None else f"{name:<4}"
    return (
        f"{record:<6}{number:5d} {padded}{alt}{residue:>3} {chain}{number:4d}{code}   "
        f"{x:8.3f}{y:8.3f}{0:8.3f}{occupancy:6.2f}{0:6.2f}          {element or name[0]:>2}"
    )


def saved(tmp_path, lines, name="x.pdb"):
    path = tmp_path / name
    path.write_text("\n".join(lines) + "\n")
    return path


def walk(numbers, **options):
    return [atom(n, 3.8 * i, **options) for i, n in enumerate(numbers)]


def complaint(call, *arguments, **options):
    """The message, which must be one line."""
    with pytest.raises(InputError) as caught:
        call(*arguments, **options)
    message = str(caught.value)
    assert "\n" not in message and 20 < len(message) < 400
    return message


# reading and writing


def test_what_is_written_is_read_back(tmp_path):
    x = np.random.default_rng(0).normal(0, 40, (128, 3))
    letters = ("ACDEFGHIKLMNPQRSTVWYX" * 7)[:128]
    write_pdb(
        tmp_path / "sub" / "x.pdb", x, sequence=letters, chain="B", marks=np.ones(128), remarks=["drawn by nobody"]
    )
    back = read_structure(tmp_path / "sub" / "x.pdb")
    assert np.abs(back.x - x).max() < 5.1e-4 and back.sequence == letters and back.notes == () and back.missing == ()
    assert back.residues[0] == Residue("B", 1) and str(back.residues[-1]) == "B128"
    assert [p.name for p in (tmp_path / "sub").iterdir()] == ["x.pdb"]
    write_pdb(tmp_path / "y.pdb", x)
    assert read_structure(tmp_path / "y.pdb").sequence == "X" * 128


@pytest.mark.parametrize(
    ("x", "options", "says"),
    [
        (np.zeros((0, 3)), {}, "1 to 9999"),
        (np.zeros((5, 2)), {}, "got shape"),
        (np.full((5, 3), np.nan), {}, "not finite"),
        (np.full((5, 3), 1e5), {}, "centre the trace"),
        (np.zeros((5, 3)), {"sequence": "AAA"}, "5 letters"),
        (np.zeros((5, 3)), {"sequence": "AA1AA"}, "letters"),
        (np.zeros((5, 3)), {"chain": "AB"}, "one letter"),
        (np.zeros((5, 3)), {"marks": [1.0]}, "5 marks"),
    ],
)
def test_what_cannot_be_written(tmp_path, x, options, says):
    assert says in complaint(write_pdb, tmp_path / "x.pdb", x, **options)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    assert "cannot write" in complaint(write_pdb, tmp_path / "file" / "x.pdb", np.zeros((5, 3)))


CIF = """data_x
#
loop_
_atom_site.group_PDB
_atom_site.id
_atom_site.type_symbol
_atom_site.label_atom_id
_atom_site.label_alt_id
_atom_site.label_comp_id
_atom_site.label_asym_id
_atom_site.label_entity_id
_atom_site.label_seq_id
_atom_site.pdbx_PDB_ins_code
_atom_site.Cartn_x
_atom_site.Cartn_y
_atom_site.Cartn_z
_atom_site.occupancy
_atom_site.auth_seq_id
_atom_site.auth_comp_id
_atom_site.auth_asym_id
_atom_site.auth_atom_id
_atom_site.pdbx_PDB_model_num
ATOM   1 C CA . ALA A 1 1 ? 0.0 0.0 0.0 1.0 100 ALA H CA 1
ATOM   2 C CA A GLY A 1 2 A 3.8 0.0 0.0 0.3 100 GLY H CA 1
ATOM   3 C CA B GLY A 1 2 A 3.9 0.0 0.0 0.7 100 GLY H CA 1
HETATM 4 C CA . MSE A 1 3 ? 7.6 0.0 0.0 1.0 101 MSE H CA 1
HETATM 5 CA CA . CA B 2 . ? 9.6 0.0 0.0 1.0 201 CA H CA 1
HETATM 6 O O . HOH C 3 . ? 9.6 9.0 0.0 1.0 301 HOH H O 1
ATOM   7 C CA . ALA A 1 1 ? 5.0 0.0 0.0 1.0 100 ALA H CA 2
#
"""


def test_mmcif(tmp_path):
    """Authors' chain and numbers, an insertion code, alternative places, MSE; the ion of calcium and the water are no
    residues."""
    path = saved(tmp_path, [CIF], "x.cif")
    found = read_structure(path)
    assert [str(r) for r in found.residues] == ["H100", "H100A", "H101"] and found.sequence == "AGM"
    assert found.x[:, 0] == pytest.approx([0, 3.9, 7.6])
    text = " ".join(found.notes)
    assert "model 1 of 2" in text and "alternative places of H100A" in text and "MSE = M" in text
    packed = tmp_path / "x.cif.gz"
    packed.write_bytes(gzip.compress(CIF.encode()))
    assert np.array_equal(read_structure(packed).x, found.x)
    packed.write_bytes(gzip.compress(CIF.encode())[:-40])
    assert "fetch the file again" in complaint(read_structure, packed)


def test_mmcif_with_unknown_coordinates(tmp_path):
    assert "x of atom 3 is unknown" in complaint(read_structure, saved(tmp_path, [CIF.replace("3.9 0.0", "? 0.0")]))


def test_pdb_files_of_careless_programs(tmp_path):
    """No occupancies, serial numbers that overflowed, a chain without a name."""
    lines = [line[:6] + "*****" + line[11:54] for line in walk([1, 2], chain=" ")]
    found = read_structure(saved(tmp_path, lines))
    assert found.x[:, 0] == pytest.approx([0, 3.8]) and "called _" in found.notes[0]
    assert len(Contig.parse("_:1-2").motif(found)) == 2


@pytest.mark.parametrize("part", [0.3, 0.6, 0.9])
def test_truncated_mmcif(tmp_path, part):
    path = tmp_path / "x.cif"
    path.write_text(CIF[: int(part * len(CIF))].rsplit(" ", 1)[0])
    assert "truncated or damaged" in complaint(read_structure, path)


def test_alternative_places(tmp_path):
    lines = [
        atom(1, 1.0, alt="A", occupancy=0.4), atom(1, 2.0, alt="B", occupancy=0.6),
        atom(2, 3.0, alt="A", occupancy=0.5), atom(2, 4.0, alt="B", occupancy=0.5),
        atom(3, 5.0, alt="A", occupancy=0.3), atom(3, 6.0, alt="B", occupancy=0.7, residue="SER"),
    ]  # fmt: skip
    found = read_structure(saved(tmp_path, lines))
    assert found.x[:, 0].tolist() == [2, 3, 6] and found.sequence == "AAS"
    assert "A1, A2, A3" in found.notes[0] and "highest occupancy" in found.notes[0]


def test_residues_that_are_not_standard(tmp_path):
    lines = [
        atom(1), atom(2, 3.8, residue="MSE", record="HETATM"), atom(3, 7.6, residue="SEP", record="HETATM"),
        atom(4, 11.4, residue="QQQ"), atom(5, 15.2),
        atom(90, 20, residue="GLU", record="HETATM"),  # a free amino acid, not part of the chain
        atom(91, 22, name="CA", residue="CA", record="HETATM", element="CA"),
        atom(92, 24, name="O", residue="HOH", record="HETATM"),
        atom(93, 26, name="C1", residue="ATP", record="HETATM"),
    ]  # fmt: skip
    found = read_structure(saved(tmp_path, lines))
    assert found.sequence == "AMSXA" and len(found) == 5
    text = " ".join(found.notes)
    assert "MSE = M, SEP = S, QQQ = X" in text and "free amino acids left out: A90" in text


def test_models_of_nmr(tmp_path):
    lines = ["MODEL        1", *walk([1, 2]), "ENDMDL", "MODEL        2", *walk([1, 2], y=9.0), "ENDMDL"]
    found = read_structure(saved(tmp_path, lines))
    assert len(found) == 2 and found.x[:, 1].tolist() == [0, 0] and "model 1 of 2" in found.notes[0]


def test_missing_c_alphas(tmp_path):
    path = saved(tmp_path, [*walk([1, 2]), atom(3, name="CB"), atom(4, 11.4), atom(5, 15.2)])
    found = read_structure(path)
    assert len(found) == 4 and found.missing == (Residue("A", 3),) and "no C-alpha in A3" in found.notes[0]
    message = complaint(Contig.parse("A1-5").motif, found)
    assert "no C-alpha for A3" in message and "A1-2/1/A4-5" in message
    assert len(Contig.parse("A1-2/1/A4-5").motif(found)) == 4


def test_one_chain_of_several(tmp_path):
    found = read_structure(saved(tmp_path, [*walk([1, 2]), *walk([7, 8, 9], chain="B")]))
    assert found.chains == ("A", "B") and [str(r) for r in found.only("B").residues] == ["B7", "B8", "B9"]
    assert "it has A, B" in complaint(found.only, "C")


NOT_A_STRUCTURE = {
    "empty": ("", "is empty"),
    "blank": ("\n \n", "is empty"),
    "text": ("hello\nworld\n", "is not a structure"),
    "fasta": (">1abc\nMKV\n", "is not a structure"),
    "cut": ("\n".join(walk([1, 2, 3]))[:-40], "line 3 .* cut off or damaged"),
    "letters": (walk([1])[0].replace("   0.000", "   abcde", 1), "line 1 .* damaged"),
    "nan": (walk([1])[0].replace("   0.000", "     nan", 1), "line 1 .* damaged"),
    "dna": (atom(1, name="P", residue="DA"), "no protein"),
    "water": (atom(1, name="O", residue="HOH", record="HETATM"), "no protein"),
    "side chains": (atom(1, name="CB"), "no C-alpha"),
    "twice": ("\n".join(walk([1, 2, 2])), "A2 .* has two C-alphas"),
    "cif without atoms": ("data_x\nloop_\n_atom_site.id\n1\n2\n", "truncated or damaged"),
}


@pytest.mark.parametrize("case", NOT_A_STRUCTURE)
def test_not_a_structure(tmp_path, case):
    text, says = NOT_A_STRUCTURE[case]
    path = tmp_path / "x.pdb"
    path.write_text(text)
    message = complaint(read_structure, path)
    assert re.search(says, message) and str(path) in message


def test_no_file_and_binary_file(tmp_path):
    assert "no such structure file" in complaint(read_structure, tmp_path / "x.pdb")
    assert "no such structure file" in complaint(read_structure, tmp_path)
    (tmp_path / "x.pdb").write_bytes(bytes(range(256)) * 4)
    assert "is not a structure" in complaint(read_structure, tmp_path / "x.pdb")


def test_every_cut_of_a_file_is_read_or_refused(tmp_path):
    """A PDB file cut anywhere gives a structure or one line, never a traceback."""
    text = "\n".join([*walk([1, 2]), atom(3, residue="MSE", record="HETATM"), "TER", "END"])
    path = tmp_path / "x.pdb"
    for n in range(1, len(text), 7):
        path.write_text(text[:n])
        try:
            read_structure(path)
        except InputError as error:
            assert "\n" not in str(error)


def test_the_extra_is_an_extra():
    """Geometry and CA-MPNN need none of its packages; without biotite the reader says in one line what to install."""
    code = (
        "import sys; sys.modules['biotite'] = None\n"
        "import deft, deft.domains.protein.metrics, deft.domains.protein.mpnn\n"
        "print([m for m in ('tmtools', 'scipy') if m in sys.modules])\n"
        "try:\n    import deft.domains.protein.structure\nexcept Exception as e:\n    print(type(e).__name__, e)"
    )
    free, message = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert free == "[]"
    assert message.startswith("InputError reading protein structures needs biotite") and message.endswith(
        "pip install 'deft-diffusion[protein]'"
    )


# contigs


@pytest.mark.parametrize(
    ("text", "shown", "reach"),
    [
        ("10-40/A163-181/10-40", "10-40/A163-181/10-40", (39, 99)),
        ("5-20,A16-35,10-25,A52-71,5-20", "5-20/A16-35/10-25/A52-71/5-20", (60, 105)),
        ("A95", "A95", (1, 1)),
        ("3/A100A/0-2/A-3-4", "3/A100A/0-2/A-3-4", (12, 14)),
        ("1:5-9/B2", "1:5-9/B2", (6, 6)),
        ("A1-A5", "A1-5", (5, 5)),
        ("A5-7@x/3/A1-2@y", "A5-7@x/3/A1-2@y", (8, 8)),
    ],
)
def test_contigs_are_read(text, shown, reach):
    contig = Contig.parse(text)
    assert str(contig) == shown and contig.reach == reach
    assert Contig.parse(str(contig)) == contig


@pytest.mark.parametrize(
    ("text", "lengths", "says"),
    [
        ("", None, "empty part"),
        ("10-40//A3", None, "empty part"),
        ("10-40/hello", None, "cannot read 'hello'"),
        ("A1-5/0 B1-5", None, "chain breaks"),
        ("40-10/A1-5", None, "write 10-40"),
        ("10-40", None, "no motif"),
        ("A9-5", None, "is empty"),
        ("A1-5/3/A5-9", None, "A5 twice"),
        ("A1-5@a/3/A7-9", None, "names groups, but A7-9 has none"),
        ("A100A-100C", None, "one by one"),
        (
            "10-40/A163-181/10-40",
            "20-30",
            "does not add up: with 19 motif residues its scaffolds make chains of 39 to 99",
        ),
        ("10-40/A163-181/10-40", 100, "does not add up"),
        ("10-40/A163-181/10-40", "75-50", "smaller number first"),
        ("10-40/A163-181/10-40", "about 60", "such as 50-75"),
    ],
)
def test_bad_contigs(text, lengths, says):
    assert says in complaint(Contig.parse, text, lengths)


def test_longer_than_the_prior():
    assert "the prior at most 128: give a total length of 39-128" in complaint(
        Contig.parse("10-40/A163-181/10-100").draw, 0
    )
    assert "the prior at most 128: give a total length of 60-128" in complaint(
        Contig.parse("10-40/A163-181/10-100", "60-140").draw, 0
    )
    assert "shorten it" in complaint(Contig.parse("A1-129").draw, 0)
    assert Contig.parse("10-40/A163-181/10-100", "60-128").draw(0).length <= 128
    assert Contig.parse("A1-129").draw(0, max_length=200).length == 129


def test_motif_that_is_not_in_the_structure(tmp_path):
    structure = read_structure(
        saved(
            tmp_path,
            [
                *walk([98, 99, 100]),
                atom(100, 11, code="A"),
                atom(100, 15, code="B"),
                atom(101, 19),
                atom(102, 22.8),
                atom(105, 34),
            ],
        )
    )
    assert "needs chain 'B'" in complaint(Contig.parse("B1-5").motif, structure)
    assert "no residue A103, A104" in complaint(Contig.parse("A101-105").motif, structure)
    assert "no residue A100C" in complaint(Contig.parse("A100C").motif, structure)
    message = complaint(Contig.parse("A99-102").motif, structure)
    assert (
        "skips inserted residues" in message
        and "A99-100/A100A/A100B/A101-102" in message
        and "A99-100/2-7/A101-102" in message
    )
    motif = Contig.parse("A99-100/A100A/A100B/A101-102").motif(structure)
    assert len(motif) == 6 and motif.x[2:4, 0].tolist() == [11, 15]
    assert len(Contig.parse("A99-100/2-7/A101-102").motif(structure)) == 4
    assert "put 2-7 between A99-100 and A101-102" in complaint(Contig.parse("A99-100/A101-102").motif, structure)


def test_draws_are_uniform_feasible_and_repeatable():
    contig = Contig.parse("2-4/A1-3/0-3/B7/1-2", "10-12")
    feasible = {(a, b, c) for a in range(2, 5) for b in range(4) for c in range(1, 3) if 10 <= a + b + c + 4 <= 12}
    drawn = [contig.draw(seed) for seed in range(2000)]
    counts = Counter(p.scaffolds for p in drawn)
    assert set(counts) == feasible
    expected = 2000 / len(feasible)
    square, freedom = sum((n - expected) ** 2 / expected for n in counts.values()), len(feasible) - 1
    assert abs(square - freedom) < 4 * (2 * freedom) ** 0.5
    assert contig.draw(7).scaffolds == drawn[7].scaffolds
    g = generator(3)
    assert (
        contig.draw(g).scaffolds == contig.draw(3).scaffolds and len({contig.draw(g).scaffolds for _ in range(20)}) > 3
    )


def test_placement():
    placement = Contig.parse("2/B5-6@b/3/A9@a/A11-12@a/1").draw(0)
    assert placement.positions.tolist() == [2, 3, 7, 8, 9] and placement.length == 11
    assert placement.groups.tolist() == [0, 0, 1, 1, 1] and placement.mask.nonzero()[0].tolist() == [2, 3, 7, 8, 9]


# problems

MOTIFS = {"5TPN": 19, "3IXT": 24, "1YCR": 9, "4ZYP": 15, "5WN9": 20, "5TRV": 21, "6E6R": 13, "6EXZ": 15, "7MRX": 22}


def test_the_published_problems(tmp_path):
    found = problems(list(published()), [entries(tmp_path)])
    assert len(found) == 17 and {p.family: len(p.motif) for p in found} == MOTIFS
    for p in found:
        low, high = p.contig.allowed()
        placements = [p.draw(seed) for seed in range(20)]
        assert all(low <= q.length <= high <= 128 and len(q.positions) == len(p.motif) for q in placements)
        assert np.median(np.linalg.norm(np.diff(p.motif.x, axis=0), axis=1)) == pytest.approx(3.8, abs=0.05)
    ycr = problems(["1ycr"], [tmp_path])[0]
    assert (
        str(ycr.contig) == "10-40/B19-27/10-40"
        and ycr.contig.lengths == (40, 100)
        and ycr.motif.sequence == "FSDLWKLLP"
    )
    assert "did you mean '1YCR'" in complaint(problems, ["1YCS"])


def test_problems_of_held_out_chains():
    found = problems()
    assert len(found) == 12 and all(q.contig.allowed()[1] <= 128 for q in found)
    trained = {c.name for c in chains("train")}
    everything = held_out()
    assert len(everything) == 548 and not set(everything) & trained
    one = problems(["2ej8a"])[0]
    assert (
        one.name == "2EJ8A"
        and one.motif.sequence == next(c for c in chains("test") if c.name == "2EJ8A").sequence[8:30]
        and len(one.motif) == 22
    )


PROBLEM = [
    "REMARK 999 NAME   1PRW_two",
    "REMARK 999 PDB    1PRW",
    "REMARK 999 INPUT      5  20",
    "REMARK 999 INPUT  A  16  17 B",
    "REMARK 999 INPUT     10  25",
    "REMARK 999 INPUT  A10521053 A",
    "REMARK 999 INPUT      5  20",
    "REMARK 999 MINIMUM TOTAL LENGTH      30",
    "REMARK 999 MAXIMUM TOTAL LENGTH      40",
]


def test_problems_with_groups(tmp_path):
    """Columns, not spaces, tell the fields apart: numbers of four digits touch."""
    found = read_problem(saved(tmp_path, [*PROBLEM, "", *walk([16, 17, 1052, 1053])]))
    assert found.name == "1PRW_two" and str(found.contig) == "5-20/A16-17@B/10-25/A1052-1053@A/5-20"
    assert found.motif.groups.tolist() == [0, 0, 1, 1] and found.contig.lengths == (30, 40)


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ([], "no motif-scaffolding problem"),
        (["REMARK 999 INPUT      5  xx"], "columns 20-23"),
        (["REMARK 999 INPUT  A  16  17", "REMARK 999 MINIMUM TOTAL LENGTH      many"], "cannot read"),
        (["REMARK 999 INPUT  A  16  17"], "MINIMUM and MAXIMUM"),
        (
            [
                "REMARK 999 INPUT  A  16  19",
                "REMARK 999 MINIMUM TOTAL LENGTH      4",
                "REMARK 999 MAXIMUM TOTAL LENGTH      4",
            ],
            "no residue A18, A19",
        ),
    ],
)
def test_bad_problems(tmp_path, lines, says):
    assert says in complaint(read_problem, saved(tmp_path, [*lines, *walk([16, 17])]))


def test_motifs_of_held_out_chains():
    rng = np.random.default_rng(0)
    chains = [rng.normal(0, 8, (int(n), 3)).astype(np.float32) for n in rng.integers(40, 129, 300)]
    found = set_a(chains)
    again = set_a(chains, count=50)
    alike = {p.name: p for p in found}
    assert len(found) == 300 and len(again) == 50
    assert all(np.array_equal(p.motif.x, alike[p.name].motif.x) and p.contig == alike[p.name].contig for p in again)
    for p in found:
        placement = p.draw(0)
        cut = p.native[placement.positions]
        assert (
            placement.length == len(p.native)
            and np.allclose(cut - cut.mean(0), p.motif.x, atol=1e-4)
            and np.abs(p.motif.x.mean(0)).max() < 1e-4
        )
        assert 2 * len(p.motif) <= len(p.native)
    share = np.mean([9 <= len(p.motif) <= 24 for p in found])
    assert abs(share - 0.8) < 4 * (0.8 * 0.2 / 300) ** 0.5
    free = set_a(chains, placement="free")
    assert all(np.array_equal(a.motif.x, b.motif.x) for a, b in zip(free, found, strict=True))
    assert all(0.8 * len(p.native) - 1 <= p.draw(1).length <= 128 for p in free)
    assert "'native'" in complaint(set_a, chains, placement="nativ")
    assert "ask for 1 to 300" in complaint(set_a, chains, count=400)
    assert "chain0" in complaint(set_a, [np.zeros((200, 3))])
