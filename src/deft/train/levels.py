"""The error of E[x_0 | x_t, y] by noise level: where an h-transform is good, and where it is not.

A sample's quality is made at high noise (what is in the hole) and at low noise (how sharp it is); one loss
averaged over all levels hides both. This looks at each level on its own, for the prior alone and with h.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from deft.core.condition import condition
from deft.core.denoiser import Denoiser
from deft.core.htransform import HTransform
from deft.core.likelihood import Observation
from deft.core.random import Noise, seed_for
from deft.learned.deft import Calibrated

LEVELS: tuple[float, ...] = tuple(math.log(math.tan(math.pi / 2 * u / 100)) for u in range(5, 100, 10))
"""log(sigma/alpha) at the angles 0.05, 0.15, ..., 0.95 of a quarter turn (the times t of `VPCosine`)."""


def hidden_pixels(obs: Observation, shape: Sequence[int]) -> Tensor | None:
    """`Observation.hidden`."""
    return obs.hidden(shape)


def level_errors(
    prior: Denoiser,
    h: HTransform,
    x: Tensor,
    obs: Observation,
    levels: Sequence[float] = LEVELS,
    seed: int = 0,
    batch: int = 128,
) -> list[dict[str, float]]:
    """Mean squared error of the denoised mean at each noise level, without and with h.

    Args:
        x: clean samples [N, *E]; obs: a measurement of each.
        levels: log(sigma/alpha), each inside the schedule's range.
        seed: of the noise added to x, the same for every h.

    Returns:
        One row a level: `log_ratio` and `angle` (the level), `n` (samples), `prior` and `h` (errors over the whole
        sample), `gain_se` (standard error of prior - h over the samples, if there are several); for an h with a
        measured rho^2 `guide`, the error of its closed-form guide x̂ + g̃ alone; for masks `prior_hidden` and
        `h_hidden` (over what was not measured), `prior_seen` and `h_seen`.
    """
    was = h.training
    h.eval()
    hidden = obs.hidden(x.shape)
    schedule = prior.schedule
    level = torch.as_tensor(levels, dtype=torch.float64)
    times = schedule.time_of(-2 * level)
    where = prior.state_like().device
    sums = torch.zeros(len(levels), 4, dtype=torch.float64)
    guided = torch.zeros(len(levels), dtype=torch.float64)
    gains: list[list[Tensor]] = [[] for _ in levels]
    rho2 = next((m.rho2 for m in h.modules() if isinstance(m, Calibrated)), None)
    rho2 = rho2 if obs.likelihood.has_density else None  # known from pairs alone, y has no closed-form guide
    for low in range(0, len(x), batch):
        part = slice(low, min(low + batch, len(x)))
        clean = x[part].to(where)
        n = (
            Noise(seed_for("probing", seed), range(part.start, part.stop))
            .normal(x.shape[1:], device=where)
            .to(clean.dtype)
        )
        n = prior.project(n, clean)
        conditioned = condition(prior, h, obs[part].to(where))
        for i, t in enumerate(times):
            _, alpha, sigma = prior.coefficients(t, clean)
            pred, value = conditioned.both(alpha * clean + sigma * n, t)
            squares = [(mean - clean).square().double() for mean in (pred.mean, pred.corrected(value).mean)]
            sums[i, :2] += torch.stack([s.sum() for s in squares]).cpu()
            gains[i].append((squares[0] - squares[1]).flatten(1).mean(1).cpu())
            if rho2 is not None:
                few = obs[part].to(where)
                spread = rho2(torch.log(pred.sigma / pred.alpha).float()).to(pred.mean)
                with torch.no_grad():
                    guide = pred.mean + few.likelihood.approx_mean_update(few.y, pred.mean, spread)
                guided[i] += float((guide - clean).square().double().sum())
            if hidden is not None:
                sums[i, 2:] += torch.stack([(s * hidden[part].to(where)).sum() for s in squares]).cpu()
    h.train(was)
    rows = []
    for i, (value, (a, b, c, d)) in enumerate(zip(level.tolist(), sums.tolist(), strict=True)):
        row = {"log_ratio": value, "angle": math.atan(math.exp(value)) * 2 / math.pi, "n": float(len(x))}
        gain = torch.cat(gains[i])
        row |= {"prior": a / x.numel(), "h": b / x.numel()}
        if len(gain) > 1:  # a card holds no NaN
            row["gain_se"] = float(gain.std() / math.sqrt(len(gain)))
        if rho2 is not None:
            row["guide"] = float(guided[i]) / x.numel()
        if hidden is not None:
            count = float(hidden.expand_as(x).sum())
            seen = x.numel() - count
            row |= {"prior_hidden": c / count, "h_hidden": d / count}
            row |= {"prior_seen": (a - c) / seen, "h_seen": (b - d) / seen}
        rows.append(row)
    return rows


WORSE_BY = 3.0
"""Standard errors by which h must be worse than the prior alone for a warning."""


CURE = "fit with more prior samples or data (--prior-samples, --data), or for longer"
"""What to do about an h that is worse than the prior."""


def level_warning(rows: Sequence[dict[str, float]], cure: str = CURE) -> str | None:
    """One line if h is worse than the prior alone at some noise level, by more than `WORSE_BY` standard errors; else
    None. cure: what to do about it."""
    bad = [r for r in rows if r["h"] - r["prior"] > WORSE_BY * r.get("gain_se", math.inf if r.get("n") == 1 else 0.0)]
    if not bad:
        return None
    ratios = [math.exp(r["log_ratio"]) for r in bad]
    worst = max(bad, key=lambda r: r["h"] / r["prior"])
    where = f"sigma/alpha {ratios[0]:.2g}" if len(bad) == 1 else f"sigma/alpha {min(ratios):.2g} to {max(ratios):.2g}"
    return (
        f"warning: at {where} this h is worse than the prior alone (squared error {worst['h']:.4f} against"
        f" {worst['prior']:.4f}): {cure}"
    )


def level_table(rows: Sequence[dict[str, float]]) -> str:
    """The rows of `level_errors` as a Markdown table, one noise level a column."""
    names = {
        "prior": "prior alone",
        "eps": "prior alone, of the noise",
        "guide": "closed-form guide alone",
        "h": "with h",
        "prior_hidden": "prior alone, hidden part",
        "h_hidden": "with h, hidden part",
        "prior_seen": "prior alone, seen part",
        "h_seen": "with h, seen part",
    }
    head = "| noise level (angle) | " + " | ".join(f"{r['angle']:.2f}" for r in rows) + " |"
    lines = [head, "|---" * (len(rows) + 1) + "|"]
    for key, title in names.items():
        if rows and key in rows[0]:
            lines.append(f"| {title} | " + " | ".join(f"{r[key]:.4f}" for r in rows) + " |")
    return "\n".join(lines)
