"""What sampling costs at the size of published models, with random weights: one table, one run.

    python benchmarks/real_size.py --device cuda --models adm-256    # one job on a GPU, under 10 minutes
    python benchmarks/real_size.py --device cuda --models sd-unet
    python benchmarks/real_size.py --quick                           # tiny models on a CPU: that all of it runs

| model | |
|---|---|
| `adm-256` | guided-diffusion's 256 x 256 network, 552.8 M, pictures measured by a mask |
| `sd-unet` | the UNet of Stable Diffusion 1.x, 859.5 M, latents 4 x 64 x 64 measured by a mask |

A row is a method, in one precision, its networks eager or compiled (`--compile`):

step      seconds of a step, median; in turn with `bare`
bare      seconds of a call of the prior's network alone, in the same precision, eager or compiled
20, 100   seconds a sample with so many calls: the step, times them, over the batch
chain     the same measured from start to end, for the rows that are quick enough
memory    what a step needs at its peak beyond what was there (weights of the prior and of h), GiB

`rest` is the share of a step that is in no network: noise, the likelihood's operator and all arithmetic; the step less
the networks of prior and h, each timed alone in the same run. `fit` is 200 steps of a fit at the batch, with the prior
called in each.

The rows that the bars ask for come first; each is written when it is there, so that half a job leaves half a table. No
row is begun after --seconds. On a CPU times are those of the process (`process_time`).
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from memory import World, build, observation
from step_cost import interleaved, middle
from torch import Tensor, nn

import deft
from deft.core.transition import ddim
from deft.guidance.combine import Zero
from deft.io.files import write_atomic
from deft.runtime.compiled import compile_networks, compiled_calls, is_compiled
from deft.runtime.memory import PeakMemory
from deft.runtime.messages import log
from deft.runtime.precision import at_precision, networks
from deft.train.data import Clean

OUT = Path(__file__).parent / "results" / "real-size.json"
BARS = {
    "deft_over_bare": 1.12,
    "rest": 0.03,
    "seconds_20": 0.10,
    "seconds_100": 0.5,
    "fit_seconds": 180.0,
}
"""Of `adm-256` on an H100 or H200, bf16, compiled, batch 16. The paper: 4.36 s a sample at 100 calls on an A100."""
STEPS = 2
"""Steps that are timed at a time, of the middle of a grid of 50."""
FIT_STEPS = 200
NO_BACKWARD = ("deft 4 %", "deft 9 %", "prior", "ddrm", "reddiff")
BACKWARD = ("pigdm", "dps")
COMBINATIONS = (("compiled", "bf16"), ("eager", "bf16"), ("eager", "fp32"), ("compiled", "fp32"))


class Bench:
    """One model on a device, and the methods that are timed on it."""

    def __init__(self, name: str, args: argparse.Namespace):
        self.name, self.args, self.device = name, args, args.device
        self.world: World = build(name, self.device, torch.float32, args.quick)
        self.prior = self.world.prior
        assert isinstance(self.prior, deft.NetworkDenoiser)
        randomise(self.prior, 1)
        self.cuda = self.device.startswith("cuda")
        self.batch = args.batch
        self.sizes = {"deft 4 %": 0.04, "deft 9 %": 0.09}
        self.h: dict[str, deft.DEFT] = {}
        self.engines: dict[nn.Module, str] = {}

    def clock(self) -> float:
        if not self.cuda:
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()

    def learned(self, method: str) -> deft.DEFT:
        if method not in self.h:
            features = observation(self.world, 1, "cpu").likelihood.feature_channels
            h = deft.DEFT.sized(self.prior, self.sizes[method], features).to(self.device)
            randomise(h, 2)
            self.h[method] = h.eval().requires_grad_(False)
        return self.h[method]

    def method(self, name: str, grid: list[Any]) -> tuple[deft.HTransform, deft.core.sampler.Sampler]:
        """h and sampler of a row of the table."""
        ancestral = deft.DDIM(1.0)
        if name in self.sizes:
            return self.learned(name), ancestral
        if name == "pigdm":
            return deft.PiGDM.published(ancestral.kernel, grid), ancestral
        if name == "dps":
            return deft.DPS.published(1.0, lambda t, s: ddim(t, s, 1.0), grid), ancestral
        if name == "ddrm":
            return Zero(), deft.samplers.DDRM()
        if name == "reddiff":
            return Zero(), deft.samplers.REDDiff()
        return Zero(), ancestral

    def set(self, engine: str, precision: str, h: deft.HTransform) -> None:
        for part in (self.prior, h):
            at_precision(part, precision)
            if self.engines.get(part, "eager") != engine:
                compile_networks(part, engine == "compiled", backend=self.args.backend)
            self.engines[part] = engine

    def sampling(self, name: str, grid: list[Any]) -> Callable[[], Tensor]:
        """A chain of the method along a grid."""
        h, sampler = self.method(name, grid)
        noise = deft.Noise(0, self.batch)
        if name == "prior":
            return lambda: deft.sample(self.prior, noise, sampler=sampler, grid=grid)
        conditioned = deft.condition(self.prior, h, observation(self.world, self.batch, self.device))
        return lambda: deft.sample(conditioned, noise, sampler=sampler, grid=grid)

    def bare(self, steps: int) -> Callable[[], None]:
        x = torch.randn(self.batch, *self.prior.event_shape, device=self.device)
        level = torch.full((self.batch,), 0.5, device=self.device)

        def call() -> None:
            with torch.no_grad(), compiled_calls():
                for _ in range(steps):
                    self.prior.net(x, level)

        return call

    def networks_of_h(self, h: deft.DEFT, steps: int) -> Callable[[], None]:
        views = h.event_shape[0] * sum(h.feature_channels if i == "y" else 1 for i in h.inputs)
        x = torch.randn(self.batch, views, *h.event_shape[1:], device=self.device)
        level = torch.full((self.batch,), 0.5, device=self.device)

        def call() -> None:
            with torch.no_grad(), compiled_calls():
                for _ in range(steps):
                    h.n1(x, level), h.n2(level)

        return call

    def row(self, method: str, engine: str, precision: str) -> dict[str, Any]:
        h, _ = self.method(method, middle(self.prior, STEPS))
        self.set(engine, precision, h)
        grid = middle(self.prior, STEPS)
        started = time.perf_counter()
        step, bare = self.sampling(method, grid), self.bare(STEPS)
        bare(), step()  # compiled here
        prepared = time.perf_counter() - started
        with PeakMemory(self.device) as memory:
            step()
        found = interleaved(step, bare, self.args.repeats, self.clock)
        seconds = found["seconds"] / STEPS
        done = {"model": self.name, "method": method, "engine": engine, "precision": precision, "batch": self.batch}
        done |= {"step": seconds, "bare": found["over"] / STEPS, "ratio": found["ratio"]}
        done |= {"low": found["low"], "high": found["high"], "prepared": prepared}
        done |= {f"{n}": seconds * n / self.batch for n in (20, 100)}
        done["memory"] = None if memory.mib is None else memory.mib / 2**10
        if engine == "compiled":
            done["compiled"] = all(is_compiled(part) for part in (self.prior, h) if networks(part))
        if isinstance(h, deft.DEFT):
            own = interleaved(self.networks_of_h(h, STEPS), bare, self.args.repeats, self.clock)["seconds"] / STEPS
            done["h"] = own
            done["rest"] = 1 - (done["bare"] + own) / seconds
            done["h_parameters"] = sum(p.numel() for p in h.parameters())
        return done

    def chain(self, method: str, engine: str, precision: str, calls: int) -> float:
        """Seconds a sample of a whole chain, measured once."""
        grid = deft.times(self.prior.schedule, calls)
        h, _ = self.method(method, grid)
        self.set(engine, precision, h)
        run = self.sampling(method, grid)
        started = self.clock()
        run()
        return (self.clock() - started) / self.batch

    def fit(self, steps: int) -> dict[str, Any]:
        """A fit of a 4 % h with the prior in each step, in bf16; training compiles nothing."""
        at_precision(self.prior, "fp32")
        features = observation(self.world, 1, "cpu").likelihood.feature_channels
        h = deft.DEFT.sized(self.prior, 0.04, features).to(self.device)
        x = torch.randn(2 * self.batch, *self.prior.event_shape).clamp(-1, 1)
        config = deft.FitConfig(steps=steps, batch=self.batch, bf16=True, evaluations=1, held_out_batches=1)
        task = Hidden(self.world)
        run = lambda config: deft.fit(  # noqa: E731
            h, deft.DenoisingObjective(self.prior), Clean(x, task), config=config, progress=False, device=self.device
        )
        run(deft.FitConfig(steps=1, batch=self.batch, bf16=True, evaluations=1, held_out_batches=1))
        with PeakMemory(self.device) as memory:
            started = self.clock()
            run(config)
            seconds = self.clock() - started
        gib = None if memory.mib is None else memory.mib / 2**10
        return {"model": self.name, "fit": steps, "batch": self.batch, "seconds": seconds, "memory": gib}


class Hidden:
    """The measurement of `memory.observation`, of any number of samples."""

    def __init__(self, world: World):
        self.world = world

    def observe(self, x: Tensor, noise: Any) -> deft.Observation:
        like = observation(self.world, len(x), "cpu").likelihood
        return deft.Observation(like.sample(x.cpu(), noise), like)


def randomise(module: nn.Module, seed: int) -> None:
    """Weights that keep the size of what goes through them; fast where the module is."""
    with torch.no_grad():
        for p in module.parameters():
            generator = torch.Generator(device=p.device).manual_seed(seed)
            p.normal_(0.0, p[0].numel() ** -0.5 if p.ndim > 1 else 0.1, generator=generator)
            seed += 1


# in which order


def jobs(name: str, args: argparse.Namespace) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """What is measured of a model, what matters most first."""
    bench = Bench(name, args)
    combinations = [c for c in COMBINATIONS if c[0] in args.engines]
    yield "", lambda: {"model": name, "parameters": bench.prior.parameter_count(), "network": "random weights"}
    for engine, precision in combinations:
        first = (engine, precision) == combinations[0]
        chosen = NO_BACKWARD if first else NO_BACKWARD + BACKWARD
        for method in chosen:
            yield f"{method} {engine} {precision}", lambda m=method, e=engine, p=precision: bench.row(m, e, p)
        if not first:
            continue
        for method in ("deft 4 %", "deft 9 %", "prior"):
            for calls in args.chains:
                yield f"chain of {calls}: {method}", lambda m=method, e=engine, p=precision, c=calls: {
                    "model": name, "method": m, "engine": e, "precision": p, "batch": bench.batch, "calls": c,
                    "chain": bench.chain(m, e, p, c),
                }  # fmt: skip
        yield "fit", lambda: bench.fit(args.fit_steps)
        for method in BACKWARD:
            yield f"{method} {engine} {precision}", lambda m=method, e=engine, p=precision: bench.row(m, e, p)


def bars(rows: list[dict[str, Any]]) -> dict[str, float]:
    """What the bars are about, as far as it was measured."""
    found: dict[str, float] = {}
    for r in rows:
        if r.get("model") != "adm-256":
            continue
        if "fit" in r:
            found["fit_seconds"] = r["seconds"] * FIT_STEPS / r["fit"]
        if r.get("method") == "deft 4 %" and (r["engine"], r["precision"]) == COMBINATIONS[0]:
            if "chain" in r and f"seconds_{r['calls']}" in BARS:
                found[f"seconds_{r['calls']}"] = r["chain"]
            if "ratio" in r:
                found |= {"deft_over_bare": r["ratio"], "rest": r["rest"]}
    return found


def device_name(device: str) -> str:
    if device.startswith("cuda"):
        return torch.cuda.get_device_name()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


# for people


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    out = [
        "| model | method | networks | a step, ms | over the bare network | 20 calls, s a sample | 100 calls | memory, GiB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        if "step" in r:
            memory = "" if r["memory"] is None else f"{r['memory']:.2f}"
            how = r["engine"] if r.get("compiled", True) else "eager (compilation failed)"
            out.append(
                f"| `{r['model']}` | {r['method']} | {how}, {r['precision']} | {1e3 * r['step']:.1f} |"
                f" {r['ratio']:.2f} [{r['low']:.2f}, {r['high']:.2f}] | {r['20']:.3g} | {r['100']:.3g} | {memory} |"
            )
    for r in rows:
        if "chain" in r:
            out.append(f"a chain of {r['calls']} calls, {r['method']}: {r['chain']:.3g} s a sample ({r['model']})")
        if "fit" in r:
            out.append(f"a fit of {r['fit']} steps at batch {r['batch']}: {r['seconds']:.3g} s ({r['model']})")
        if "rest" in r:
            out.append(
                f"in no network: {100 * r['rest']:.1f} % of a step ({r['model']}, {r['method']}, {r['engine']}, {r['precision']})"
            )
        if "error" in r:
            out.append(f"not measured: {r['job']} ({r['model']}): {r['error']}")
    return "\n".join(out)


def write(path: Path, about: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rounded = [{k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in r.items()} for r in rows]
    measured = {} if about["quick"] else bars(rows)  # of tiny models they say nothing
    found = {k: float(f"{v:.4g}") for k, v in measured.items()}
    kept = {"about": about, "bars": BARS, "found": found, "rows": rounded}
    lines = ",\n".join(f"  {json.dumps(r)}" for r in kept.pop("rows"))
    head = json.dumps(kept, indent=1)[:-2]
    text = head + ',\n "rows": [\n' + lines + "\n ]\n}\n"
    write_atomic(path, lambda to: to.write_text(text))


def meant(record: logging.LogRecord) -> bool:
    """All that the library says but that the steps timed here end in noise."""
    return not record.getMessage().startswith("the grid ends at sigma")


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    log.addFilter(meant)
    started = time.monotonic()
    about = {
        "device": device_name(args.device),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "quick": args.quick,
        "repeats": args.repeats,
        "backend": args.backend,
    }
    rows: list[dict[str, Any]] = []
    print(f"{about['device']}, torch {torch.__version__}", flush=True)
    for name in args.models:
        try:
            for job, measure in jobs(name, args):
                if time.monotonic() - started > args.seconds:
                    print(f"{args.seconds:.0f} s are over", flush=True)
                    return rows
                try:
                    rows.append(measure())
                except (deft.DeftError, RuntimeError) as error:  # the others go on
                    said = " ".join(str(error).split())[:200]
                    rows.append({"model": name, "job": job, "error": f"{type(error).__name__}: {said}"})
                about["seconds"] = round(time.monotonic() - started)
                write(args.out, about, rows)
                last = rows[-1]
                shown = {k: f"{v:.4g}" if isinstance(v, float) else v for k, v in last.items() if k != "model"}
                print(f"[{about['seconds']:4} s] {name} " + " ".join(f"{k}={v}" for k, v in shown.items()), flush=True)
                if args.device.startswith("cuda"):
                    torch.cuda.empty_cache()
        except ImportError as error:
            rows.append({"model": name, "job": "", "error": f"{error}"})
            print(f"{name}: {error}", flush=True)
            write(args.out, about, rows)
    return rows


def main(given: list[str] | None = None) -> list[dict[str, Any]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--models", nargs="+", choices=("adm-256", "sd-unet"), default=["adm-256", "sd-unet"])
    parser.add_argument("--engines", nargs="+", choices=("eager", "compiled"), default=["eager", "compiled"])
    parser.add_argument("--backend", default="inductor", help="of torch.compile")
    parser.add_argument("--quick", action="store_true", help="tiny models: a check that all of it runs")
    parser.add_argument("--batch", type=int, help="default 16; of --quick 2")
    parser.add_argument("--repeats", type=int, help="of each pair; default 5; of --quick 3")
    parser.add_argument("--chains", type=int, nargs="*", help="lengths of whole chains; default 20 100; of --quick 4")
    parser.add_argument("--fit-steps", type=int, help="default 200; of --quick 2")
    parser.add_argument("--seconds", type=float, default=540, help="no row is begun after so long")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args(given)
    for key, usual, quick in (
        ("batch", 16, 2),
        ("repeats", 5, 3),
        ("chains", [20, 100], [4]),
        ("fit_steps", FIT_STEPS, 2),
    ):
        if getattr(args, key) is None:
            setattr(args, key, quick if args.quick else usual)
    if args.device.startswith("cuda"):
        torch.backends.cudnn.benchmark = True
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(args.out.parent / "inductor"))
    rows = run(args)
    print(table(rows))
    return rows


if __name__ == "__main__":
    main()
