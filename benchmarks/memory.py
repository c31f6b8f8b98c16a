"""Memory and arithmetic at the size of published models, computed: no weights, no GPU.

    python benchmarks/memory.py                  # the table; benchmarks/results/memory.json
    python benchmarks/memory.py --quick          # tiny models: computed against measured on this CPU
    python benchmarks/memory.py --device cuda    # at true size with random weights, computed against measured there

Every call is run on PyTorch's meta device, whose tensors have shapes and no contents. A dispatch mode counts the bytes
of all storages that are alive: weights, states and gradients of the optimiser, what autograd keeps, and what a layer
needs in passing. "Peak" is the most there is at one moment. FLOPs are those of `torch.utils.flop_counter`, two for a
multiplication with its addition. Attention counts as a fused kernel, which does not keep the matrix of weights, where
PyTorch would take one.

Not counted: workspaces of convolutions, what an allocator rounds up, the CUDA context. What is kept in half precision
is the prior and its autoencoder; h, states and the optimiser are float32.

| model | |
|---|---|
| `sd-unet` | UNet2DConditionModel with Stable Diffusion 1.x's published config, 77 x 768 numbers of text; latents 4 x 64 x 64, measured by a mask in the latents |
| `sd` | the same with its autoencoder, pictures 3 x 512 x 512 measured by a mask, gradient = decoder or encoder |
| `adm-256` | guided-diffusion's 256 x 256 network, pixels, a mask |

| call | |
|---|---|
| prior | one call of the prior, no gradient |
| deft | a sampling step with DEFT |
| dps, pigdm | a sampling step with DPS, PiGDM: forward and backward through the prior |
| fit | a step of a fit with AdamW, the prior called in it; peak with weights, gradients, moments and average |
| fit, cached | the same from the prediction cache: the prior is not called, its weights are there |
"""

from __future__ import annotations

import argparse
import gc
import json
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import flop_registry

import deft
from deft.core.condition import Conditioned
from deft.core.random import BatchNoise
from deft.learned import DEFT  # not within torch.device(...): it has constants of its own
from deft.nn import unet
from deft.nn.adm import ADMUNet
from deft.prior.adm import CONFIGS, ADMConfig
from deft.prior.latent import Autoencoder, LatentPrior
from deft.runtime.memory import PeakMemory
from deft.train.protocols import Batch

OUT = Path(__file__).parent / "results" / "memory.json"
GB = 1e9
SD_UNET: dict[str, Any] = {
    "sample_size": 64, "in_channels": 4, "out_channels": 4, "layers_per_block": 2, "cross_attention_dim": 768,
    "block_out_channels": (320, 640, 1280, 1280), "attention_head_dim": 8,
}  # fmt: skip
SD_VAE: dict[str, Any] = {
    "in_channels": 3, "out_channels": 3, "latent_channels": 4, "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2, "norm_num_groups": 32, "sample_size": 512, "scaling_factor": 0.18215,
    "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
}  # fmt: skip
TOKENS, TEXT = 77, 768
SMALL_UNET = SD_UNET | {
    "sample_size": 32, "block_out_channels": (64, 64, 64, 64), "cross_attention_dim": 32, "layers_per_block": 1,
}  # fmt: skip
SMALL_VAE = SD_VAE | {"block_out_channels": (32, 32, 64, 64), "sample_size": 256}
SMALL_ADM = ADMConfig(image_size=64, num_channels=32, num_res_blocks=1, learn_sigma=True, resblock_updown=True)


# the models


class Prompted(nn.Module):
    """model(x, t, text).sample as net(x, t), the text held fixed."""

    def __init__(self, model: nn.Module, tokens: int, width: int):
        super().__init__()
        self.model = model
        self.register_buffer("text", torch.zeros(1, tokens, width))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return self.model(x, time, self.text.expand(len(x), -1, -1), return_dict=False)[0]


class World(NamedTuple):
    """prior: as deft takes it. weights: those that a call needs, the autoencoder's among them."""

    name: str
    prior: deft.Denoiser
    data_shape: tuple[int, ...]
    methods: tuple[str, ...]


def build(name: str, device: str, dtype: torch.dtype, quick: bool) -> World:
    """A prior with random weights; its schedule (a cosine) changes no memory."""
    gradient = name.partition(":")[2]
    with torch.device(device):
        if name.startswith("adm"):
            config = SMALL_ADM if quick else CONFIGS["imagenet-256"]
            net: nn.Module = ADMUNet(config)
            shape = (3, config.image_size, config.image_size)
        else:
            from diffusers import UNet2DConditionModel

            about = SMALL_UNET if quick else SD_UNET
            net = Prompted(UNet2DConditionModel(**about), TOKENS, about["cross_attention_dim"])
            shape = (4, about["sample_size"], about["sample_size"])
        prior: deft.Denoiser = deft.NetworkDenoiser(
            net, deft.VPCosine(), shape, "eps", time="t", learned_variance=name.startswith("adm")
        )
        if name.startswith("sd:"):
            from diffusers import AutoencoderKL

            autoencoder = Autoencoder(AutoencoderKL(**(SMALL_VAE if quick else SD_VAE)), 0.18215)
            prior = LatentPrior(prior, autoencoder, (3, 8 * shape[1], 8 * shape[2]), gradient, gain=1.0)
    deft.freeze(prior).to(dtype)
    return World(name, prior, tuple(prior.data_shape), ("dps",) if name.startswith("sd:") else ("dps", "pigdm"))


def observation(world: World, batch: int, device: str) -> deft.Observation:
    mask = torch.ones(batch, 1, *world.data_shape[1:])
    side = world.data_shape[-1]
    mask[..., side // 4 : side // 2, side // 4 : side // 2] = 0
    obs = deft.Observation(torch.zeros(batch, *world.data_shape), deft.Gaussian(deft.Mask(mask), 0.05))
    return world.prior.to_latent(obs.to(device))


# what is counted


class Alive(TorchDispatchMode):
    """Bytes of all storages that exist, and the most there were: of what is made while it lasts, and of `known`."""

    def __init__(self, known: Iterable[Tensor]):
        super().__init__()
        self.bytes = self.peak = 0
        self._seen: weakref.WeakSet[Any] = weakref.WeakSet()
        for tensor in known:
            self._add(tensor)

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage in self._seen:
            return
        self._seen.add(storage)
        size = storage.nbytes()
        self.bytes += size
        self.peak = max(self.peak, self.bytes)
        weakref.finalize(storage, self._drop, size)

    def _drop(self, size: int) -> None:
        self.bytes -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for value in tree_iter(out):
            if isinstance(value, Tensor):
                self._add(value)
        return out


class Flops(TorchDispatchMode):
    """Operations by the formulas of `torch.utils.flop_counter`, without its tracking of modules, which a gradient taken
    inside a call (`torch.autograd.grad`) does not go through."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = NAMED_ALIKE.get(func._overloadpacket, func._overloadpacket)
        if name in flop_registry:
            self.total += flop_registry[name](*args, **(kwargs or {}), out_val=out)
        return out


aten = torch.ops.aten
NAMED_ALIKE = {
    aten._scaled_dot_product_flash_attention_for_cpu: aten._scaled_dot_product_flash_attention,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: aten._scaled_dot_product_flash_attention_backward,
}
"""The CPU's fused attention, which has no formula of its own -> the one with the same."""


class Close:
    """`torch.nn.functional` for the UNet of h, whose channels lie close together (channels last): attention is fused."""

    def __getattr__(self, name: str) -> Any:
        return getattr(F, name)

    @staticmethod
    def scaled_dot_product_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return aten._scaled_dot_product_flash_attention_for_cpu(q, k, v)[0]


@contextmanager
def contents(device: str) -> Iterator[None]:
    """On the meta device attention would be taken apart, and its matrix kept: the CPU's fused kernel has a shape
    function of its own, and keeps what those of GPUs keep (q, k, v, the result, and a number for each query). As on
    other devices, it takes no heads whose channels lie apart (guided-diffusion's)."""
    usual = F.scaled_dot_product_attention

    def fused(q: Tensor, k: Tensor, v: Tensor, *args: Any, **options: Any) -> Tensor:
        apart = any(part.stride(-1) != 1 for part in (q, k, v))
        return usual(q, k, v, *args, **options) if apart else Close.scaled_dot_product_attention(q, k, v)

    if device != NONE:
        yield
        return
    F.scaled_dot_product_attention, unet.F = fused, Close()
    try:
        yield
    finally:
        F.scaled_dot_product_attention, unet.F = usual, F


NONE = "meta"


def saved_bytes(call: Callable[[], Any], own: list[Tensor]) -> int:
    """Bytes that autograd keeps for the backward pass of a call, `own` (weights) left out; each storage once."""
    kept: dict[int, Any] = {}
    weights = {id(t.untyped_storage()) for t in own}
    held = [t.untyped_storage() for t in own]  # so that the numbers stay theirs

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if id(storage) not in weights:
            kept[id(storage)] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = call()
    del held, out
    return sum(storage.nbytes() for storage in kept.values())


# the calls


class Calls:
    """What is measured of a world: functions without arguments, and the tensors that are there before."""

    def __init__(self, world: World, batch: int, share: float, device: str):
        self.world, self.device = world, device
        prior, self.t = world.prior, torch.tensor(0.5, dtype=torch.float64)
        self.obs = observation(world, batch, device)
        self.h = DEFT.sized(prior, share, self.obs.likelihood.feature_channels).to(device)
        self.x = torch.zeros(batch, *prior.event_shape, device=device)
        self.noise = BatchNoise(batch, 0)
        self.objective = deft.DenoisingObjective(prior)
        if not world.name.startswith("sd-unet"):
            with contents(device), torch.no_grad():
                self.obs.features()  # made once a call, whatever the number of steps
        self.cached: Any = None

    def weights(self) -> list[Tensor]:
        return [*self.world.prior.parameters(), *self.world.prior.buffers()]

    def there(self, trained: bool) -> list[Tensor]:
        """Weights, data, and for a fit the optimiser's two moments and the average of the weights."""
        own = [*self.h.parameters(), *self.h.buffers()]
        states = [torch.zeros_like(p) for p in self.h.parameters() for _ in range(3)] if trained else []
        return [*self.weights(), *own, *states, self.x, self.obs.y]

    def prior(self) -> None:
        with torch.no_grad():
            self.world.prior(self.x, self.t)

    def step(self, h: deft.HTransform) -> None:
        h.eval().requires_grad_(False)
        mean = Conditioned(self.world.prior, h, self.obs)(self.x, self.t).mean
        self.x + mean  # the sampler's own arithmetic

    def deft(self) -> None:
        self.step(self.h)

    def dps(self) -> None:
        self.step(deft.DPS())

    def pigdm(self) -> None:
        self.step(deft.PiGDM())

    def loss(self) -> Tensor:
        self.h.train().requires_grad_(True)
        return self.objective(self.h, Batch(self.x, self.obs, self.cached), self.noise).value

    def fit(self) -> None:
        self.loss().backward()
        self.h.zero_grad(set_to_none=True)

    def fit_cached(self) -> None:
        self.cached = self.objective.predict(self.x, self.noise).detach() if self.cached is None else self.cached
        self.fit()


CALLS = {"prior": "prior", "deft": "deft", "dps": "dps", "pigdm": "pigdm", "fit": "fit", "fit, cached": "fit_cached"}


def peak(calls: Calls, name: str) -> int:
    """The most bytes alive in a call, all that is there before it included."""
    call = getattr(calls, CALLS[name])
    if name == "fit, cached":
        with contents(calls.device):
            call()
    gc.collect()
    there = calls.there(name.startswith("fit"))
    there += [] if calls.cached is None else [calls.cached.mean, calls.cached.x_t]
    with contents(calls.device), Alive(there) as alive:
        call()
    return alive.peak


def measured_peak(calls: Calls, name: str, device: str) -> float:
    """Bytes above what was there, as the device's allocator (CUDA) or the system (Linux) tells."""
    call = getattr(calls, CALLS[name])
    call()  # kernels are chosen, libraries loaded
    with PeakMemory(device) as memory:
        call()
    return float("nan") if memory.mib is None else memory.mib * 2**20


def flops(calls: Calls, name: str) -> int:
    with contents(calls.device), Flops() as counter:
        getattr(calls, CALLS[name])()
    return counter.total


def size_of(tensors: list[Tensor]) -> int:
    return sum({id(s := t.untyped_storage()): s.nbytes() for t in tensors}.values())


def row(
    name: str, dtype: torch.dtype, batch: int, share: float, *, quick: bool = False, counted: bool = True
) -> dict[str, Any]:
    """All that is computed of one model, precision, batch and size of h. counted: FLOPs, too."""
    world = build(name, NONE, dtype, quick)
    calls = Calls(world, batch, share, NONE)
    trained = sum(p.numel() for p in calls.h.parameters())
    with contents(NONE):
        saved = saved_bytes(calls.loss, [*calls.h.parameters(), *calls.h.buffers(), *calls.weights()])
    found = {
        "model": name, "dtype": str(dtype).removeprefix("torch."), "batch": batch, "share": share,
        "parameters": world.prior.parameter_count(), "weights": size_of(calls.weights()),
        "h_parameters": trained, "h_width": calls.h.width, "h_state": 20 * trained, "h_saved": saved,
    }  # fmt: skip
    names = ["prior", "deft", *world.methods, "fit", "fit, cached"]
    found["peak"] = {k: peak(calls, k) for k in names}
    calls.cached = None
    return found | ({"flops": {k: flops(calls, k) for k in names[:-1]}} if counted else {})


# computed against measured, on this machine


BOUND = (0.8, 1.6)
"""What a process's memory rises by, over what is computed: convolutions have workspaces, and pages are whole."""


def check(
    device: str, names: tuple[str, ...], quick: bool, batch: int, only: tuple[str, ...] = ()
) -> list[dict[str, Any]]:
    """Of each model the bytes that autograd keeps and the peak of each call, computed without contents, counted on
    the device itself, and measured by its allocator or the system."""
    rows = []
    for name in names:
        made = {where: Calls(build(name, where, torch.float32, quick), batch, 0.09, where) for where in (NONE, device)}
        saved = {}
        for where, calls in made.items():
            with contents(where):
                own = [*calls.h.parameters(), *calls.h.buffers(), *calls.weights()]
                saved[where] = saved_bytes(calls.loss, own)
        for call in only or ("prior", "deft", *made[NONE].world.methods, "fit"):
            before = size_of(made[NONE].there(False))
            states = size_of(made[NONE].there(True)) - before if call == "fit" else 0
            rows.append(
                {
                    "model": name,
                    "call": call,
                    "saved_computed": saved[NONE],
                    "saved_counted": saved[device],
                    "computed": peak(made[NONE], call) - before - states,
                    "counted": peak(made[device], call) - before - states,
                    "measured": measured_peak(made[device], call, device),
                }
            )
    return rows


# for people


def tables(rows: list[dict[str, Any]]) -> str:
    """Markdown, in 10^9 bytes."""
    out = [
        "| model | weights | batch | h | h in training | sampling: prior | DEFT | DPS | ΠGDM | fit | fit, cached |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        peaks = [r["peak"].get(k) for k in ("prior", "deft", "dps", "pigdm", "fit", "fit, cached")]
        shown = " | ".join("" if p is None else f"{p / GB:.1f}" for p in peaks)
        # the decoder's own pass is among what is kept there, and gone before h is trained
        in_training = "" if r["model"] == "sd:decoder" else f"{(r['h_state'] + r['h_saved']) / GB:.2f}"
        h = f"{r['h_parameters'] / 1e6:.1f} M ({100 * r['share']:.0f} %)"
        out.append(
            f"| `{r['model']}` | {r['dtype']}, {r['weights'] / GB:.2f} | {r['batch']} | {h} | {in_training} | {shown} |"
        )
    out += [
        "",
        "| model | FLOPs of a call of the prior | DEFT | DPS | ΠGDM | a step of a fit |",
        "|---|---|---|---|---|---|",
    ]
    for r in rows:
        if "flops" in r:
            one, base = r["flops"], r["flops"]["prior"]
            ratios = " | ".join("" if k not in one else f"{one[k] / base:.2f}" for k in ("deft", "dps", "pigdm", "fit"))
            out.append(f"| `{r['model']}`, h {100 * r['share']:.0f} % | {base / r['batch'] / 1e9:,.0f} G | {ratios} |")
    return "\n".join(out)


MODELS = ("sd-unet", "sd:encoder", "sd:decoder", "adm-256")


def asked(batches: list[int]) -> Iterator[tuple[torch.dtype, int, float]]:
    """Precision, batch and size of h of the rows: an h of 9 % at the first batch in float32 alone."""
    yield torch.float32, batches[0], 0.09
    for dtype in (torch.float32, torch.float16):
        for batch in batches:
            yield dtype, batch, 0.04


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny models, computed against measured")
    parser.add_argument("--device", default="", help="measure there, with random weights (cuda)")
    parser.add_argument("--batch", type=int, nargs="+", help="default 4 16; of --quick 1")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    given.batch = given.batch or ([1] if given.quick else [4, 16])
    if given.quick or given.device:
        rows = check(given.device or "cpu", tuple(given.models), given.quick, given.batch[0])
        for r in rows:
            print(
                f"{r['model']:11} {r['call']:6} computed {r['computed'] / 2**20:9.1f} MiB, counted"
                f" {r['counted'] / 2**20:9.1f}, measured {r['measured'] / 2**20:9.1f}; kept for backward"
                f" {r['saved_computed'] / 2**20:.1f} and {r['saved_counted'] / 2**20:.1f}"
            )
        return
    rows = [
        row(name, dtype, batch, share, counted=(dtype, batch) == (torch.float32, given.batch[0]))
        for name in given.models
        for dtype, batch, share in asked(given.batch)
    ]
    given.out.write_text(json.dumps({"torch": torch.__version__, "rows": rows}, indent=1) + "\n")
    print(tables(rows))


if __name__ == "__main__":
    main()
