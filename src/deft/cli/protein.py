"""deft protein"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click
import torch
from click.core import ParameterSource
from tqdm import tqdm

from deft.cli import common
from deft.cli.common import Name, Output, json_option, out_option, overwrite_option
from deft.cli.group import NearestGroup, ResumingCommand
from deft.cli.numbers import Angstrom, Number, Temperature
from deft.core.grid import SPACINGS
from deft.errors import CheckpointError, InputError, unknown
from deft.io.claims import claimed
from deft.io.files import make_folder, on_disk_together, write_json, write_text
from deft.io.folders import Outputs, own_folder
from deft.methods import get_method
from deft.values import Count, CountOrNone, Range, Rows, Samples, Seed, Share, Steps

if TYPE_CHECKING:  # the extra `protein` is needed when a command runs, not for `deft --help`
    from deft.bench.success_report import SuccessReport
    from deft.domains.protein.plan import ChainPlan
    from deft.domains.protein.prior import ChainPrior
    from deft.domains.protein.problems import Problem
    from deft.kinds.cases import Cases
    from deft.kinds.domain import Domain
    from deft.learned import Learned

METHODS = ("deft", "pigdm", "dps", "replacement", "prior")
TEMPERATURE, CLEARANCE, TIGHT = 0.6, 4.0, 0.3
"""Defaults of --temperature, --clearance and --sigma-y (docs/protein.md)."""
BENCHED = ("deft", "deft-4", "pigdm", "dps", "replacement", "prior")
"""Entries of a benchmark by default."""

SHORTEST = 40
"""Residues of the shortest chains the bundled prior was trained on."""

PANELS = 24
"""Most scaffolds in sheet.png."""
COUNT = 20
"""Problems of a benchmark by default."""

pdb_option = click.option(
    "--pdb",
    multiple=True,
    type=common.FilePath(),
    help=(
        "The file of the PDB entry that a published problem is from (5TPN.pdb or .cif, .gz too), or a folder of such"
        " files. May be repeated."
    ),
)


SCAFFOLDS = Outputs(
    "scaffold", ("table.csv", "scaffold.json", "view.html", "sheet.png"), "scaffold.json",
    lambda about: [s.get("file") for s in about.get("scaffolds", ())], r"scaffold-\d{3,}\.pdb",
)  # fmt: skip


def given_by_user(name: str) -> bool:
    """Whether an option of this command was given, and is not its default."""
    return click.get_current_context().get_parameter_source(name) is not ParameterSource.DEFAULT


@click.group(cls=NearestGroup)
def protein() -> None:
    """Protein backbones: new chains around a motif (the extra `protein`)."""


@protein.command(name="problems")
@json_option
def list_problems(as_json: bool) -> None:
    """List motif-scaffolding problems: of held-out chains, and the published ones."""
    from deft.domains.protein.problems import FETCH, held_out, problems, published

    output = Output(as_json)
    rows = [
        {
            "name": p.name,
            "contig": str(p.contig),
            "lengths": list(p.contig.lengths or p.contig.reach),
            "motif": len(p.motif),
            "family": p.family,
            "entry": None,
        }
        for p in problems()
    ]
    needs = [
        {
            "name": p.name,
            "contig": str(p.contig),
            "lengths": list(p.contig.lengths or p.contig.reach),
            "motif": len(p.letters),
            "family": p.entry,
            "entry": p.entry,
        }
        for p in published().values()
    ]
    say_problems(
        output,
        f"motifs of held-out chains ({len(rows)} of {len(held_out())}, by the chain's name), ready to use:",
        rows,
    )
    output.say(f"\nnext: deft protein scaffold --problem {rows[0]['name']} --out scaffolds\n")
    say_problems(
        output, "published motifs (RFdiffusion benchmark), for which the file of their PDB entry is needed:", needs
    )
    output.say(
        f"\nnext: fetch {FETCH.format(needs[0]['entry'])}, then deft protein scaffold --problem {needs[0]['name']} "
        f"--pdb {needs[0]['entry']}.pdb --out scaffolds"
    )
    output.result({"problems": rows + needs})


def say_problems(output: Output, title: str, rows: list[dict[str, Any]]) -> None:
    output.say(title)
    output.say(f"{'problem':<11} {'contig':<23} {'length':>8}  motif")
    for r in rows:
        low, high = r["lengths"]
        output.say(f"{r['name']:<11} {r['contig']:<23} {f'{low}-{high}' if low < high else low:>8}  {r['motif']:>5}")


@protein.command()
@click.option("--motif", "source", type=common.FilePath(), help="A PDB or mmCIF file (.gz too) that holds the motif.")
@click.option(
    "--contig", help="Which residues are kept, and how much goes between: 10-40/A163-181/10-40 (docs/protein.md)."
)
@click.option("--length", help="Total length: 60-80 or 70.  [default: what the contig allows, or the problem's own]")
@click.option(
    "--problem",
    type=common.SOURCE,
    help="Instead of --motif and --contig: a problem's name (`deft protein problems`), or a problem file of Genie 2.",
)
@pdb_option
@click.option(
    "-n",
    "--samples",
    type=Number(Samples),
    default=8,
    show_default=True,
    help="How many scaffolds to draw; each has lengths of its own.",
)
@click.option(
    "--run",
    type=common.FilePath(),
    help="Your own h: h.safetensors, or its folder (benchmarks/train_scaffold.py).",
)
@click.option(
    "--size", type=Name("size", ("9", "4")), help="Which bundled h: 9 or 4 % of the prior's parameters.  [default: 9]"
)
@click.option(
    "--prior",
    "prior_name",
    type=common.SOURCE,
    default="backbone",
    show_default=True,
    help="The bundled prior, or a file of your own (benchmarks/train_backbone.py).",
)
@click.option("--method", type=Name("method", METHODS), default="deft", show_default=True)
@click.option(
    "--set",
    "pairs",
    multiple=True,
    metavar="KEY=NUMBER",
    help="A setting of the method: zeta (dps, .3), data_std (pigdm, 1), scale (deft, 1). May be repeated.",
)
@click.option(
    "--steps", type=Number(Steps), default=100, show_default=True, help="Calls of the prior for each scaffold."
)
@click.option(
    "--eta", type=Number(Share), default=1.0, show_default=True, help="Noise of the ddim sampler: 0 none, 1 ancestral."
)
@click.option(
    "--temperature",
    type=Number(Temperature),
    default=TEMPERATURE,
    show_default=True,
    help=(
        "Times the sampler's noise: 1 samples the posterior, less trades variety for chains of which the prior is sure."
    ),
)
@click.option(
    "--clearance",
    type=Number(Angstrom),
    default=CLEARANCE,
    show_default=True,
    help="Keep residues that are no neighbours at least so many angstrom apart; 0 leaves them to the prior.",
)
@click.option(
    "--spacing", type=Name("spacing", SPACINGS), default="log-snr", show_default=True, help="Of the time grid."
)
@click.option(
    "--sigma-y",
    type=Number(Annotated[float, Range(above=0, max=1000)]),
    default=TIGHT,
    show_default=True,
    help=(
        "How tightly the motif is held: deviation of its coordinates in angstrom. .1 holds it to .12, .3 to .4 angstrom"
        " RMSD, and leaves more room where motif and scaffold meet."
    ),
)
@click.option("--seed", type=Number(Seed), default=0, show_default=True)
@click.option("--batch", type=Number(Rows), default=16, show_default=True, help="Scaffolds drawn at once.")
@out_option("scaffolds")
@common.device_option
@overwrite_option
@json_option
def scaffold(**asked: Any) -> None:
    """Draw chains of C-alphas that hold a motif.

    \b
    deft protein scaffold --problem 2EJ8A -n 8 --out scaffolds
    deft protein scaffold --problem 5TPN --pdb 5tpn.pdb --out scaffolds
    deft protein scaffold --motif 5tpn.pdb --contig "10-40/A163-181/10-40" --length 60-80 --out scaffolds

    Writes scaffold-000.pdb, ... (B-factor 1 on the motif, which lies where it does in the file given), table.csv,
    scaffold.json, sheet.png and view.html, in which the chains can be turned with the mouse.
    """
    given = Scaffolds(**asked)
    output = Output(given.as_json)
    where = common.get_device(given.device)
    given.check()
    given.draw(output, where)


@dataclass(frozen=True)
class Scaffolds:
    """What the options of `deft protein scaffold` say; field by field as above."""

    source: Path | None
    contig: str | None
    length: str | None
    problem: str | None
    pdb: tuple[Path, ...]
    samples: int
    run: Path | None
    size: str | None
    prior_name: str
    method: str
    pairs: tuple[str, ...]
    steps: int
    eta: float
    temperature: float
    clearance: float
    spacing: str
    sigma_y: float
    seed: int
    batch: int
    out: Path
    device: str | None
    overwrite: bool
    as_json: bool

    def check(self) -> None:
        """Options that are out of range, or do not go together."""
        if self.samples < 1:
            raise InputError(f"-n must be at least 1, got {self.samples}")
        if not 0 < self.sigma_y < math.inf:
            raise InputError(f"--sigma-y is a deviation in angstrom above 0, got {self.sigma_y}")
        if self.method != "deft" and (self.run is not None or self.size is not None):
            raise InputError(
                f"--run and --size choose a learned h, which {self.method} has none of: leave them out, or take"
                " --method deft"
            )
        if self.run is not None and self.size is not None:
            raise InputError("--run is your own h and --size a bundled one: give one of the two")

    def plan(self) -> ChainPlan:
        """The method with its settings, without an h."""
        from deft.domains.protein.plan import ChainPlan

        # there is no noise to cool
        uncooled = self.eta == 0 and not given_by_user("temperature")
        return ChainPlan(
            self.method,
            common.parse_settings(self.pairs),
            steps=self.steps,
            eta=self.eta,
            spacing=self.spacing,
            temperature=1.0 if uncooled else self.temperature,
            clearance=self.clearance,
        )

    def draw(self, output: Output, where: torch.device) -> None:
        """Read, draw, write."""
        from deft.domains.protein.chains import UNIT
        from deft.domains.protein.place import check_groups, observe_placements

        plan = self.plan()
        chosen = find_problem(self.source, self.contig, self.length, self.problem, self.pdb, output)
        check_groups(chosen.contig)
        prior = load_backbone_prior(self.prior_name, where)
        common.check_batch(min(self.batch, self.samples) if self.batch > 0 else self.batch, prior.event_shape)
        placements = self.place(chosen, prior.event_shape[0], output)
        if self.method == "deft":
            fitted, h_name = load_motif_h(self.run, self.size, prior, self.prior_name)
            plan = replace(plan, h=fitted.to(where), h_name=h_name)
        made = plan.make(prior)  # what cannot be made is said before anything is drawn
        obs = observe_placements(chosen.motif, placements, self.sigma_y / UNIT).to(where)
        with own_folder(self.out, SCAFFOLDS, overwrite=self.overwrite, inputs=(self.source, self.run, *self.pdb)):
            work = Work(output, self.out, chosen, placements, self.about(chosen, plan), plan.calls(1))
            self.fill(output, work, prior, made, obs)

    def fill(self, output: Output, work: Work, prior: ChainPrior, made: tuple[Any, Any, Any], obs: Any) -> None:
        """Draw and write, in the folder --out."""
        try:
            work.draw(prior, made, obs, self.seed, self.batch)
        # Ctrl-C, a sampler that diverged, no memory: what is there is measured and told before that is said
        except BaseException:
            if work.drawn:
                output.say(f"stopped after {len(work.drawn)} of {self.samples} scaffolds; these are kept")
                work.finish(whole=False)
            raise
        output.result(work.finish())

    def place(self, chosen: Problem, longest: int, output: Output) -> list[Any]:
        """Where the motif lies in each chain, and how long it is."""
        from deft.domains.protein.place import draw_placements

        placements = draw_placements(chosen.contig, self.samples, self.seed, max_length=longest)
        shortest = min(p.length for p in placements)
        if shortest < 6:
            raise InputError(
                f"contig {str(chosen.contig)!r} makes chains of {shortest} residues: 6 at least can be measured,"
                f" {SHORTEST} and more are what the prior knows"
            )
        if shortest < SHORTEST:
            output.say(
                f"note: chains of {shortest} residues are shorter than those the bundled prior was trained on"
                f" ({SHORTEST} to {longest})"
            )
        return placements

    def about(self, chosen: Problem, plan: ChainPlan) -> dict[str, Any]:
        """What scaffold.json says of how they were drawn."""
        return {
            "problem": chosen.name,
            "motif": None if self.source is None else str(self.source),
            "pdb": [str(p) for p in self.pdb],
            "contig": str(chosen.contig),
            "lengths": list(chosen.contig.lengths or chosen.contig.reach),
            "prior": self.prior_name,
            "h": plan.h_name,
            "plan": plan.plan().config(),
            "samples": self.samples,
            "seed": self.seed,
            "sigma_y_angstrom": self.sigma_y,
            "temperature": plan.temperature,
            "clearance_angstrom": self.clearance,
            "batch": self.batch,
        }


@protein.command(cls=ResumingCommand)
@click.option(
    "--set",
    "which",
    type=Name("set", ("a", "b", "left-out", "validation")),
    default="a",
    show_default=True,
    help=(
        "a: motifs cut from held-out chains (test split); left-out: from relatives of the published problems' targets;"
        " b: the 17 published problems, with --pdb; validation: as a, from another split, to try settings on."
    ),
)
@pdb_option
@click.option(
    "--entry",
    "--arm",
    "entries",
    multiple=True,
    metavar="METHOD[:KEY=NUMBER,...]",
    help=(
        "A method and its settings, dps:zeta=1 for instance; deft-4 takes the smaller bundled h, tds, mcgdiff and"
        f" deft-smc particles. May be repeated.  [default: {', '.join(BENCHED)}]"
    ),
)
@click.option(
    "--run",
    "runs",
    multiple=True,
    type=common.FilePath(),
    help="One more entry with your own h; several seeds of a fit are several runs. May be repeated.",
)
@click.option("-n", "--samples", type=Number(Samples), default=4, show_default=True, help="Chains of each problem.")
@click.option(
    "--count", type=Number(Count), default=COUNT, show_default=True, help="Problems of set a, left-out or validation."
)
@click.option(
    "--free",
    is_flag=True,
    help="Set a, left-out, validation: place and length are redrawn, as a designer has it, instead of the native's.",
)
@click.option("--prior", "prior_name", type=common.SOURCE, default="backbone", show_default=True)
@click.option("--steps", type=Number(Steps), default=100, show_default=True)
@click.option(
    "--temperature",
    type=Number(Temperature),
    default=1.0,
    show_default=True,
    help="Of the sampler's noise, for every entry alike.",
)
@click.option(
    "--clearance",
    type=Number(Angstrom),
    default=0.0,
    show_default=True,
    help="Angstrom, for every entry alike; 0 for none.",
)
@click.option(
    "--sigma-y",
    type=Number(Annotated[float, Range(above=0, max=1000)]),
    default=0.1,
    show_default=True,
    help="Deviation of the motif's coordinates in angstrom.",
)
@click.option(
    "--novelty",
    is_flag=True,
    help="Compare successes with the chains trained on (TM-score; a minute or more for each entry).",
)
@click.option(
    "--natives",
    "native_count",
    type=Number(CountOrNone),
    default=100,
    show_default=True,
    help="Native chains in the first row.",
)
@click.option("--seed", type=Number(Seed), default=0, show_default=True)
@click.option("--batch", type=Number(Rows), default=16, show_default=True)
@out_option("protein-benchmark")
@common.device_option
@json_option
def benchmark(**asked: Any) -> None:
    """Compare methods on motif problems: the same placements and noise for all.

    \b
    deft protein benchmark -n 4 --out bench
    deft protein benchmark --set validation --count 40 -n 1 --entry dps:zeta=0.3 --entry dps:zeta=1 --out tuning

    Writes report.md, report.json and success.png. Chains are kept in the folder as they are drawn: the same command
    goes on where it was stopped, and draws nothing twice.
    """
    given = Benchmark(**asked)
    output = Output(given.as_json)
    where = common.get_device(given.device)
    given.check()
    given.run(output, where)


@dataclass(frozen=True)
class Benchmark:
    """What the options of `deft protein benchmark` say; field by field as above."""

    which: str
    pdb: tuple[Path, ...]
    entries: tuple[str, ...]
    runs: tuple[Path, ...]
    samples: int
    count: int
    free: bool
    prior_name: str
    steps: int
    temperature: float
    clearance: float
    sigma_y: float
    novelty: bool
    native_count: int
    seed: int
    batch: int
    out: Path
    device: str | None
    as_json: bool

    def check(self) -> None:
        """Refuse options that do not go together, before anything is read."""
        within = (
            min(self.samples, self.count, self.native_count) >= 1
            and 0 < self.temperature <= 1
            and self.clearance >= 0
            and 0 < self.sigma_y < math.inf
        )
        if not within:
            raise InputError(
                "-n, --count and --natives are at least 1, --temperature above 0 and at most 1, --clearance at least 0"
                f" and --sigma-y above 0; got {self.samples}, {self.count}, {self.native_count},"
                f" {self.temperature:g}, {self.clearance:g} and {self.sigma_y:g}"
            )
        if self.which == "b":
            for name, given in (("--count", given_by_user("count")), ("--free", self.free)):
                if given:
                    raise InputError(
                        f"{name} is for motifs of held-out chains, and set b is the 17 published problems as they are:"
                        " leave it out"
                    )
        elif self.pdb:
            raise InputError(
                f"--pdb brings the entries of the published problems (--set b), which set {self.which} does not need:"
                " leave it out, or give --set b"
            )

    def run(self, output: Output, where: torch.device) -> None:
        """Draw what is not there yet, measure, write."""
        from deft.kinds.domain import find_domain

        domain = find_domain("protein")
        if self.which == "b":
            domain.cases(self.which, pdb=self.pdb, each=1)  # entries that are missing are said before a prior is read
        prior = load_backbone_prior(self.prior_name, where)
        common.check_batch(self.batch, prior.event_shape)
        plans = self.plans(prior, where)
        cases = self.cases(domain, prior.event_shape[0])
        make_folder(self.out)
        with claimed(self.out, what="benchmark"):
            self.fill(output, domain, cases, plans, prior, where)

    def fill(
        self, output: Output, domain: Domain, cases: Cases, plans: dict[str, ChainPlan], prior: ChainPrior,
        where: torch.device,
    ) -> None:  # fmt: skip
        """Draw, measure and write, in the folder --out."""
        from deft.bench.compare import compare
        from deft.bench.store import Store

        report = self.report(domain, cases, plans, output)

        def add(results: dict[str, Any]) -> None:
            report.add(results)
            output.say(report.say(list(results)[-1]))

        compare(
            plans,
            prior,
            cases,
            seed=self.seed,
            batch=self.batch,
            device=where,
            progress=common.bars(),
            store=Store(self.out),
            kind=cases.title,
            on_result=add,
        )
        if report.line:
            output.say(report.line)
        pictured = report.picture()
        output.say(f"note: {domain.note}")
        output.say(
            f"wrote {self.out}/report.md, {self.out}/report.json"
            + (
                f", {self.out}/success.png"
                if pictured
                else "; no success.png, which needs matplotlib: pip install 'deft-diffusion[compare]'"
            )
        )
        output.result({"out": str(self.out), "rows": report.rows})

    def plans(self, prior: ChainPrior, where: torch.device) -> dict[str, ChainPlan]:
        """Name of each entry -> how it draws."""
        found: dict[str, ChainPlan] = {}
        methods = self.entries or (() if self.runs else BENCHED)
        for method, run in [*((a, None) for a in methods), *(("deft", r) for r in self.runs)]:
            name = method if run is None else str(run)
            if name in found:
                raise InputError(f"two entries are called {name}: give each once")
            found[name] = make_plan(
                method, prior, self.prior_name, where, self.steps, self.temperature, self.clearance, run
            )
        return found

    def cases(self, domain: Domain, longest: int) -> Cases:
        from deft.domains.protein.chains import UNIT

        return domain.cases(
            self.which,
            count=self.count,
            placement="free" if self.free else "native",
            pdb=self.pdb,
            each=self.samples,
            seed=self.seed,
            max_length=longest,
            sigma_y=self.sigma_y / UNIT,
        )

    def report(self, domain: Domain, cases: Cases, plans: dict[str, ChainPlan], output: Output) -> SuccessReport:
        """The report with its first rows, those that are no entries."""
        from deft.bench.success_report import SuccessReport

        title = f"{len(cases.problems)} problems of set {self.which}, {self.samples} of each"
        output.say(
            f"{title}: {len(cases)} chains for each of {len(plans)} entries; chains are kept in {self.out}/chains"
        )
        clear = f"{self.clearance:g} Å" if self.clearance else "none"
        settings = (
            f"{self.steps} steps, DDIM (eta 1), temperature {self.temperature:g}, clearance {clear}, motif within"
            f" {self.sigma_y:g} Å, prior {self.prior_name}, seed {self.seed}"
        )
        about = {
            "set": self.which,
            "each": self.samples,
            "count": len(cases.problems),
            "free": self.free,
            "arms": {k: p.config() for k, p in plans.items()},
        }
        report = SuccessReport(
            domain,
            cases,
            self.out,
            title=title,
            settings=settings,
            about=about,
            references=self.native_count,
            batch=self.batch,
            known=self.novelty,
        )
        for name in report.references:
            output.say(report.say(name))
        return report


def make_plan(
    text: str,
    prior: ChainPrior,
    prior_name: str,
    where: torch.device,
    steps: int,
    temperature: float,
    clearance: float,
    run: Path | None = None,
) -> ChainPlan:
    """A plan from METHOD[:KEY=NUMBER,...]; deft-4 is DEFT with the smaller bundled h."""
    from deft.domains.protein.plan import MOTIF_METHODS, ChainPlan

    method, _, rest = text.partition(":")
    if method not in (*MOTIF_METHODS, "deft-4"):
        raise unknown("entry", method, (*MOTIF_METHODS, "deft-4"))
    name = "deft" if method == "deft-4" else method
    if get_method(name).draw is not None:  # particles' weights are for the posterior itself
        temperature, clearance = 1.0, 0.0
    settings = common.parse_settings(tuple(p for p in rest.split(",") if p))
    plan = ChainPlan(name, settings, steps=steps, temperature=temperature, clearance=clearance)
    if not plan.method.trained:
        return plan
    h, h_name = load_motif_h(run, "4" if method == "deft-4" else None, prior, prior_name)
    return replace(plan, h=h.to(where), h_name=h_name)


def find_problem(
    source: Path | None,
    contig: str | None,
    length: str | None,
    problem: str | None,
    pdb: tuple[Path, ...],
    output: Output,
) -> Problem:
    """What --motif and --contig, or --problem, ask for, with --length; what its file left open is said."""
    from deft.domains.protein.contig import Contig
    from deft.domains.protein.problems import Problem, problems, published, read_problem
    from deft.domains.protein.structure import read_structure

    if problem is not None:
        if source is not None or contig is not None:
            raise InputError(
                "--problem brings its own motif and contig: leave --motif and --contig out, or leave --problem out"
            )
        file = bool(Path(problem).suffix)
        if pdb and (file or problem.upper() not in {name.upper() for name in published()}):
            raise InputError(
                f"--pdb brings the entry of a published problem, and {problem} needs none: leave --pdb out (`deft "
                "protein problems` lists which is which)"
            )
        found = read_problem(problem) if file else problems([problem], pdb)[0]
        if length is not None:
            output.say(
                f"note: the lengths of {found.name} are "
                f"{'-'.join(map(str, found.contig.lengths or found.contig.reach))}: with --length {length} it is "
                "another problem"
            )
            found = replace(found, contig=found.contig.of_length(length))
    else:
        if pdb:
            raise InputError(
                "--pdb brings the entry of a published problem: give --problem NAME with it, or --motif FILE for a "
                "motif of your own"
            )
        if source is None or contig is None:
            raise InputError(
                'give --motif FILE.pdb with --contig "10-40/A163-181/10-40", or --problem NAME (`deft protein problems`'
                " lists them)"
            )
        wanted = Contig.parse(contig, length)
        structure = read_structure(source)
        motif = wanted.motif(structure)
        found = Problem(source.name.split(".")[0], wanted, motif, source.stem, notes=(*structure.notes, *motif.notes))
    for note in found.notes:
        output.say(f"note: {note}")
    return found


def load_backbone_prior(name: str, device: torch.device) -> ChainPrior:
    """--prior, if it is one of backbones."""
    from deft.domains.protein.prior import ChainPrior

    prior = common.find_prior(name, device)
    if not isinstance(prior, ChainPrior):
        raise InputError(
            f"the prior {name} makes samples of shape {tuple(prior.event_shape)}, not protein backbones: give --prior"
            " backbone, a file made by benchmarks/train_backbone.py, or a checkpoint of Genie v1"
        )
    return prior


def load_motif_h(run: Path | None, size: str | None, prior: ChainPrior, prior_name: str) -> tuple[Learned, str]:
    """(h, what to call it) of --run, or a bundled one."""
    from deft.domains.protein.place import bundled_h
    from deft.domains.protein.scaffold import load_scaffolder

    path = run or bundled_h(int(size or 9))
    if run is None and prior_name != "backbone":
        bundled = common.find_prior("backbone")
        if bundled.fingerprint() != prior.fingerprint():
            raise CheckpointError(
                f"the bundled h belongs to the prior backbone, and {prior_name} is another: give your own h with --run"
                " (benchmarks/train_scaffold.py), or --method pigdm"
            )
    h = load_scaffolder(path, prior)[0]
    return h.eval(), path.stem if run is None else str(run)


class Work:
    """Scaffolds as they are drawn, and what is written of them. drawn: traces in angstrom, in the pose of the motif
    given."""

    def __init__(
        self, output: Output, out: Path, problem: Problem, placements: list[Any], about: dict[str, Any], calls: float
    ):
        self.output, self.out, self.problem, self.placements, self.about, self.calls = (
            output,
            out,
            problem,
            placements,
            about,
            calls,
        )
        self.goals = [problem.goal(p) for p in placements]
        self.drawn: list[Any] = []
        self.seconds = 0.0

    def name(self, i: int) -> str:
        return f"scaffold-{i:03d}"

    def draw(self, prior: ChainPrior, made: tuple[Any, Any, Any], obs: Any, seed: int, batch: int) -> None:
        """Draw batch by batch, and write each batch's chains at once."""
        from deft.domains.protein.place import posed
        from deft.domains.protein.scaffold import draw_scaffolds, shortened

        h, sampler, grid = made
        n = len(self.placements)
        with tqdm(total=n * (len(grid) - 1), desc=f"{n} scaffolds", unit="step", disable=not common.bars()) as bar:
            for low in range(0, n, batch):
                rows = range(low, min(low + batch, n))
                lengths = [self.placements[i].length for i in rows]
                part = shortened(obs[torch.tensor(rows)], max(lengths))
                started = time.perf_counter()
                traces = draw_scaffolds(
                    prior,
                    h,
                    part,
                    lengths,
                    seed=seed,
                    first=low,
                    batch=batch,
                    sampler=sampler,
                    grid=grid,
                    callback=lambda step: bar.update(len(step.x)),
                )
                self.seconds += time.perf_counter() - started
                with on_disk_together():
                    for i, x in zip(rows, traces, strict=True):
                        one = posed(x, self.goals[i])
                        self.write(i, one)
                        self.drawn.append(one)

    def write(self, i: int, x: Any) -> None:
        from deft.domains.protein.structure import write_pdb

        placement, motif = self.placements[i], self.problem.motif
        letters = ["X"] * placement.length
        for at, letter in zip(placement.positions, motif.sequence, strict=True):
            letters[at] = letter
        write_pdb(
            self.out / f"{self.name(i)}.pdb",
            x,
            sequence="".join(letters),
            marks=placement.mask.astype(float),
            remarks=[
                f"{self.about['problem']} {realised(self.problem, placement)}",
                "C-alphas drawn by deft; B-factor 1 on the motif, the motif's letters alone are native",
            ],
        )

    def finish(self, whole: bool = True) -> dict[str, Any]:
        """Measure what was drawn, write table, pictures and scaffold.json, and say it in words."""
        from deft.bench.table import csv_text
        from deft.domains.protein.checks import failures, rows_of, short, summary_lines
        from deft.domains.protein.domain import ProteinDomain
        from deft.domains.protein.metrics import measure, summary
        from deft.domains.protein.view import Panel, page, sheet

        n, note = len(self.drawn), ProteinDomain.note
        goals, names = self.goals[:n], [self.name(i) for i in range(n)]
        columns = measure(self.drawn, goals)
        against = failures(columns)
        rows = rows_of(
            [f"{name}.pdb" for name in names],
            columns,
            {"contig": [realised(self.problem, p) for p in self.placements[:n]]},
        )
        write_text(self.out / "table.csv", csv_text(rows))
        about = self.about | {
            "out": str(self.out),
            "drawn": n,
            "whole": whole,
            "seconds": round(self.seconds, 2),
            "calls": self.calls,
            "summary": summary(columns),
            "scaffolds": [
                {k: r[k] for k in ("file", "contig", "length", "motif_rmsd", "proxy_success")} | {"against": f}
                for r, f in zip(rows, against, strict=True)
            ],
            "note": note,
        }
        write_json(self.out / "scaffold.json", about)
        good = sum(not f for f in against)
        panels = [
            Panel(x, g, f"{name[-3:]}: {short(r, f)}", not f)
            for x, g, name, r, f in zip(self.drawn, goals, names, rows, against, strict=True)
        ]
        title = f"{self.about['problem']}, {self.about['plan']['method']}: {good} of {n} pass every check"
        page(self.out / "view.html", panels, title=title, notes=[note])
        pictured = sheet(self.out / "sheet.png", panels[:PANELS], title=title, footer=note)

        say = self.output.say
        say(
            f"{n} scaffolds of {min(columns['length'])} to {max(columns['length'])} residues in {self.seconds:.1f} s,"
            f" {self.calls:.0f} calls of the prior each; motif RMSD {about['summary']['motif_rmsd_median']:.2f} Å"
            " (median)"
        )
        for line in summary_lines(names, columns):
            say(line)
        say(f"note: {note}")
        say(
            f"wrote {self.out}/view.html, {self.out}/sheet.png, {self.out}/scaffold-000.pdb ..., {self.out}/table.csv,"
            f" {self.out}/scaffold.json"
            if pictured
            else (
                f"wrote {self.out}/view.html, {self.out}/scaffold-000.pdb ..., {self.out}/table.csv,"
                f" {self.out}/scaffold.json; no sheet.png, which needs matplotlib: pip install"
                " 'deft-diffusion[compare]'"
            )
        )
        return about


def realised(problem: Problem, placement: Any) -> str:
    """The contig with the scaffold lengths that were drawn."""
    from deft.domains.protein.contig import Contig, Scaffold

    lengths = iter(placement.scaffolds)
    parts = [
        Scaffold(n, n) if isinstance(p, Scaffold) else p
        for p in problem.contig.parts
        for n in ([next(lengths)] if isinstance(p, Scaffold) else [0])
    ]
    return str(Contig(tuple(p for p in parts if p != Scaffold(0, 0))))
