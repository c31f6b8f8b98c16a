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
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

import deft
from deft.domains.image.data import fashion
from deft.prior.diffusers import Sample, table
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", choices=("model",))
    parser.add_argument("--minutes", type=float, default=16.0, help="of training the model")
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    train(asked.folder, 0.1 if asked.quick else asked.minutes, 64 if asked.quick else 4096)


if __name__ == "__main__":
    main()
