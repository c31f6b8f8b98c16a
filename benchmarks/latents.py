"""Three ways of guiding a latent prior, with an h fitted for the same seconds: benchmarks/results/latents/result.json.

python benchmarks/latents.py --folder latents-work          # the model, the fits, the samples, the table; resumable
python benchmarks/latents.py --folder quick --quick         # a smoke run of all of it, without meaning
python benchmarks/latents.py --folder latents-work --only model

The model: the autoencoder (1x32x32 -> 4x8x8) and the UNet of `examples/latent/train.py`, trained on clothes: the 1,000
images of the split `fit` and samples of the bundled prior. What is done is kept in the folder, piece by piece.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import deft
from deft.domains.image.data import fashion
from deft.io.tasks import get_task
from deft.kinds.domain import domain_of
from deft.prior.diffusers import Sample, table
from deft.prior.latent import relative_cost
from deft.samplers import DPMpp2M, sample
from deft.train.data import Clean
from deft.train.denoising import PriorObjective

HERE = Path(__file__).resolve().parent
STARTED = time.monotonic()


def say(*what: Any) -> None:
    print(f"[{time.monotonic() - STARTED:6.1f} s]", *what, flush=True)


# the model


def example() -> ModuleType:
    """`examples/latent/train.py` as a module."""
    spec = importlib.util.spec_from_file_location("latent_train", HERE.parent / "examples/latent/train.py")
    assert spec is not None and spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def images(folder: Path, samples: int) -> Tensor:
    """The split `fit` and samples of the bundled prior, [N, 1, 32, 32]."""
    kept = folder / "images.pt"
    if not kept.exists():
        prior, parts = deft.load_prior("fashion"), [fashion("fit").x.reshape(-1, 1, 32, 32)]
        for i in range(0, samples, 128):
            noise = deft.Noise(11, range(i, min(i + 128, samples)))
            parts.append(sample(prior, noise, sampler=DPMpp2M(), steps=20, spacing="log-snr").clamp(-1, 1))
        torch.save(torch.cat(parts), kept)
        say(f"images: {sum(map(len, parts))}")
    return torch.load(kept)


def train(folder: Path, minutes: float, samples: int) -> None:
    """The latent diffusion model, as a folder of diffusers: FOLDER/model."""
    out, kept = folder / "model", folder / "vae.pt"
    if (out / "model_index.json").exists():
        return
    x, parts = images(folder, samples), example()
    torch.manual_seed(0)
    vae = parts.autoencoder()
    if kept.exists():
        vae.load_state_dict(torch.load(kept))
    else:
        parts.fit_autoencoder(vae, x, minutes * 60 * 0.4)
        torch.save(vae.state_dict(), kept)
    vae.eval().requires_grad_(False)
    with torch.no_grad():
        z = torch.cat([vae.encode(part).latent_dist.mean for part in x.split(256)])
        error = (vae.decode(z[:500]).sample - x[:500]).square().mean().sqrt()
    scale = float(1 / z.std())
    vae.register_to_config(scaling_factor=scale)
    say(f"autoencoder: rms error {float(error):.4f}, scaling_factor {scale:.4f}")
    scheduler = parts.DDPMScheduler(prediction_type="v_prediction", clip_sample=False)
    net = parts.unet()
    prior = deft.NetworkDenoiser(Sample(net), table(scheduler.alphas_cumprod), (4, 8, 8), "v")
    config = deft.FitConfig(steps=200_000, batch=64, lr=1e-3, warmup=200, ema=0.999, max_seconds=minutes * 60 * 0.6)
    done = deft.fit(
        prior, PriorObjective(), Clean(z * scale), Clean(z[:256] * scale), config=config, device="cpu", progress=False
    )
    say(f"unet: {prior.parameter_count():,} parameters, {done.steps} steps, loss {done.held_out}")
    for part, name in ((net, "unet"), (vae, "vae"), (scheduler, "scheduler")):
        part.save_pretrained(out / name)
    index = {
        "_class_name": "LDMPipeline",
        "unet": ["diffusers", "UNet2DModel"],
        "scheduler": ["diffusers", "DDPMScheduler"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (out / "model_index.json").write_text(json.dumps(index))


# the pieces


TASKS: dict[str, Any] = {
    "inpaint": {"sigma_y": 0.1},
    "sr4": {"sigma_y": 0.1},
    "inpaint-random": {"sigma_y": 0.1, "seen": 0.3},
}
WAYS = ("decoder", "latents", "encoder")


def counted_prior(folder: Path, way: str) -> Any:
    """The prior; its `rows` count what passes the encoder and the decoder."""
    prior: Any = deft.load_prior(folder / "model", gradient=way)
    prior.rows = {"encode": 0, "decode": 0}
    for name in prior.rows:
        setattr(prior.autoencoder, name, counted(prior, name, getattr(prior.autoencoder, name)))
    return prior


def counted(prior: Any, name: str, method: Any) -> Any:
    def run(x: Tensor) -> Tensor:
        prior.rows[name] += len(x)
        return method(x)

    return run


def fit(folder: Path, task: str, way: str, asked: Any) -> None:
    """One h, for so many seconds of the processor: what else the machine does must not make one way worse."""
    time.monotonic = time.process_time
    made = get_task(task, **TASKS[task])
    images = fashion("fit").x.reshape(-1, 1, 32, 32)
    seconds, few = (1.0, 32) if asked.quick else (asked.seconds, len(images))
    # few evaluations: each costs as much as eight steps, and a short fit does not learn 1,000 images by heart
    sizes = {"prior_samples": 0, "cache": 0, "evaluations": 2, "interval_images": 0, "batch": 32}
    held_out = fashion("validation").x.reshape(-1, 1, 32, 32)[:few]
    h = deft.fit_h(counted_prior(folder, way), made, images[:few], held_out, seconds=seconds, progress=False, **sizes)
    h.save(folder / f"{task}-{way}")
    say(f"{task} {way}: {h.result.steps} steps, loss {h.result.held_out}")


def memory(field: str) -> int:
    """VmRSS, what is held now, or VmHWM, the most that was held, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def draw(folder: Path, task: str, way: str, asked: Any) -> None:
    """Samples of held-out images: how good they are, what they cost."""
    prior = counted_prior(folder, way)
    h = deft.load(folder / f"{task}-{way}", prior)
    card = json.loads((folder / f"{task}-{way}" / "log.json").read_text())["card"]
    n, count, steps = (2, 4, 3) if asked.quick else (8, 48, 12)
    x = fashion("test").x.reshape(-1, 1, 32, 32)[:count]
    obs = h.task.observe(x, deft.Noise(0, count))
    h.sample(obs[:2], 2, steps=2, progress=False)  # warm up
    prior.rows.update(encode=0, decode=0)
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM counts from here
    before, started = memory("VmRSS"), time.process_time()
    draws = h.sample(obs, n, steps=steps, seed=1, progress=False)
    seconds, peak = time.process_time() - started, memory("VmHWM")
    domain = domain_of(prior)
    assert domain is not None
    values = domain.measure(draws.x, x, obs)
    result = {
        "task": h.task.config(), "way": way, "fit_steps": card["steps"], "images": count, "samples": n, "steps": steps,
        "seconds_a_sample": seconds / (n * count), "peak_mib": max(0, peak - before) / 2**20,
        "rows_a_sample": {k: v / (n * count) for k, v in prior.rows.items()},
        "values": {k: [round(float(f), 5) for f in v] for k, v in values.items()},
    }  # fmt: skip
    (folder / f"{task}-{way}.json").write_text(json.dumps(result))
    say(f"{task} {way}:", {k: round(float(v.double().mean()), 4) for k, v in values.items()})


PUBLISHED: dict[str, dict[str, Any]] = {
    "stable-diffusion-512": {
        "vae": {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "latent_channels": 4},
        "unet": {"cross_attention_dim": 768, "attention_head_dim": 8},
        "latent": (1, 4, 64, 64),
        "image": (1, 3, 512, 512),
        "text": (1, 77, 768),
    },
    "ldm-celebahq-256": {
        "vae": {"block_out_channels": (128, 256, 512), "layers_per_block": 2, "latent_channels": 3},
        "unet": {
            "sample_size": 64, "block_out_channels": (224, 448, 672, 896), "attention_head_dim": 32,
            "down_block_types": ("DownBlock2D", *("AttnDownBlock2D",) * 3),
            "up_block_types": (*("AttnUpBlock2D",) * 3, "UpBlock2D"),
        },
        "latent": (1, 3, 64, 64),
        "image": (1, 3, 256, 256),
        "text": None,
    },
}  # fmt: skip
"""Published models by their configs: what their parts are, without weights."""


def counts(about: dict[str, Any]) -> dict[str, float]:
    """Multiplications of the parts of a model, in calls of its UNet; nothing is computed (tensors without values)."""
    import diffusers

    def flops(run: Any) -> int:
        with FlopCounterMode(display=False) as found:
            run()
        return int(found.get_total_flops())

    def backward() -> None:
        z = torch.zeros(about["latent"], requires_grad=True)
        vae.decode(z).sample.sum().backward()

    with torch.device("meta"):
        n, text = len(about["vae"]["block_out_channels"]), about["text"]
        kinds = {"down_block_types": ("DownEncoderBlock2D",) * n, "up_block_types": ("UpDecoderBlock2D",) * n}
        vae = diffusers.AutoencoderKL(**about["vae"], **kinds).requires_grad_(False)
        kind = diffusers.UNet2DModel if text is None else diffusers.UNet2DConditionModel
        more = {} if text else {"in_channels": about["latent"][1], "out_channels": about["latent"][1]}
        net = kind(**about["unet"], **more).requires_grad_(False)
        given = () if text is None else (torch.zeros(text),)
        with torch.no_grad():
            one = flops(lambda: net(torch.zeros(about["latent"]), torch.tensor(1), *given))
            decode = flops(lambda: vae.decode(torch.zeros(about["latent"]))) / one
            encode = flops(lambda: vae.encode(torch.zeros(about["image"]))) / one
        both = flops(backward) / one
    found = {"decoder": decode, "encoder": encode, "decoder and its backward pass": both}
    steps = {"encoder": 1 + decode + 2 * encode, "decoder": 1 + decode + both, "latents": 1.0}
    return {k: round(v, 2) for k, v in (found | {f"a step, {k}": v for k, v in steps.items()}).items()}


def collect(folder: Path, out: Path) -> None:
    """All pieces in one file, and as a table."""
    pieces = [json.loads(f.read_text()) for t in TASKS for w in WAYS if (f := folder / f"{t}-{w}.json").exists()]
    prior = deft.load_prior(folder / "model", gradient="decoder")
    cost = relative_cost(prior.autoencoder, prior.prior)
    published = {name: counts(about) for name, about in PUBLISHED.items()}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"decoder_over_denoiser": cost, "published": published, "pieces": pieces}) + "\n")
    print(f"a decoder pass costs {cost} calls of the denoiser; published:", json.dumps(published, indent=1))
    for p in pieces:
        mean = {k: sum(v) / len(v) for k, v in p["values"].items()}
        print(p["task"]["name"], p["way"], p["fit_steps"], {k: round(v, 4) for k, v in mean.items()},
              f"{p['seconds_a_sample']:.4f} s {p['peak_mib']:.0f} MiB", p["rows_a_sample"])  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", choices=("model", "table"))
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--minutes", type=float, default=16.0, help="of training the model")
    parser.add_argument("--seconds", type=float, default=60.0, help="of the processor, for each h")
    parser.add_argument("--piece", nargs=3, metavar=("STAGE", "TASK", "WAY"), help="one piece, in this process")
    asked = parser.parse_args()
    folder = asked.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    if asked.piece:
        stage, task, way = asked.piece
        (fit if stage == "fit" else draw)(folder, task, way, asked)
        return
    if asked.only != "table":
        train(folder, 0.1 if asked.quick else asked.minutes, 64 if asked.quick else 4096)
    if asked.only == "model":
        return
    tasks = ["inpaint"] if asked.quick else asked.tasks.split(",")
    for task in tasks if asked.only is None else ():
        for way in WAYS:
            for stage, made in (
                ("fit", folder / f"{task}-{way}/h.safetensors"),
                ("draw", folder / f"{task}-{way}.json"),
            ):
                if not made.exists():
                    more = ["--quick"] if asked.quick else ["--seconds", str(asked.seconds)]
                    here = [sys.executable, __file__, "--folder", str(folder), "--piece", stage, task, way, *more]
                    subprocess.run(here, check=True)
    result = HERE / "results/latents/result.json"
    collect(folder, folder / "result.json" if asked.quick else result)


if __name__ == "__main__":
    main()
