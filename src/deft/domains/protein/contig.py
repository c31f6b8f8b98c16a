"""Contigs: in one line, which residues of a structure are kept as a motif and how much new scaffold goes between them.

`10-40/A163-181/10-40` is 10 to 40 new residues, residues 163 to 181 of chain A, 10 to 40 new residues. The parts,
separated by `/` (or `,`, as some benchmark tables have it), are

    10-40       scaffold of 10 to 40 residues          A163-181    motif: residues 163 to 181 of chain A (all of them)
    20          scaffold of 20 residues                A95         motif: one residue
                                                       A100B       motif: one residue with an insertion code

Segments may come in any order and directly after one another. A chain is one or more letters; other names are set off
by a colon (`1:163-181`). A number may be negative (`A-3-5`). A range has only residues without insertion code, so that
its length can be read off: if the structure has A100B between A100 and A101, a range across it is an error that says
how to write it (`A95-100/A100B/A101-105`), or how to put scaffold in its place (`A95-100/1-5/A101-105`).

The writing of RFdiffusion is read too: `[10-40/A163-181/10-40]`, `contigmap.contigs=[...]`, blanks around a dash. Its
chain breaks (a `0` before another chain) are refused, because what is made here is one chain; a scaffold of no residues
is written 0-0.

Before anything is drawn a motif is looked at: coordinates that cannot be angstrom, neighbours by number that are no
neighbours in space, and segments that their scaffold cannot join are errors, for no chain has such a motif.

Several motifs whose pose relative to one another is free are distinguished by a group,
`A16-35@a/10-25/A52-71@a/10-30/A89-108@b`: segments of one group keep their relative pose; groups may shift against each
other, but keep their orientation. Without groups all segments are one rigid motif.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from deft.core.random import generator
from deft.domains.protein.geometry import dihedrals
from deft.domains.protein.structure import STEP, Residue, Structure, named
from deft.errors import InputError

MAX_LENGTH = 128
"""Longest chain that the bundled prior makes."""

_SEGMENT = re.compile(
    r"(?:([A-Za-z]+)|([^\s:/,@]+):)(-?\d{1,7})([A-Za-z]?)(?:-(?:\1)?(-?\d{1,7})([A-Za-z]?))?(?:@(\w+))?"
)
_SCAFFOLD = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?")
_KEY = re.compile(r"(?:contigmap\.)?(contigs|length|contig)\s*=\s*")
_DASHES = str.maketrans("\u2010\u2011\u2012\u2013\u2014\u2212", "------")

BROKEN, STRETCHED, SHORT = 5.0, (2.7, 4.3), 2.0
"""C-alphas of neighbours, angstrom: farther apart than the first or nearer than the last they are none; outside the
middle it is said."""
LONGEST_STEP = 3.9
"""Angstrom that a chain covers a residue, at most, if all of it is stretched."""


@dataclass(frozen=True)
class Scaffold:
    """From `low` to `high` new residues."""

    low: int
    high: int

    def __str__(self) -> str:
        # a bare 0 is a chain break elsewhere
        return f"{self.low}-{self.high}" if self.low < self.high or not self.high else str(self.low)


@dataclass(frozen=True)
class Segment:
    """Residues first ... last of a chain; one with an insertion code stands alone. group: "" if the contig has none."""

    chain: str
    first: int
    last: int
    insertion: str = ""
    group: str = ""

    @property
    def residues(self) -> list[Residue]:
        return [Residue(self.chain, n, self.insertion) for n in range(self.first, self.last + 1)]

    def __str__(self) -> str:
        chain = self.chain if self.chain.isalpha() else f"{self.chain}:"
        tail = f"-{self.last}" if self.last > self.first else self.insertion
        return f"{chain}{self.first}{tail}" + (f"@{self.group}" if self.group else "")


@dataclass(frozen=True)
class Placement:
    """A contig with its scaffold lengths drawn.

    positions: [m] places of the motif residues in the new chain, from 0, in the order of `Contig.residues`.
    groups: [m] the number of each one's group. length: of the new chain. scaffolds: the lengths drawn.
    """

    positions: np.ndarray
    groups: np.ndarray
    length: int
    scaffolds: tuple[int, ...]

    @property
    def mask(self) -> np.ndarray:
        """bool [length], true on the motif."""
        mask = np.zeros(self.length, bool)
        mask[self.positions] = True
        return mask


@dataclass(frozen=True)
class Motif:
    """Motif residues of a structure: x float32 [m, 3] in angstrom, groups [m], sequence of m letters. notes: what a
    user should know."""

    x: np.ndarray
    groups: np.ndarray
    sequence: str
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True)
class Contig:
    """parts: scaffolds and segments in order. lengths: the total length must lie in this range; None for any.

    >>> contig = Contig.parse("10-40/A163-181/10-40", "50-75")
    >>> print(contig, contig.lengths, contig.motif_length)
    10-40/A163-181/10-40 (50, 75) 19
    >>> placement = contig.draw(0)
    >>> 50 <= placement.length <= 75 and placement.length == sum(placement.scaffolds) + 19
    True
    """

    parts: tuple[Scaffold | Segment, ...]
    lengths: tuple[int, int] | None = None

    def __str__(self) -> str:
        return "/".join(str(p) for p in self.parts)

    @classmethod
    def parse(cls, text: str, lengths: str | int | tuple[int, int] | None = None) -> Contig:
        """Read a contig, and perhaps the range of its total length ("50-75", 60 or (50, 75)).

        Raises:
            InputError: a part that is neither scaffold nor motif, no motif, a residue twice, groups for some segments
                only, or no choice of scaffold lengths that gives a total length in the range.
        """
        contig = cls(tuple(_part(p, text) for p in _split(text)), None if lengths is None else _range(lengths))
        contig._check(text)
        return contig

    def of_length(self, lengths: str | int | tuple[int, int]) -> Contig:
        """The same parts with another total length."""
        contig = replace(self, lengths=_range(lengths))
        contig._check(str(self))
        return contig

    @property
    def scaffolds(self) -> list[Scaffold]:
        return [p for p in self.parts if isinstance(p, Scaffold)]

    @property
    def segments(self) -> list[Segment]:
        return [p for p in self.parts if isinstance(p, Segment)]

    @property
    def residues(self) -> list[Residue]:
        """The motif's residues, in the order of the contig."""
        return [r for s in self.segments for r in s.residues]

    @property
    def motif_length(self) -> int:
        return sum(s.last - s.first + 1 for s in self.segments)

    @property
    def groups(self) -> np.ndarray:
        """[m], the group of each motif residue, numbered in order of appearance."""
        names = list(dict.fromkeys(s.group for s in self.segments))
        return np.array([names.index(s.group) for s in self.segments for _ in s.residues], np.int64)

    @property
    def reach(self) -> tuple[int, int]:
        """Least and greatest total length that the scaffolds allow, whatever `lengths` says."""
        return self.motif_length + sum(s.low for s in self.scaffolds), self.motif_length + sum(
            s.high for s in self.scaffolds
        )

    def _check(self, text: str) -> None:
        segments, (least, most) = self.segments, self.reach
        if not segments:
            raise InputError(f"contig {text!r} has no motif: give a chain and residues, such as A163-181")
        seen: set[Residue] = set()
        for segment in segments:
            again = [r for r in segment.residues if r in seen]
            if again:
                raise InputError(
                    f"contig {text!r} has residue {again[0]} twice ({segment} overlaps an earlier segment): name each"
                    " residue once"
                )
            seen.update(segment.residues)
        if len({bool(s.group) for s in segments}) > 1:
            bare = next(s for s in segments if not s.group)
            raise InputError(
                f"contig {text!r} names groups, but {bare} has none: give every segment one ({bare}@a), or none"
            )
        if self.lengths is not None and (self.lengths[0] > most or self.lengths[1] < least):
            raise InputError(
                f"contig {text!r} does not add up: with {self.motif_length} motif residues its scaffolds make chains of"
                f" {least} to {most}, the total length is to be {self.lengths[0]} to {self.lengths[1]}"
            )

    def allowed(self, max_length: int = MAX_LENGTH) -> tuple[int, int]:
        """The total lengths that can be drawn, or an `InputError` if some of those asked for are longer than the
        prior's longest chain."""
        (least, most), (low, high) = self.reach, self.lengths or self.reach
        least, most = max(least, low), min(most, high)
        if most > max_length:
            mend = (
                f"give a total length of {least}-{max_length}"
                if least <= max_length
                else "shorten it, or use a prior for longer chains"
            )
            raise InputError(
                f"contig {str(self)!r} makes chains of {least} to {most} residues, the prior at most {max_length}:"
                f" {mend}"
            )
        return least, most

    def draw(self, seed: int | torch.Generator, *, max_length: int = MAX_LENGTH) -> Placement:
        """Draw the scaffold lengths: every combination with an allowed total length is equally likely.

        That is what drawing each scaffold uniformly and trying again until the total fits would give. The same seed
        gives the same placement.
        """
        low, high = self.allowed(max_length)
        g = seed if isinstance(seed, torch.Generator) else generator(seed)
        room, drawn = (low - self.motif_length, high - self.motif_length), []
        ways = _ways(self.scaffolds, room)
        total = 0
        for scaffold, rest in zip(self.scaffolds, ways, strict=True):
            options = range(scaffold.low, scaffold.high + 1)
            weight = np.array([rest.get(total + n, 0) for n in options], np.float64).cumsum()
            u = float(torch.rand((), generator=g, dtype=torch.float64)) * weight[-1]
            drawn.append(options[int(np.searchsorted(weight, u, side="right"))])
            total += drawn[-1]
        return self._place(drawn)

    def _place(self, scaffolds: list[int]) -> Placement:
        lengths, start = iter(scaffolds), 0
        positions: list[int] = []
        for part in self.parts:
            if isinstance(part, Scaffold):
                start += next(lengths)
            else:
                size = part.last - part.first + 1
                positions += range(start, start + size)
                start += size
        return Placement(np.array(positions, np.int64), self.groups, start, tuple(scaffolds))

    def motif(self, structure: Structure) -> Motif:
        """The motif's C-alphas in this structure.

        Raises:
            InputError: a chain or residue is not there, a residue has no C-alpha, a range skips residues with insertion
                codes, the coordinates are no angstrom, or the motif cannot be part of a chain: neighbours in it are too
                far apart.
        """
        for segment in self.segments:
            _check_segment(segment, structure)
        structure.check_unit()
        rows = [structure.place[r] for r in self.residues]
        _check_places(self, structure)
        notes = (*_check_steps(self, structure), *_check_joints(self, structure), *_check_hand(self, structure))
        return Motif(structure.x[rows], self.groups, "".join(structure.sequence[i] for i in rows), notes)


def _ways(scaffolds: list[Scaffold], room: tuple[int, int]) -> Iterator[dict[int, int]]:
    """For each scaffold in turn: total so far (with it) -> number of choices of the later ones that end within
    `room`."""
    rest = [dict.fromkeys(range(room[0], room[1] + 1), 1)]
    for scaffold in reversed(scaffolds[1:]):
        after, before = rest[-1], {}
        for start in range(room[1] + 1):
            count = sum(after.get(start + n, 0) for n in range(scaffold.low, scaffold.high + 1))
            if count:
                before[start] = count
        rest.append(before)
    return iter(rest[::-1][: len(scaffolds)])


def _split(text: str) -> list[str]:
    """The parts of a contig, out of the writings that are in use."""
    bare = text.strip().strip("'\"").strip().translate(_DASHES)
    found = _KEY.match(bare)
    if found:
        if found[1] == "length":
            raise InputError(
                f"{text!r} is a total length: give it as --length {bare[found.end() :]}, and the contig by itself"
            )
        bare = bare[found.end() :]
    bare = bare.strip("'\" ")
    if bare[:1] in "[(" and bare[-1:] in "])":
        bare = bare[1:-1].strip("'\" ")
    if "[" in bare or "=" in bare:
        raise InputError(
            f"cannot read contig {text!r}: one contig is wanted, such as 10-40/A163-181/10-40, without other settings"
        )
    parts = [re.sub(r"\s*-\s*", "-", p.strip()) for p in re.split("[/,]", bare)]
    for i, part in enumerate(parts):
        breaks = re.fullmatch(r"0\s+(\S.*)", part)
        if breaks or (part == "0" and 0 < i < len(parts) - 1):
            rest = [*([breaks[1]] if breaks else []), *parts[i + 1 :]]
            before, after = "/".join(parts[:i]), "/".join(rest)
            raise InputError(
                f"contig {text!r} has a 0 between its parts, which is a chain break in RFdiffusion's writing: chain "
                "breaks are not supported, what is made is one chain. "
                f"Join the parts ({before}/{after}), or put a scaffold between them ({before}/5-20/{after})"
            )
    return ["0-0" if p == "0" else p for p in parts]


def _part(text: str, whole: str) -> Scaffold | Segment:
    if not text:
        raise InputError(f"contig {whole!r} has an empty part: give lengths and segments such as 10-40/A163-181/10-40")
    found = _SCAFFOLD.fullmatch(text)
    if found:
        low = int(found[1])
        high = int(found[2] or low)
        if high < low:
            raise InputError(f"scaffold {text!r} of contig {whole!r} runs backwards: write {high}-{low}")
        return Scaffold(low, high)
    found = _SEGMENT.fullmatch(text)
    if not found:
        hint = (
            "parts have / between them, and chain breaks are not supported"
            if re.search(r"\s", text)
            else "a scaffold is 10-40 or 20, a motif A163-181 or A95"
        )
        raise InputError(f"cannot read {text!r} in contig {whole!r}: {hint}")
    chain, first, code, last, last_code, group = (
        found[1] or found[2],
        int(found[3]),
        found[4],
        found[5],
        found[6],
        found[7],
    )
    if last is not None and (code or last_code):
        raise InputError(
            f"{text!r} in contig {whole!r} is a range with an insertion code: name such residues one by one,"
            f" {chain}{first}{code or 'A'}"
        )
    end = first if last is None else int(last)
    if end < first:
        raise InputError(f"motif {text!r} of contig {whole!r} is empty: it ends ({end}) before it begins ({first})")
    return Segment(chain, first, end, code or "", group or "")


def _range(lengths: str | int | tuple[int, int]) -> tuple[int, int]:
    if isinstance(lengths, str):
        bare = _KEY.sub("", lengths.strip().strip("'\"").translate(_DASHES), count=1).strip("'\"[] ")
        found = _SCAFFOLD.fullmatch(re.sub(r"\s*-\s*", "-", bare))
        if not found:
            raise InputError(f"cannot read the total length {lengths!r}: give a range such as 50-75, or one number")
        lengths = (int(found[1]), int(found[2] or found[1]))
    low, high = (lengths, lengths) if isinstance(lengths, int) else lengths
    if not 0 < low <= high:
        raise InputError(
            f"a total length of {low} to {high} is not a range: give the smaller number first, such as 50-75"
        )
    return low, high


def _check_segment(segment: Segment, structure: Structure) -> None:
    if segment.chain not in structure.chains:
        near = [c for c in structure.chains if c.lower() == segment.chain.lower()]
        hint = f": did you mean {replace(segment, chain=near[0])}?" if near else ""
        raise InputError(
            f"motif {segment} needs chain {segment.chain!r}, {structure.source} has {named(structure.chains)}{hint}"
        )
    without = [r for r in segment.residues if r in structure.missing]
    if without:
        raise InputError(
            f"motif {segment}: no C-alpha for {named(without)} in {structure.source}; "
            f"{_around(segment, structure) or 'choose a segment without a gap'}"
        )
    absent = [r for r in segment.residues if r not in structure.place]
    if absent:
        here = [r.number for r in structure.residues if r.chain == segment.chain]
        about = (
            f"its chain {segment.chain} runs from {min(here)} to {max(here)}, perhaps with gaps"
            if here
            else f"its chain {segment.chain} has none"
        )
        way = _around(segment, structure)
        raise InputError(
            f"motif {segment}: no residue {named(absent)} in {structure.source} ({about})" + (f": {way}" if way else "")
        )
    inside = [
        r
        for r in structure.residues
        if r.chain == segment.chain and r.insertion and segment.first <= r.number < segment.last
    ]
    if inside and segment.last > segment.first:
        at = inside[0].number
        front, back = replace(segment, last=at), replace(segment, first=at + 1)
        codes = "/".join(
            str(replace(segment, first=at, last=at, insertion=r.insertion)) for r in inside if r.number == at
        )
        raise InputError(
            f"motif {segment} skips inserted residues of {structure.source} ({named(inside)}): name them, "
            f"{front}/{codes}/{back}, "
            f"or put scaffold in their place, {front}/{len(inside)}-{2 * len(inside) + 3}/{back}"
        )


def _around(segment: Segment, structure: Structure) -> str:
    """How to write a segment with scaffold in place of the residues it lacks, if they are inside of it."""
    there = [r.number for r in segment.residues if r in structure.place]
    if not there or there[0] != segment.first or there[-1] != segment.last:
        return ""
    parts, first = [], there[0]
    for a, b in itertools.pairwise(there):
        if b > a + 1:
            parts += [str(replace(segment, first=first, last=a)), str(b - a - 1)]
            first = b
    return f"put scaffold in their place, {'/'.join([*parts, str(replace(segment, first=first))])}"


def _check_places(contig: Contig, structure: Structure) -> None:
    """Refuse two residues of one pose at one place; neighbours in a segment are `_check_steps`' matter."""
    residues, groups = contig.residues, contig.groups
    x = np.asarray(structure.x[[structure.place[r] for r in residues]], np.float64)
    near = np.linalg.norm(x[:, None] - x[None], axis=-1) < SHORT
    apart = np.subtract.outer(np.arange(len(x)), np.arange(len(x)))
    segment = np.repeat(np.arange(len(contig.segments)), [len(s.residues) for s in contig.segments])
    near &= (groups[:, None] == groups[None]) & ((apart < -1) | ((apart < 0) & (segment[:, None] != segment[None])))
    if near.any():
        i, j = np.argwhere(near)[0]
        raise InputError(
            f"the C-alphas of {residues[i]} and {residues[j]} in {structure.source} are "
            f"{np.linalg.norm(x[i] - x[j]):.2g} angstrom apart, nearer than two can be: "
            "its coordinates are in other units (nanometres are multiplied by 10), or one of the two is misplaced "
            "and must be left out"
        )


def _check_steps(contig: Contig, structure: Structure) -> list[str]:
    """Notes on neighbours inside the segments; an `InputError`, if they cannot be neighbours."""
    odd = []
    for segment in contig.segments:
        x = np.asarray(structure.x[[structure.place[r] for r in segment.residues]], np.float64)
        for i, d in enumerate(np.linalg.norm(np.diff(x, axis=0), axis=1)):
            a, b = segment.residues[i], segment.residues[i + 1]
            if d < SHORT:
                raise InputError(
                    f"motif {segment}: the C-alphas of {a} and {b} in {structure.source} are {d:.1f} angstrom apart, "
                    f"those of neighbours {STEP}: one is misplaced, leave it out"
                )
            if d > BROKEN:
                fewest = int(np.ceil(d / STEP)) - 1
                cut = f"{replace(segment, last=a.number)}/{fewest}-{2 * fewest + 3}/{replace(segment, first=b.number)}"
                raise InputError(
                    f"motif {segment}: the C-alphas of {a} and {b} in {structure.source} are {d:.1f} angstrom apart, "
                    f"those of neighbours {STEP}: residues are missing there though "
                    f"the numbers go on, and no chain has such a motif. Split it where the gap is, {cut}"
                )
            if not STRETCHED[0] <= d <= STRETCHED[1]:
                odd.append(f"{a} to {b} {d:.1f}")
    return (
        [
            f"{structure.source}: C-alphas of neighbours in the motif are not at {STEP} angstrom ({named(odd)}), which"
            " the prior will not follow"
        ]
        if odd
        else []
    )


def _check_joints(contig: Contig, structure: Structure) -> list[str]:
    """Notes on scaffolds between segments of one pose that are too short for some of the lengths; an `InputError`, if
    for all."""
    notes: list[str] = []
    earlier: dict[str, tuple[Segment, int, int]] = {}  # group -> its last segment, fewest and most residues since
    for part in contig.parts:
        size = (part.low, part.high) if isinstance(part, Scaffold) else (part.last - part.first + 1,) * 2
        if isinstance(part, Segment) and part.group in earlier:
            before, low, high = earlier[part.group]
            a, b = before.residues[-1], part.residues[0]
            d = float(
                np.linalg.norm(
                    np.asarray(structure.x[structure.place[a]], np.float64) - structure.x[structure.place[b]]
                )
            )
            fewest = _fewest(d)
            if high < fewest or (high == 0 and d < SHORT):
                between = f"at most {high} residues are" if high else "nothing is"
                wanted = f"{fewest}-{2 * fewest + 3}" if high < fewest else "5-20"
                raise InputError(
                    f"contig {str(contig)!r}: {a} and {b} are {d:.1f} angstrom apart in {structure.source}, and "
                    f"{between} between them, which cannot join them: "
                    f"put {wanted} between {before} and {part}"
                )
            if low < fewest:
                notes.append(
                    f"{a} and {b} are {d:.1f} angstrom apart: of the {low} to {high} residues between them fewer than "
                    f"{fewest} cannot join them"
                )
        earlier = {g: (q, n + size[0], m + size[1]) for g, (q, n, m) in earlier.items()}
        if isinstance(part, Segment):
            earlier[part.group] = (part, 0, 0)
    return notes


def _check_hand(contig: Contig, structure: Structure) -> list[str]:
    """A note, if the motif's helices are left-handed: coordinates of a mirror image."""
    left = right = 0
    for segment in contig.segments:
        x = np.asarray(structure.x[[structure.place[r] for r in segment.residues]], np.float64)
        if len(x) < 4:
            continue
        turn, reach = np.degrees(dihedrals(torch.from_numpy(x)).numpy()), np.linalg.norm(x[3:] - x[:-3], axis=1)
        compact = (reach > 4.5) & (reach < 6.5)
        left, right = (
            left + int((compact & (turn < -20) & (turn > -80)).sum()),
            right + int((compact & (turn > 20) & (turn < 80)).sum()),
        )
    return (
        [
            f"{structure.source}: the motif's helix is left-handed, as in a mirror image: one axis may have the wrong"
            " sign"
        ]
        if left >= 4 and left > right
        else []
    )


def _fewest(distance: float) -> int:
    """Residues that it takes at least to go this far from one C-alpha to another."""
    return 0 if distance <= BROKEN else max(1, int(np.ceil(distance / LONGEST_STEP)) - 1)
