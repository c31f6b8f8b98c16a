"""What a trial of several arms came to: a table with intervals, successes by problem, a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deft.bench.statistics import Interval, bootstrap, clustered
from deft.domains.protein.benchmark import Problem
from deft.domains.protein.report import NOTE
from deft.domains.protein.similarity import clusters, novelty

HEAD = (
    "| | chains | motif RMSD, Å | bonds, clashes, size pass | geometry | junctions | CA-MPNN NLL, passes | helix, strand | proxy success | problems with one | clusters of successes "
    "| nearest known, TM | calls, s a chain, MiB |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|"
)
MOST = 40
"""Successes of an arm that are compared with each other and with known chains."""


def success(columns: Mapping[str, np.ndarray], each: int) -> Interval:
    """Share of proxy successes; problems are resampled, and of each its own chains (`clustered`)."""
    values = np.asarray(columns["proxy_success"], float)
    if "problem" not in columns:
        return bootstrap(values)
    return clustered(values.reshape(each, -1))


def difference(columns: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray], each: int) -> Interval:
    """Proxy success less another arm's: same placements and noise, so that problems are resampled with both."""
    gap = np.asarray(columns["proxy_success"], float) - np.asarray(other["proxy_success"], float)
    return clustered(gap.reshape(each, -1))


def differences(arms: Mapping[str, Mapping[str, np.ndarray]], each: int) -> tuple[str, dict[str, list[float]]]:
    """(a line of Markdown, {arm: [difference, low, high]}): the first arm's proxy success less each other's."""
    first, *others = arms
    found = {name: list(difference(arms[first], arms[name], each)[:3]) for name in others}
    words = ", ".join(f"{name} {100 * d:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]" for name, (d, low, high) in found.items())
    return (f"Proxy success of {first} less that of the others, in points, paired: {words}." if found else ""), found


def row(
    columns: Mapping[str, np.ndarray], each: int = 1, *, x: Sequence[np.ndarray] = (), known: Sequence[np.ndarray] | None = None, cost: Mapping[str, Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Numbers of an arm. x: its chains, for diversity; known: chains to be novel against; cost: `calls`, `seconds`, `mib` a chain."""
    share = success(columns, each)
    out: dict[str, Any] = {"chains": len(columns["length"]), "motif_rmsd": float(np.median(columns["motif_rmsd"])), "proxy_success": list(share[:3])}
    for name in ("bonds_valid", "clashes_valid", "gyration_valid", "geometry_valid", "junctions_valid", "nll", "nll_valid", "helix", "strand"):
        out[name] = float(columns[name].mean())
    if "problem" in columns:
        good = [np.asarray(columns["proxy_success"])[columns["problem"] == p].sum() for p in np.unique(columns["problem"])]
        out["solved"], out["problems"] = int(sum(g > 0 for g in good)), len(good)
    found = [x[i] for i in np.flatnonzero(columns["proxy_success"])[:MOST]] if len(x) else []
    if found:
        out["compared"], out["clusters"] = len(found), len(set(clusters(found, most=MOST).tolist()))
        if known is not None:
            out["nearest_tm"] = float(np.nanmean(novelty(found, known)))
    return out | {"cost": dict(cost) if cost else None}


def line(title: str, r: Mapping[str, Any]) -> str:
    """A row of Markdown under `HEAD`."""

    def share(*names: str) -> str:
        return ", ".join(f"{100 * r[n]:.0f}" for n in names) + " %"

    rmsd = "" if np.isnan(r["motif_rmsd"]) else f"{r['motif_rmsd']:.2f}"
    p, low, high = (100 * v for v in r["proxy_success"])
    c = r["cost"]
    solved = f"{r['solved']} of {r['problems']}" if "solved" in r else ""
    alike = f"{r['clusters']} of {r['compared']}" if "clusters" in r else ""
    nearest = f"{r['nearest_tm']:.2f}" if "nearest_tm" in r else ""
    paid = "" if c is None else f"{c['calls']:.0f}, {c['seconds']:.1f}, " + ("–" if c["mib"] is None else f"{c['mib']:.0f}")
    return (
        f"| {title} | {r['chains']} | {rmsd} | {share('bonds_valid', 'clashes_valid', 'gyration_valid')} | {share('geometry_valid')} | {share('junctions_valid')} "
        f"| {r['nll']:.2f}, {share('nll_valid')} | {share('helix', 'strand')} | {p:.1f} % [{low:.1f}, {high:.1f}] | {solved} | {alike} | {nearest} | {paid} |"
    )


def by_problem(found: Sequence[Problem], arms: Mapping[str, Mapping[str, np.ndarray]]) -> list[str]:
    """Markdown: of each problem, how many chains of each arm pass."""
    lines = ["| | motif | lengths | " + " | ".join(arms) + " |", "|" + "---|" * (3 + len(arms))]
    for i, p in enumerate(found):
        low, high = p.contig.lengths or p.contig.reach
        cells = []
        for columns in arms.values():
            mine = np.asarray(columns["proxy_success"])[columns["problem"] == i]
            cells.append(f"{int(mine.sum())} of {len(mine)}")
        lines.append(f"| {p.name} | {len(p.motif)} | {f'{low}-{high}' if low < high else low} | " + " | ".join(cells) + " |")
    return lines


def picture(path: Path, title: str, rows: Mapping[str, Mapping[str, Any]]) -> bool:
    """Proxy success of each arm with its interval, as bars; False without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        return False
    from deft.io.files import write_atomic

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(7, 0.45 * len(rows) + 1.4), layout="constrained")
    names = list(rows)[::-1]
    values = np.array([rows[n]["proxy_success"] for n in names]) * 100
    axis.barh(names, values[:, 0], xerr=np.maximum(0, [values[:, 0] - values[:, 1], values[:, 2] - values[:, 0]]), color=["0.7" if n == "natives" else "C0" for n in names], capsize=3)
    axis.set(title=title, xlabel="proxy success, % of chains (95 % interval)", xlim=(0, None))
    figure.text(0.01, -0.02, NOTE, fontsize=7, va="top")
    write_atomic(path, lambda p: figure.savefig(p, dpi=130, bbox_inches="tight"))
    plt.close(figure)
    return True
