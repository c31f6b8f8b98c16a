"""Structure files as other programs write them: read as they are meant, or refused in one line whose way out leads
out."""

from __future__ import annotations

import gzip
import re

import numpy as np
import pytest

from deft.domains.protein.contig import Contig
from deft.domains.protein.problems import problems, published, read_problem
from deft.domains.protein.structure import Residue, Structure, read_structure, write_pdb
from deft.errors import InputError
from proteins import COLUMNS, cif, cif_row, entries, helix, line, problem_file, saved, trace

TEN = helix(10)


def complaint(call, *arguments, **options) -> str:
    """The message, which must be one line."""
    with pytest.raises(InputError) as caught:
        call(*arguments, **options)
    message = str(caught.value)
    assert "\n" not in message and 20 < len(message) < 500
    return message


def same(found: Structure, first: int = 1, chain: str = "A", x: np.ndarray = TEN) -> None:
    """These are the residues and places that were written."""
    assert found.residues == tuple(Residue(chain, first + i) for i in range(len(x)))
    assert np.abs(found.x - x).max() < 1e-3


# names of residues

NAMES = {
    "H": "HIS HID HIE HIP HSD HSE HSP HISA HISB HISH HISD HISE HISP HIS1 HIS2 NHID NHIE CHIP CHIE NHIS CHIS HIC NEP",
    "C": "CYS CYX CYM CYN CYH CYS1 CYS2 CYSH CYSM CYSP NCYX CCYX NCYS CSO CSD CSX CME OCS CAS SEC",
    "D": "ASP ASH ASPH ASPP NASP CASP",
    "E": "GLU GLH GLUH GLUP NGLU CGLU CGU",
    "K": "LYS LYN LYP LSN LYSH LYSN NLYS CLYS KCX MLY M3L ALY LLP PYL",
    "R": "ARG ARN AR0 ARGN NARG CARG",
    "Y": "TYR TYM TYRU PTR TYS Y1P Y2P TP2 NTYR CTYR",
    "S": "SER SEP S1P SP1 SP2 NSER CSER",
    "T": "THR TPO T1P T2P THP1 NTHR CTHR",
    "W": "TRP TRPU NTRP CTRP",
    "Q": "GLN QLN PGLU PCA NGLN",
    "P": "PRO HYP DPR NPRO CPRO",
    "M": "MET MSE MSO FME NMET CMET",
    "A": "ALA NALA CALA DAL AIB ABA",
    "G": "GLY NGLY CGLY",
    "V": "VAL NVAL CVAL NVA",
    "L": "LEU NLEU CLEU NLE",
    "I": "ILE NILE CILE",
    "F": "PHE NPHE CPHE",
    "N": "ASN NASN CASN",
    "X": "UNK QQQ",
}


@pytest.mark.parametrize("letter", NAMES)
def test_every_name_has_its_parents_letter(tmp_path, letter):
    names = NAMES[letter].split()
    lines = [line(i, p, name=n) for i, (n, p) in enumerate(zip(names, helix(len(names)), strict=True), 1)]
    found = read_structure(saved(tmp_path / "a.pdb", lines))
    assert dict(zip(names, found.sequence, strict=True)) == dict.fromkeys(names, letter)
    named = [n for n in names if len(n) <= 5]
    rows = [
        cif_row(i, p, label_comp_id=n, auth_comp_id=n)
        for i, (n, p) in enumerate(zip(named, helix(len(named)), strict=True), 1)
        if n[0] not in "NC" or len(n) < 4
    ]
    wanted = "".join(letter for n in named if n[0] not in "NC" or len(n) < 4)
    assert read_structure(saved(tmp_path / "a.cif", cif(rows))).sequence == wanted


@pytest.mark.parametrize("name", ["HID", "HIE", "HIP", "CYX", "ASH", "GLH", "LYN", "MSE", "SEP", "CSO", "HISD"])
def test_hetatm_records_of_a_chain_are_part_of_it(tmp_path, name):
    """As Maestro and Chimera write residues that are not among the twenty."""
    lines = trace(TEN)
    lines[4] = line(5, TEN[4], name=name, record="HETATM")
    found = read_structure(saved(tmp_path / "a.pdb", lines))
    same(found)
    assert found.sequence[4] not in "XG"


@pytest.mark.parametrize(
    ("record", "atoms", "letter"),
    [
        ("ATOM", (), "H"),
        ("HETATM", (), "S"),
        ("ATOM", (" ND1", " CE1"), "H"),
        ("HETATM", (" ND1", " NE2"), "H"),
        ("ATOM", (" OD ",), "S"),
        ("HETATM", (" OD ",), "S"),
    ],
)
def test_the_two_residues_called_hse(tmp_path, record, atoms, letter):
    """CHARMM's histidine and the PDB's homoserine: the side chain tells, or else the record."""
    lines = trace(TEN)
    lines[4:5] = [line(5, TEN[4] + i, name="HSE", record=record, atom=a) for i, a in enumerate((" CA ", *atoms))]
    assert read_structure(saved(tmp_path / "a.pdb", lines)).sequence == f"GGGG{letter}GGGGG"


# lines that do not matter, and numbers

WATER = line("A000", (1, 1, 1), name="HOH", atom=" O  ", record="HETATM")
HARMLESS = {
    "water in hybrid-36": WATER,
    "water of 5 digits": line("1000", (1, 1, 1), name="HOH", atom=" O  ", record="HETATM", code="0"),
    "water whose number overflowed": line("****", (1, 1, 1), name="HOH", atom=" O  ", record="HETATM"),
    "water of hexadecimal number": line("270f", (1, 1, 1), name="HOH", atom=" O  ", record="HETATM"),
    "water of GROMACS": line("0", (1, 1, 1), name="SOL", atom=" OW "),
    "water of CHARMM": line("1", (1, 1, 1), name="TIP3", atom=" OH2"),
    "water without number": line("", (1, 1, 1), name="HOH", atom=" O  ", record="HETATM"),
    "water far away": line("2", ("********",) * 3, name="HOH", atom=" O  ", record="HETATM"),
    "ligand that is not finite": line("2", ("     nan",) * 3, name="LIG", atom=" C1 ", record="HETATM"),
    "ligand with an atom CA": line("2", (9, 9, 9), name="LIG", atom=" CA ", record="HETATM"),
    "calcium": line("2", (9, 9, 9), name="CA", atom="CA  ", record="HETATM", element="CA"),
    "calcium in an ATOM record": line("2", (9, 9, 9), name="CA", atom="CA  ", element="CA"),
    "lipid called S1P": line("7", (9, 9, 9), name="S1P", atom=" C1 ", record="HETATM"),
    "nucleotide": line("B12", (9, 9, 9), name="DA", atom=" P  "),
    "cut within the water": WATER[:40],
    "text": "REMARK 999 nothing",
    "anisotropic": "ANISOU    1  CA  GLY A   1     xxxx",
    "side chain far away": line(3, ("********",) * 3, atom=" CB "),
    "another model": "\n".join(["MODEL        2", line("????", ("  broken",) * 3), "ENDMDL"]),
}


@pytest.mark.parametrize("where", ["behind", "before"])
@pytest.mark.parametrize("what", HARMLESS)
def test_lines_that_do_not_matter_do_no_harm(tmp_path, what, where):
    if what == "another model":
        lines = ["MODEL        1", *trace(TEN), "ENDMDL", HARMLESS[what]]
    else:
        lines = [*trace(TEN), HARMLESS[what]] if where == "behind" else [HARMLESS[what], *trace(TEN)]
    found = read_structure(saved(tmp_path / "a.pdb", lines))
    if what == "side chain far away" and where == "before":
        found = Structure(
            found.x[[1, 2, 0, *range(3, 10)]],
            (*found.residues[1:3], found.residues[0], *found.residues[3:]),
            found.sequence,
        )
    same(found)
    assert found.missing == ()


@pytest.mark.parametrize(
    ("text", "code", "number"),
    [
        ("9999", " ", 9999),
        ("A000", " ", 10000),
        ("A00A", " ", 10010),
        ("A010", " ", 10036),
        ("B000", " ", 56656),
        ("ZZZZ", " ", 1223055),
        ("a000", " ", 1223056),
        ("1000", "0", 10000),
        ("1234", "5", 12345),
        ("  -5", " ", -5),
        ("-100", " ", -100),
        ("   0", " ", 0),
        ("0012", " ", 12),
        ("12  ", " ", 12),
        ("   1", "2", 12),
    ],
)
def test_numbers_of_residues(tmp_path, text, code, number):
    found = read_structure(saved(tmp_path / "a.pdb", [line(text, TEN[0], code=code)]))
    assert found.residues == (Residue("A", number),)
    assert len(Contig.parse(f"3/A{number}/3").motif(found)) == 1


@pytest.mark.parametrize("text", ["", "****", "A00", "a0B0", "1x", "+-3", "--3", "0x1f", "1.5", "AB C"])
def test_numbers_that_cannot_be_read_matter_in_the_protein(tmp_path, text):
    lines = [*trace(TEN), line(text, helix(11)[10])]
    assert "line 11" in complaint(read_structure, saved(tmp_path / "a.pdb", lines))


@pytest.mark.parametrize("number", [("a12", "a12"), ("A-3", "A-3"), ("A12B", "A12B"), ("_:12", "_12"), ("1:12", "112")])
def test_names_of_residues(tmp_path, number):
    """Small letters, negative numbers, insertion codes, chains without a name or called 1."""
    text, shown = number
    chain, place, code = re.fullmatch(r"([A-Za-z]|_:|1:)(-?\d+)(\w?)", text).groups()
    lines = [line(place, TEN[3], chain={"_:": " ", "1:": "1"}.get(chain, chain), code=code or " ")]
    found = read_structure(saved(tmp_path / "a.pdb", [*trace(TEN, chain="Q"), *lines]))
    assert str(found.residues[-1]) == shown and len(Contig.parse(f"2/{text}/2").motif(found)) == 1


def test_a_chain_in_the_other_case_is_offered(tmp_path):
    found = read_structure(saved(tmp_path / "a.pdb", trace(TEN, chain="a")))
    assert "did you mean a2-5?" in complaint(Contig.parse("A2-5").motif, found)


# how a file is dressed

DRESSED = {
    "as it is": lambda t: t.encode(),
    "CRLF": lambda t: t.replace("\n", "\r\n").encode(),
    "CR": lambda t: t.replace("\n", "\r").encode(),
    "byte-order mark": lambda t: ("\ufeff" + t).encode(),
    "byte-order mark and CRLF": lambda t: ("\ufeff" + t.replace("\n", "\r\n")).encode(),
    "UTF-16": lambda t: t.encode("utf-16"),
    "gzip": lambda t: gzip.compress(t.encode()),
    "gzip of CRLF": lambda t: gzip.compress(t.replace("\n", "\r\n").encode()),
    "blank lines before": lambda t: ("\n\n" + t).encode(),
    "blank lines behind": lambda t: (t + "\n \n\n").encode(),
    "no last newline": lambda t: t.rstrip("\n").encode(),
    "Latin-1 in a remark": lambda t: (
        "# Å\nREMARK Å\n".encode("latin-1") + t.encode() if t.startswith("ATOM") else b"# \xc5\n" + t.encode()
    ),
}


@pytest.mark.parametrize("kind", ["pdb", "cif"])
@pytest.mark.parametrize("how", DRESSED)
def test_a_file_is_read_however_it_is_dressed(tmp_path, how, kind):
    text = "\n".join([*trace(TEN), "END", ""]) if kind == "pdb" else cif([cif_row(i, p) for i, p in enumerate(TEN, 1)])
    path = tmp_path / f"a.{kind}"
    path.write_bytes(DRESSED[how](text))
    same(read_structure(path))


@pytest.mark.parametrize(
    ("name", "raw", "says"),
    [
        ("a.pdb.bz2", b"BZh91AY", "bzip2"),
        ("a.cif.xz", b"\xfd7zXZ\x00", "xz"),
        ("a.zip", b"PK\x03\x04..", "zip"),
        ("a.cif.zst", b"\x28\xb5\x2f\xfd..", "zstd"),
        ("a.gro", b"protein\n1\n    1GLY     CA    1   0.1 0.2 0.3\n", "gmx editconf"),
        ("a.bcif", b"\x83\xa7encoder", ".cif or .pdb"),
        ("a.pdb", b"\xef\xbb\xbf  \r\n", "is empty"),
        ("a.cif", b"data_x\n_cell.length_a 1.0\n", "no atoms"),
        ("a.pdb.gz", b"\x1f\x8b\x08broken", "fetch the file again"),
    ],
)
def test_what_is_no_structure_is_named(tmp_path, name, raw, says):
    (tmp_path / name).write_bytes(raw)
    assert says in complaint(read_structure, tmp_path / name)


# mmCIF

ROWS = [cif_row(i, p) for i, p in enumerate(TEN, 1)]
REQUIRED = ("Cartn_x", "Cartn_y", "Cartn_z")
AUTHORS = ("auth_seq_id", "auth_asym_id", "auth_comp_id", "auth_atom_id")


@pytest.mark.parametrize("column", [c for c in COLUMNS if c not in REQUIRED])
def test_mmcif_without_an_optional_column(tmp_path, column):
    found = read_structure(saved(tmp_path / "a.cif", cif(ROWS, (column,))))
    same(found, -99 if column == "auth_seq_id" else 1, "L" if column == "auth_asym_id" else "A")
    assert found.sequence == "G" * 10 and bool(found.notes) == (column in ("auth_seq_id", "auth_asym_id"))


def test_mmcif_with_what_is_needed_alone(tmp_path):
    drop = tuple(c for c in COLUMNS if c not in (*REQUIRED, "label_atom_id", "label_comp_id", "label_seq_id"))
    found = read_structure(saved(tmp_path / "a.cif", cif(ROWS, drop)))
    same(found, -99, "_")
    drop = tuple(c for c in COLUMNS if c not in (*REQUIRED, *AUTHORS))
    same(read_structure(saved(tmp_path / "a.cif", cif(ROWS, drop))))


@pytest.mark.parametrize(
    "drop",
    [
        ("Cartn_y",),
        ("auth_seq_id", "label_seq_id"),
        ("auth_atom_id", "label_atom_id"),
        ("auth_comp_id", "label_comp_id"),
    ],
)
def test_mmcif_without_a_column_that_is_needed(tmp_path, drop):
    assert f"no column _atom_site.{drop[-1].lower()}" in complaint(
        read_structure, saved(tmp_path / "a.cif", cif(ROWS, drop))
    ).replace("Cartn", "cartn")


TEXT = cif(ROWS)
SAME_CIF = {
    "a second block": TEXT + "data_COMP_LIG\n_chem_comp.id LIG\n",
    "a block before it": "data_comp_list\nloop_\n_chem_comp.id\n_chem_comp.name\nLIG 'a \"name\"'\n" + TEXT,
    "another block's atoms": TEXT + cif([cif_row(1, (9, 9, 9))], block="y"),
    "the same name twice": TEXT + cif([cif_row(1, (9, 9, 9))]),
    "small letters": TEXT.replace("Cartn", "cartn").replace("PDB", "pdb"),
    "capital letters": TEXT.replace("data_", "DATA_").replace("loop_", "LOOP_"),
    "indented": TEXT.replace("\n", "\n  "),
    "tabs": TEXT.replace(" ", "\t"),
    "comments": TEXT.replace("\nATOM 4 ", " # that was three\n# and this is four\nATOM 4 "),
    "a row in two lines": TEXT.replace(" GLY A CA 1", "\nGLY A CA 1"),
    "quotes": TEXT.replace(" CA ", " 'CA' ").replace(" GLY A", ' "GLY" A'),
    "quotes with blanks": TEXT.replace("ATOM 4 C", "ATOM '4 or 5' C"),
    "a prime in quotes": (
        TEXT.replace("#\n", "", 1).rstrip("#\n")
        + "\n"
        + " ".join(
            cif_row(
                99,
                (1, 1, 1),
                group_PDB="HETATM",
                label_comp_id="LIG",
                auth_comp_id="LIG",
                label_atom_id='"O5\'"',
                auth_atom_id="'O5''",
            ).values()
        )
        + "\n#\n"
    ),
    "a text with semicolons": "data_t\n_struct.title\n;loop_\n_atom_site.id\n1 2 3\n;\n" + TEXT,
    "a text in a row": TEXT.replace("ATOM 4 C", "ATOM\n;4\n; C"),
    "a save frame": "data_dic\nsave_x\n_item.name y\nsave_\n" + TEXT,
    "other loops": (
        "data_x\nloop_\n_atom_site_anisotrop.id\n_atom_site_anisotrop.U\n1 0.1\n2 0.2\n"
        + TEXT.partition("\n")[2]
        + "loop_\n_atom_type.symbol\nC\n"
    ),
    "pairs of a tag and a value": "data_x\n_cell.length_a 1.0\n_cell.length_b\n 2.0\n" + TEXT.partition("\n")[2],
    "water without number or place": TEXT.rstrip("#\n") + "\nHETATM 99 O O . HOH W 3 . ? ? ? ? 1.0 ? HOH W O 1\n#\n",
    "a side chain without place": TEXT.rstrip("#\n") + "\nATOM 99 C CB . GLY L 1 -99 ? ? ? ? 1.0 1 GLY A CB 1\n#\n",
    "unknown occupancies": TEXT.replace(" 1.0 ", " ? "),
    "a second model": (
        TEXT.rstrip("#\n") + "\n" + " ".join(cif_row(1, (9, 9, 9), pdbx_PDB_model_num="2").values()) + "\n#\n"
    ),
    "models from 0": cif([cif_row(i, p, pdbx_PDB_model_num="0") for i, p in enumerate(TEN, 1)]),
    "comments before it": "# written by a program\n\n" + TEXT,
    "records in small letters": TEXT.replace("ATOM", "atom"),
}


@pytest.mark.parametrize("how", SAME_CIF)
def test_mmcif_as_programs_write_it(tmp_path, how):
    found = read_structure(saved(tmp_path / "a.cif", SAME_CIF[how]))
    same(found)
    assert any("block" in n for n in found.notes) == (how in ("another block's atoms", "the same name twice")) and any(
        "model 1 of 2" in n for n in found.notes
    ) == (how == "a second model")


def test_mmcif_of_one_atom_without_a_loop(tmp_path):
    text = "data_x\n" + "".join(f"_atom_site.{k} {v}\n" for k, v in ROWS[0].items())
    same(read_structure(saved(tmp_path / "a.cif", text)), x=TEN[:1])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (TEXT[: TEXT.index("ATOM 7")] + "ATOM 7 C CA", "values in 19 columns"),
        (TEXT.replace(ROWS[3]["Cartn_x"], "?", 1), "x of atom 4 is unknown"),
        (TEXT.replace(ROWS[3]["Cartn_x"], "1,5", 1), "x of atom 4 is '1,5'"),
        (TEXT.replace("1.0 4 GLY", "1.0 ? GLY"), "residue number of atom 4 is unknown"),
        (TEXT.replace("1.0 4 GLY", "1.0 4A GLY"), "'4A'"),
        (TEXT.partition("ATOM")[0], "0 values"),
        ("data_x\n_struct.title\n;without an end\n" + TEXT, "does not end"),
    ],
)
def test_mmcif_that_is_damaged(tmp_path, text, says):
    assert says in complaint(read_structure, saved(tmp_path / "a.cif", text))


def test_every_cut_of_an_mmcif_file_is_read_or_refused(tmp_path):
    for n in range(1, len(TEXT), 13):
        try:
            found = read_structure(saved(tmp_path / "a.cif", TEXT[:n]))
        except InputError as error:
            assert "\n" not in str(error)
        else:
            assert np.abs(found.x - TEN[: len(found)]).max() < 1e-3


# models and alternative places


@pytest.mark.parametrize(
    "between", [("ENDMDL", "MODEL        2"), ("MODEL        2",), ("ENDMDL",), ("ENDMDL", "TER", "MODEL        7")]
)
def test_the_first_of_several_models(tmp_path, between):
    found = read_structure(
        saved(tmp_path / "a.pdb", ["MODEL        1", *trace(TEN), *between, *trace(TEN + 40), "ENDMDL"])
    )
    same(found)
    assert "model 1 of 2" in found.notes[0]


def test_alternative_places_of_every_atom(tmp_path):
    places = [
        line(i, p + shift, alt=alt, occupancy=o)
        for i, p in enumerate(TEN, 1)
        for alt, shift, o in (("A", 3, "0.40"), ("B", 0, "0.60"), ("C", 5, "0.00"))
    ]
    same(read_structure(saved(tmp_path / "a.pdb", places)))


# units, gaps and hands


@pytest.mark.parametrize(
    ("scale", "says"),
    [
        (0.1, "nanometres: multiply them by 10"),
        (1 / 8, "model space: multiply them by 8"),
        (1.8897, "bohr"),
        (100, "picometres"),
        (0.01, "no angstrom"),
        (0, "one and the same place"),
        (3, "no angstrom"),
        (0.7, "no angstrom"),
    ],
)
@pytest.mark.parametrize(
    "x", [TEN, np.outer(np.arange(10), (3.3, 0.5, 0)) + [(0, 0.9, 0), (0, -0.9, 0)] * 5], ids=["helix", "strand"]
)
def test_units_that_are_not_angstrom(tmp_path, scale, says, x):
    lines = [line(i, p) for i, p in enumerate(np.round(scale * np.asarray(x), 3), 1)]
    found = read_structure(saved(tmp_path / "a.pdb", lines))
    assert says in complaint(Contig.parse("5/A3-8/5").motif, found)


@pytest.mark.parametrize("scale", [0.97, 1.0, 1.03])
def test_angstrom_are_angstrom(tmp_path, scale):
    motif = Contig.parse("5/A3-8/5").motif(read_structure(saved(tmp_path / "a.pdb", trace(scale * TEN))))
    assert motif.notes == ()


def test_a_mirror_image_is_said(tmp_path):
    found = read_structure(saved(tmp_path / "a.pdb", trace(TEN * (1, 1, -1))))
    assert "mirror" in Contig.parse("5/A1-10/5").motif(found).notes[0]


def with_gap(tmp_path, skipped: int):
    """A helix numbered without a gap, of which `skipped` residues are missing behind residue 19."""
    x = helix(60)
    return read_structure(saved(tmp_path / "a.pdb", trace(np.concatenate([x[:19], x[19 + skipped : 46]]))))


@pytest.mark.parametrize("skipped", [4, 6, 12, 25])
@pytest.mark.parametrize("group", ["", "@a"])
def test_a_gap_behind_numbers_that_go_on(tmp_path, skipped, group):
    found = with_gap(tmp_path, skipped)
    message = complaint(
        Contig.parse(f"5/A12-28{group}/5").motif if skipped < 20 else Contig.parse(f"5/A12-20{group}/5").motif, found
    )
    assert "A19 and A20" in message and "3.8" in message
    way = re.search(r"where the gap is, (\S+)", message)[1]
    motif = Contig.parse(f"5/{way}/5").motif(found)  # what is advised is accepted
    assert len(motif) == (17 if skipped < 20 else 9) and not motif.notes
    assert len(Contig.parse("5/A2-18/5").motif(found)) == 17  # beside the gap nothing is wrong


@pytest.mark.parametrize(
    ("contig", "says"),
    [
        ("A5-9/A15-19", "put 2-7"),
        ("A5-9/1/A15-19", "put 2-7"),
        ("A15-19/0-0/A5-9", "put 5-13"),
        ("A5-9@a/0-1/A15-19@a", "put 2-7"),
        ("A5-9@a/A30@b/A15-19@a/A31@b", "put 2-7"),
    ],
)
def test_segments_that_cannot_be_joined(tmp_path, contig, says):
    found = read_structure(saved(tmp_path / "a.pdb", trace(helix(40))))
    assert says in complaint(Contig.parse(contig).motif, found)


@pytest.mark.parametrize(
    "contig", ["A5-9/2/A15-19", "A5-9/A10-12", "A5-9@a/A15-19@b", "A5-9/0-0/A10", "A5-9/2-9/A15-19"]
)
def test_segments_that_can_be_joined(tmp_path, contig):
    found = read_structure(saved(tmp_path / "a.pdb", trace(helix(40))))
    assert Contig.parse(contig).motif(found).notes == ()


def test_lengths_that_are_too_short_are_said(tmp_path):
    found = read_structure(saved(tmp_path / "a.pdb", trace(helix(40))))
    (note,) = Contig.parse("A5-9/0-12/A15-19").motif(found).notes
    assert "fewer than 2 cannot" in note


@pytest.mark.parametrize("contig", ["A3/5/A9/5/A15", "A3/4/A8", "A2/1/A4/1/A6"])
def test_nanometres_are_known_without_neighbours(tmp_path, contig):
    """A file of a few residues far from each other along the chain."""
    numbers = [int(n) for n in re.findall(r"A(\d+)", contig)]
    found = {
        s: read_structure(saved(tmp_path / "a.pdb", [line(n, s * helix(20)[n]) for n in numbers])) for s in (0.1, 1)
    }
    assert "nanometres" in complaint(Contig.parse(contig).motif, found[0.1])
    assert len(Contig.parse(contig).motif(found[1])) == len(numbers)


@pytest.mark.parametrize("lost", [(9,), (9, 10, 11), (8, 13), (7, 8, 11, 12, 13)])
@pytest.mark.parametrize("how", ["absent", "without a C-alpha"])
def test_residues_that_are_missing(tmp_path, lost, how):
    lines = trace(helix(20))
    if how == "absent":
        lines = [text for i, text in enumerate(lines, 1) if i not in lost]
    else:
        lines = [text.replace(" CA ", " CB ") if i in lost else text for i, text in enumerate(lines, 1)]
    found = read_structure(saved(tmp_path / "a.pdb", lines))
    message = complaint(Contig.parse("3/A5-15/3").motif, found)
    way = re.search(r"in their place, (\S+)", message)[1]
    contig = Contig.parse(f"3/{way}/3")
    assert contig.reach == (17, 17) and len(contig.motif(found)) == 11 - len(lost) and not contig.motif(found).notes


@pytest.mark.parametrize(("step", "says"), [(4.6, "not at 3.8"), (1.2, "misplaced")])
def test_neighbours_that_are_oddly_placed(tmp_path, step, says):
    x = helix(20)
    x[10:] += (x[9] - x[10]) + step * (x[10] - x[9]) / np.linalg.norm(x[10] - x[9])
    found = read_structure(saved(tmp_path / "a.pdb", trace(x)))
    if step < 2:
        assert says in complaint(Contig.parse("A5-15").motif, found)
    else:
        assert says in Contig.parse("A5-15").motif(found).notes[0]


# contigs in RFdiffusion's writing

PLAIN = "10-40/A5-14/10-40"


@pytest.mark.parametrize(
    "text",
    [
        PLAIN,
        f"[{PLAIN}]",
        f"contigmap.contigs=[{PLAIN}]",
        f"'contigmap.contigs=[{PLAIN}]'",
        f"contigmap.contigs = [{PLAIN}]",
        f"contigs=[{PLAIN}]",
        f'["{PLAIN}"]',
        f"['{PLAIN}']",
        f"[ {PLAIN} ]",
        f'"{PLAIN}"',
        f" {PLAIN}\n",
        "10 - 40/A5-14/10-40",
        "10-40 / A5-14 / 10-40",
        "10-40, A5-14, 10-40",
        "10-40,A5-A14,10-40",
        "[10-40,A5-14,10-40]",
        "10\u201340/A5\u201314/10\u201340",
        "10\u221240/A5\u221214/10\u221240",
        "10 -40/A5- 14/10-40",
    ],
)
def test_contigs_of_rfdiffusion(text):
    assert str(Contig.parse(text)) == PLAIN


@pytest.mark.parametrize(
    "text",
    [
        "A5-14/0 B22-31",
        "A5-14/0 30-40",
        "A5-14/0/A22-31",
        "A5-14,0,A22-31",
        "[A5-14/0 B22-31]",
        "contigmap.contigs=[A1-10/0 50-60]",
        "10-20/A5-14/0/B3-9/10",
    ],
)
def test_chain_breaks_are_named(text):
    message = complaint(Contig.parse, text)
    assert "chain break" in message and "one chain" in message
    ways = re.search(r"\((\S+)\), or put a scaffold between them \((\S+)\)", message)
    assert all(Contig.parse(way).segments for way in ways.groups())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("contigmap.length=50-75", "--length 50-75"),
        ("[A5-14] [B5-14]", "one contig"),
        ("contigmap.contigs=[A5-14] contigmap.length=50-75", "one contig"),
        ("A5-14 B3-9", "parts have / between them"),
    ],
)
def test_contigs_with_something_else(text, says):
    assert says in complaint(Contig.parse, text)


@pytest.mark.parametrize("text", ["50-75", "contigmap.length=50-75", "[50-75]", "'50-75'", " 50 - 75 ", "50\u201375"])
def test_lengths_of_rfdiffusion(text):
    assert Contig.parse(PLAIN, text).lengths == (50, 75)


@pytest.mark.parametrize("text", ["0/A5-14/10", "10/A5-14/0", "0-0/A5-14/10", "3/A5-9/0-0/A10-14/4"])
def test_a_contig_that_was_shown_is_read_again(text):
    contig = Contig.parse(text)
    assert Contig.parse(str(contig)) == contig


# problem files whose columns are off

GOOD = [
    "REMARK 999 NAME   mine",
    "REMARK 999 INPUT      5  20",
    "REMARK 999 INPUT  A   5  14",
    "REMARK 999 INPUT     10  25",
    "REMARK 999 INPUT  A  22  31",
    "REMARK 999 INPUT      0 100",
    "REMARK 999 MINIMUM TOTAL LENGTH      40",
    "REMARK 999 MAXIMUM TOTAL LENGTH      100",
]
RIGHT = "5-20/A5-14/10-25/A22-31/0-100"


def shifted():
    """Every line of it, and every place in it, with a blank too many or too few."""
    for i, text in enumerate(GOOD):
        for j in range(len(text)):
            yield i, text[:j] + " " + text[j:]
            if text[j] == " ":
                yield i, text[:j] + text[j + 1 :]


def test_a_blank_too_many_or_too_few_is_refused_or_changes_nothing(tmp_path):
    body, tried, refused = trace(helix(40)), 0, 0
    for i, text in shifted():
        tried += 1
        file = saved(tmp_path / "p.pdb", [*GOOD[:i], text, *GOOD[i + 1 :], *body])
        try:
            found = read_problem(file)
        except InputError as error:
            refused += 1
            assert "\n" not in str(error)
        else:
            assert str(found.contig) == RIGHT and found.contig.lengths == (40, 100), text
    assert tried > 200 and refused > 100


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("REMARK 999 INPUT A  22  31", "'A' stands in column 18"),
        ("REMARK 999 INPUT\tA\t22\t31", "a tab"),
        ("REMARK 999 INPUT  A  22  31 a b", "column 31"),
        ("REMARK 999  INPUT  A  22  31", "column 12"),
        ("REMARK 999 INPUT  A  2231", "columns 20-23"),
        ("REMARK 999 INPUT     -5  20", "columns 20-23"),
        ("REMARK 999 INPUT  A  2x  31", "columns 20-23"),
        ("REMARK 999 INPUT      5", "columns 20-23"),
        ("REMARK 999 input  A  22  31", "column 12"),
    ],
)
def test_what_stands_in_the_wrong_column_is_named(tmp_path, text, says):
    assert says in complaint(read_problem, saved(tmp_path / "p.pdb", [*GOOD[:4], text, *GOOD[5:], *trace(helix(40))]))


@pytest.mark.parametrize("how", ["as it is", "CRLF", "byte-order mark", "gzip"])
def test_a_problem_file_however_it_is_dressed(tmp_path, how):
    text = problem_file(tmp_path / "p.pdb", helix(40)).read_text()
    (tmp_path / "q.pdb").write_bytes(DRESSED[how](text))
    found = read_problem(tmp_path / "q.pdb")
    assert found.name == "mine" and str(found.contig) == "5-20/A5-14/5-30" and len(found.motif) == 10


# entries of published problems


@pytest.mark.parametrize("name", ["5trv.pdb", "5TRV.PDB", "pdb5trv.ent", "5TRV_clean.pdb", "my-5trv-copy.pdb"])
def test_files_are_known_by_the_entrys_name(tmp_path, name):
    source = entries(tmp_path / "all") / "5trv.pdb"
    (tmp_path / name).write_bytes(source.read_bytes())
    (tmp_path / "5trv.png").write_bytes(b"picture")
    (tmp_path / "15trvx.pdb").write_bytes(b"another")
    for given in ([tmp_path], [tmp_path / name], [tmp_path / "all" / "1ycr.pdb", tmp_path / name]):
        (found,) = problems(["5trv_med"], given)
        assert found.name == "5TRV_med" and found.motif.sequence == published()["5TRV_med"].letters


def test_an_entry_as_mmcif(tmp_path):
    structure = read_structure(entries(tmp_path / "all") / "5trv.pdb")
    rows = [
        cif_row(r.number, p, label_comp_id=n, auth_comp_id=n)
        for r, p, n in zip(structure.residues, structure.x, _three(structure.sequence), strict=True)
    ]
    (tmp_path / "5trv.cif.gz").write_bytes(gzip.compress(cif(rows).encode()))
    (found,) = problems(["5TRV_long"], [tmp_path / "5trv.cif.gz"])
    assert np.abs(found.motif.x - problems(["5TRV_long"], [tmp_path / "all"])[0].motif.x).max() < 2e-3


def _three(sequence: str) -> list[str]:
    from deft.domains.protein.structure import THREE

    return [THREE[s] for s in sequence]


def test_another_entry_and_other_numbers_are_refused(tmp_path):
    folder = entries(tmp_path / "all")
    wrong = read_structure(folder / "5trv.pdb")
    write_pdb(tmp_path / "5trv.pdb", wrong.x, sequence="A" * len(wrong), first=wrong.residues[0].number)
    message = complaint(problems, ["5TRV_med"], [tmp_path / "5trv.pdb"])
    assert "is " + "A" * 21 in message and published()["5TRV_med"].letters in message and "download/5TRV.pdb" in message
    write_pdb(tmp_path / "5trv.pdb", wrong.x, sequence=wrong.sequence)  # renumbered from 1
    message = complaint(problems, ["5TRV_med"], [tmp_path / "5trv.pdb"])
    contig, lengths = re.search(r"--contig (\S+) --length (\S+)", message).groups()
    motif = Contig.parse(contig, lengths).motif(read_structure(tmp_path / "5trv.pdb"))
    assert motif.sequence == published()["5TRV_med"].letters and lengths == "86-86"
    assert "download/5TRV.pdb" in complaint(problems, ["5TRV_med"], [folder / "6e6r.pdb"])


def test_which_file_is_meant_must_be_clear(tmp_path):
    text = (entries(tmp_path / "all") / "5trv.pdb").read_bytes()
    (tmp_path / "5trv_a.pdb").write_bytes(text)
    (tmp_path / "5trv_b.pdb").write_bytes(text)
    assert "several files" in complaint(problems, ["5TRV_med"], [tmp_path])
    (tmp_path / "5trv.pdb").write_bytes(text)
    assert problems(["5TRV_med"], [tmp_path])[0].name == "5TRV_med"
    assert "entry 1YCR" in complaint(problems, ["1YCR"], [tmp_path])
    assert "5WN9, 1YCR" in complaint(problems, ["5WN9", "5TRV_med", "1YCR"], [tmp_path])


def test_the_definitions_are_those_of_the_benchmark():
    known = {
        "1YCR": "B19-27",
        "3IXT": "P254-277",
        "4ZYP": "A422-436",
        "5TPN": "A163-181",
        "5TRV": "A45-65",
        "5WN9": "A170-189",
        "6E6R": "A23-35",
        "6EXZ": "A557-571",
        "7MRX": "B25-46",
    }
    found = published()
    assert {p.entry: str(p.contig.segments[0]) for p in found.values()} == known and len(found) == 17
    assert all(len(p.letters) == p.contig.motif_length and p.contig.allowed()[1] <= 128 for p in found.values())
    assert {n: p.contig.lengths for n, p in found.items() if n.startswith("6")} == {
        "6E6R_short": (48, 48),
        "6E6R_med": (78, 78),
        "6E6R_long": (108, 108),
        "6EXZ_short": (50, 50),
        "6EXZ_med": (80, 80),
        "6EXZ_long": (110, 110),
    }
