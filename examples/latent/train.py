"""A small latent diffusion model of clothes, saved as diffusers saves one: python train.py OUT [MINUTES]

An AutoencoderKL (1x32x32 -> 4x8x8) and an unconditional UNet2DModel on its latents, from Fashion-MNIST. It exists to
have something to measure latent h-transforms on (docs/latent.md); a quarter of an hour on one core.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DModel

import deft
from deft.domains.image.data import fashion
from deft.prior.diffusers import Sample, table
from deft.train.data import Clean
from deft.train.denoising import PriorObjective


def autoencoder() -> AutoencoderKL:
    return AutoencoderKL(
        in_channels=1,
        out_channels=1,
        latent_channels=4,
        block_out_channels=(8, 32, 64),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        sample_size=32,
        mid_block_add_attention=False,
    )


def unet() -> UNet2DModel:
    return UNet2DModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(64, 96),
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )


def fit_autoencoder(model: AutoencoderKL, x: torch.Tensor, seconds: float) -> None:
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.0)
    start, step = time.monotonic(), 0
    while (gone := (time.monotonic() - start) / seconds) < 1:
        batch = x[torch.randint(len(x), (32,))]
        code = model.encode(batch).latent_dist
        z = code.mean + 0.05 * torch.randn_like(code.mean)  # a little noise keeps the latents' scale meaningful
        loss = (model.decode(z).sample - batch).square().mean() + 1e-4 * code.mean.square().mean()
        for group in optimiser.param_groups:
            group["lr"] = 2e-3 * min(1, (step + 1) / 100) * (1 - gone)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        step += 1
        if step % 200 == 0:
            print(f"autoencoder: step {step}, {time.monotonic() - start:.0f} s, loss {float(loss):.4f}", flush=True)


def main() -> None:
    out, minutes = Path(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else 15.0
    torch.manual_seed(0)
    source = Path("fashion-mnist/train.npz")  # examples/fashion/make_data.py --all fashion-mnist
    pixels = np.load(source)["x"] if source.exists() else None
    x = fashion("fit").x if pixels is None else torch.from_numpy(pixels).float()[:, None] / 127.5 - 1
    x = x.reshape(-1, 1, 32, 32)

    vae = autoencoder()
    fit_autoencoder(vae, x, minutes * 60 * 0.4)
    vae.eval().requires_grad_(False)
    with torch.no_grad():
        z = torch.cat([vae.encode(part).latent_dist.mean for part in x.split(500)])
        error = (vae.decode(z[:500]).sample - x[:500]).square().mean()
    scale = float(1 / z.std())
    vae.register_to_config(scaling_factor=scale)
    print(f"autoencoder: rms error {float(error.sqrt()):.4f}, scaling_factor {scale:.4f}", flush=True)

    scheduler = DDPMScheduler(prediction_type="v_prediction", clip_sample=False)
    net = unet()
    prior = deft.NetworkDenoiser(Sample(net), table(scheduler.alphas_cumprod), (4, 8, 8), "v")
    config = deft.FitConfig(steps=200_000, batch=64, lr=1e-3, warmup=200, ema=0.999, max_seconds=minutes * 60 * 0.6)
    done = deft.fit(
        prior,
        PriorObjective(),
        Clean(z * scale),
        Clean(z[:1000] * scale),
        config=config,
        device="cpu",
        progress=False,
        callback=print,
    )
    print(f"unet: {prior.parameter_count():,} parameters, {done.steps} steps, loss {done.held_out}", flush=True)

    net.save_pretrained(out / "unet")
    vae.save_pretrained(out / "vae")
    scheduler.save_pretrained(out / "scheduler")
    index = {
        "_class_name": "LDMPipeline",
        "unet": ["diffusers", "UNet2DModel"],
        "scheduler": ["diffusers", "DDPMScheduler"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (out / "model_index.json").write_text(json.dumps(index))


if __name__ == "__main__":
    main()
