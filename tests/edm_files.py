"""EDM's and EDM2's networks written out once more, as functions of a state dict, and pickles in the published layout:
what tests compare `deft.nn.edm` and `deft.prior.edm` with."""

from __future__ import annotations

import copy
import math
import pickle
import sys
import types
from collections import OrderedDict

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

# Names and shapes of the published files, from the architecture's arguments.


def song_shapes(
    side=8, channels=3, width=8, mult=(1, 2), emb=16, noise=8, blocks=1, attention=(4,), classes=0, augment=0,
    fourier=False, aux_in="standard", aux_out="standard", taps=2, adm=False,
):  # fmt: skip
    """name -> shape of SongUNet or (adm) DhariwalUNet, in the order of the file."""
    out = {}

    def conv(name, a, b, k, filter=False):
        if k:
            out[f"{name}.weight"], out[f"{name}.bias"] = (b, a, k, k), (b,)
        if filter:
            out[f"{name}.resample_filter"] = (1, 1, taps, taps)

    def vector(name, n):
        out[f"{name}.weight"] = out[f"{name}.bias"] = (n,)

    def block(name, a, b, resample=False, attend=False):
        vector(f"{name}.norm0", a)
        conv(f"{name}.conv0", a, b, 3, resample)
        out[f"{name}.affine.weight"], out[f"{name}.affine.bias"] = (b * (1 + adm), emb), (b * (1 + adm),)
        vector(f"{name}.norm1", b)
        conv(f"{name}.conv1", b, b, 3)
        if a != b or resample:
            conv(f"{name}.skip", a, b, 0 if adm and a == b else 1, resample)
        if attend:
            vector(f"{name}.norm2", b)
            conv(f"{name}.qkv", b, 3 * b, 1)
            conv(f"{name}.proj", b, b, 1)

    if fourier:
        out["map_noise.freqs"] = (noise // 2,)
    if classes and not adm:
        out["map_label.weight"], out["map_label.bias"] = (noise, classes), (noise,)
    if augment:
        out["map_augment.weight"] = (noise, augment)
    for name, shape in (("map_layer0", (emb, noise)), ("map_layer1", (emb, emb))):
        out[f"{name}.weight"], out[f"{name}.bias"] = shape, shape[:1]
    if classes and adm:
        out["map_label.weight"] = (emb, classes)
    last = len(mult) - 1
    c, aux, kept = width * (mult[0] if adm else 1), channels, []
    for i, m in enumerate(mult):
        here = f"enc.{side >> i}x{side >> i}_"
        if i == 0:
            conv(here + "conv", channels, c, 3)
        else:
            block(here + "down", c, c, True)
            if aux_in == "skip":
                conv(here + "aux_down", aux, aux, 0, True)
                conv(here + "aux_skip", aux, c, 1)
            if aux_in == "residual":
                conv(here + "aux_residual", aux, c, 3, True)
                aux = c
        kept.append(c)
        for j in range(blocks):
            block(f"{here}block{j}", c, width * m, attend=side >> i in attention)
            c = width * m
            kept.append(c)
    for i in range(last, -1, -1):
        here = f"dec.{side >> i}x{side >> i}_"
        if i == last:
            block(here + "in0", c, c, attend=True)
            block(here + "in1", c, c)
        else:
            block(here + "up", c, c, True)
        for j in range(blocks + 1):
            attend = side >> i in attention and (adm or j == blocks)
            block(f"{here}block{j}", c + kept.pop(), width * mult[i], attend=attend)
            c = width * mult[i]
        if not adm and (i == 0 or aux_out == "skip"):
            if i < last and aux_out == "skip":
                conv(here + "aux_up", channels, channels, 0, True)
            vector(here + "aux_norm", c)
            conv(here + "aux_conv", c, channels, 3)
    if adm:
        vector("out_norm", c)
        conv("out_conv", c, channels, 3)
    return out


def edm2_shapes(side=8, channels=4, width=8, mult=(1, 2), emb=16, noise=8, blocks=1, attention=(4,), classes=0):
    out = {"out_gain": ()}

    def block(name, a, b, encoder, attend=False):
        out[f"{name}.emb_gain"] = ()
        out[f"{name}.conv_res0.weight"] = (b, b if encoder else a, 3, 3)
        out[f"{name}.emb_linear.weight"] = (b, emb)
        out[f"{name}.conv_res1.weight"] = (b, b, 3, 3)
        if a != b:
            out[f"{name}.conv_skip.weight"] = (b, a, 1, 1)
        if attend:
            out[f"{name}.attn_qkv.weight"], out[f"{name}.attn_proj.weight"] = (3 * b, b, 1, 1), (b, b, 1, 1)

    out["emb_fourier.freqs"] = out["emb_fourier.phases"] = (noise,)
    out["emb_noise.weight"] = (emb, noise)
    if classes:
        out["emb_label.weight"] = (emb, classes)
    c, kept, last = width * mult[0], [width * mult[0]], len(mult) - 1
    for i, m in enumerate(mult):
        here = f"enc.{side >> i}x{side >> i}_"
        if i:
            block(here + "down", c, c, True)
            kept.append(c)
        else:
            out[here + "conv.weight"] = (c, channels + 1, 3, 3)
        for j in range(blocks):
            block(f"{here}block{j}", c, width * m, True, side >> i in attention)
            c = width * m
            kept.append(c)
    for i in range(last, -1, -1):
        here = f"dec.{side >> i}x{side >> i}_"
        if i == last:
            block(here + "in0", c, c, False, True)
            block(here + "in1", c, c, False)
        else:
            block(here + "up", c, c, False)
        for j in range(blocks + 1):
            block(f"{here}block{j}", c + kept.pop(), width * mult[i], False, side >> i in attention)
            c = width * mult[i]
    out["out_conv.weight"] = (channels, c, 3, 3)
    return out


def filled(shapes, seed=0):
    """Random tensors without zeros in them; filters are the published ones."""
    g = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in shapes.items():
        if name.endswith("resample_filter"):
            row = torch.tensor({2: [1.0, 1.0], 4: [1.0, 3.0, 3.0, 1.0]}[shape[-1]])
            state[name] = torch.outer(row, row)[None, None] / row.sum() ** 2
        elif "norm" in name and name.endswith("weight"):
            state[name] = 1 + 0.2 * torch.randn(shape, generator=g)
        elif len(shape) < 2:
            state[name] = 0.3 * torch.randn(shape, generator=g) + (0.5 if name.endswith("gain") else 0)
        else:
            state[name] = torch.randn(shape, generator=g) / math.sqrt(math.prod(shape[1:]))
    return state


# The networks, from the formulas, for one state dict.


def sums(x, f, up):
    """Every output pixel of resampling by a filter, as a sum over its taps: written without convolutions."""
    k = f.shape[-1]
    b, c, h, w = x.shape
    margin = (k - 1) // 2
    if up:
        wide = x.new_zeros(b, c, 2 * h + 2 * k, 2 * w + 2 * k)
        for i in range(h):
            for j in range(w):
                wide[..., 2 * i + k : 2 * i + 2 * k, 2 * j + k : 2 * j + 2 * k] += 4 * f * x[..., i, j, None, None]
        start = k + margin
        return wide[..., start : start + 2 * h, start : start + 2 * w]
    padded = F.pad(x, (margin,) * 4)
    out = x.new_zeros(b, c, h // 2, w // 2)
    for i in range(h // 2):
        for j in range(w // 2):
            out[..., i, j] = (padded[..., 2 * i : 2 * i + k, 2 * j : 2 * j + k] * f).sum((-1, -2))
    return out


def attention(q, k, v):
    """[B, heads, d, N] each."""
    weight = torch.einsum("bhdq,bhdk->bhqk", q, k / math.sqrt(q.shape[2])).softmax(-1)
    return torch.einsum("bhqk,bhdk->bhdq", weight, v)


def song(state, x, time, code=None, adm=False):
    """F(x, c_noise, code)."""
    gain, eps = (1.0, 1e-5) if adm else (0.5**0.5, 1e-6)

    def conv(name, z, mode=""):
        f, w = state.get(name + ".resample_filter"), state.get(name + ".weight")
        if mode:
            z = sums(z, f, mode == "up")
        return z if w is None else F.conv2d(z, w, state[name + ".bias"], padding=w.shape[-1] // 2)

    def linear(name, z):
        return F.linear(z, state[name + ".weight"], state.get(name + ".bias"))

    def norm(name, z):
        w = state[name + ".weight"]
        return F.group_norm(z, min(32, len(w) // 4), w, state[name + ".bias"], eps)

    def block(name, z, mode=""):
        first = z
        e = linear(name + ".affine", emb)[:, :, None, None]
        z = conv(name + ".conv0", F.silu(norm(name + ".norm0", z)), mode)
        if adm:
            a, b = e.chunk(2, 1)
            z = norm(name + ".norm1", z) * (1 + a) + b
        else:
            z = norm(name + ".norm1", z + e)
        z = conv(name + ".conv1", F.silu(z))
        if mode or name + ".skip.weight" in state:
            first = conv(name + ".skip", first, mode)
        z = (z + first) * gain
        if name + ".qkv.weight" in state:
            c = z.shape[1]
            heads = max(1, c // 64) if adm else 1
            qkv = conv(name + ".qkv", norm(name + ".norm2", z)).reshape(len(z), heads, c // heads, 3, -1)
            z = (z + conv(name + ".proj", attention(*qkv.unbind(3)).reshape(z.shape))) * gain
        return z

    n = state["map_layer0.weight"].shape[1]
    if "map_noise.freqs" in state:
        angle = 2 * math.pi * time[:, None] * state["map_noise.freqs"]
    else:
        angle = time[:, None] * 10_000.0 ** -(torch.arange(n // 2) / (n // 2 - (not adm)))
    emb = torch.cat([angle.cos(), angle.sin()] if adm else [angle.sin(), angle.cos()], 1)
    if code is not None and not adm:
        emb = emb + linear("map_label", code * code.shape[1] ** 0.5)
    emb = linear("map_layer1", F.silu(linear("map_layer0", emb)))
    if code is not None and adm:
        emb = emb + linear("map_label", code)
    emb = F.silu(emb)

    order = list(dict.fromkeys(".".join(k.split(".")[:2]) for k in state if k.startswith(("enc.", "dec."))))
    kept, z, aux = [], x, x
    for name in (k for k in order if k.startswith("enc.")):
        part = name.rpartition("_")[2] if "aux" not in name else name.partition("aux_")[2]
        if name.endswith("aux_down"):
            aux = conv(name, aux, "down")
        elif part == "skip":
            z = kept[-1] = z + conv(name, aux)
        elif part == "residual":
            w, f = state[name + ".weight"], state[name + ".resample_filter"]
            m = (f.shape[-1] - 1) // 2
            blurred = F.conv2d(aux, w, padding=1 + m)
            blurred = F.conv2d(blurred, f.expand(len(w), 1, -1, -1), stride=2, groups=len(w))
            z = kept[-1] = aux = (z + blurred + state[name + ".bias"][:, None, None]) / 2**0.5
        else:
            z = conv(name, z) if part == "conv" else block(name, z, "down" if part == "down" else "")
            kept.append(z)
    out = None
    for name in (k for k in order if k.startswith("dec.")):
        part = name.partition("_")[2]
        if part == "aux_up":
            out = conv(name, out, "up")
        elif part == "aux_norm":
            z_out = F.silu(norm(name, z))
        elif part == "aux_conv":
            out = conv(name, z_out) + (0 if out is None else out)
        else:
            z = torch.cat([z, kept.pop()], 1) if "block" in part else z
            z = block(name, z, "up" if part == "up" else "")
    return conv("out_conv", F.silu(norm("out_norm", z))) if adm else out


def edm2(state, x, time, code=None):
    def length(z, dims):
        return z / (1e-4 + z.square().mean(dims, keepdim=True).sqrt())

    def layer(name, z, gain=1.0):
        w = state[name + ".weight"]
        dims = tuple(range(1, w.ndim))
        w = length(w, dims) * gain / math.prod(w.shape[1:]) ** 0.5
        return z @ w.T if w.ndim == 2 else F.conv2d(z, w, padding=w.shape[-1] // 2)

    def plus(a, b, t):
        return (a + t * (b - a)) / ((1 - t) ** 2 + t**2) ** 0.5

    def act(z):
        return z * z.sigmoid() / 0.596

    def block(name, z, encoder, mode=""):
        if mode == "down":
            z = (z[..., ::2, ::2] + z[..., 1::2, ::2] + z[..., ::2, 1::2] + z[..., 1::2, 1::2]) / 4
        if mode == "up":
            z = z.repeat_interleave(2, -1).repeat_interleave(2, -2)
        skip = name + ".conv_skip.weight" in state
        if encoder:
            z = length(layer(name + ".conv_skip", z) if skip else z, 1)
        y = layer(name + ".conv_res0", act(z))
        y = y * (1 + layer(name + ".emb_linear", emb, state[name + ".emb_gain"]))[:, :, None, None]
        y = layer(name + ".conv_res1", act(y))
        z = plus(layer(name + ".conv_skip", z) if skip and not encoder else z, y, 0.3)
        if name + ".attn_qkv.weight" in state:
            c = z.shape[1]
            heads = max(1, c // 64)
            q, k, v = layer(name + ".attn_qkv", z).reshape(len(z), heads, c // heads, 3, -1).unbind(3)
            seen = attention(length(q, 2), length(k, 2), length(v, 2)).reshape(z.shape)
            z = plus(z, layer(name + ".attn_proj", seen), 0.3)
        return z.clip(-256, 256)

    emb = 2**0.5 * (time[:, None] * state["emb_fourier.freqs"] + state["emb_fourier.phases"]).cos()
    emb = layer("emb_noise", emb)
    if "emb_label.weight" in state:
        classes = state["emb_label.weight"].shape[1]
        code = torch.zeros(len(x), classes) if code is None else code
        emb = plus(emb, layer("emb_label", code * classes**0.5), 0.5)
    emb = act(emb)
    order = list(dict.fromkeys(".".join(k.split(".")[:2]) for k in state if k.startswith(("enc.", "dec."))))
    z, kept = torch.cat([x, torch.ones_like(x[:, :1])], 1), []
    for name in (k for k in order if k.startswith("enc.")):
        z = layer(name, z) if name.endswith("conv") else block(name, z, True, "down" if name.endswith("down") else "")
        kept.append(z)
    for name in (k for k in order if k.startswith("dec.")):
        if "block" in name:
            other = kept.pop()
            a, b = z.shape[1], other.shape[1]
            share = ((a + b) / 0.5) ** 0.5 * 0.5
            z = torch.cat([share / a**0.5 * z, share / b**0.5 * other], 1)
        z = block(name, z, False, "up" if name.endswith("up") else "")
    return layer("out_conv", z, state["out_gain"])


# Pickles.


class Kept(nn.Module):
    """A module that pickles itself as EDM's code does: one call, of a dictionary with the source and the state."""

    def __init__(self, what, **options):
        super().__init__()
        self.what = what
        self._init_args, self._init_kwargs = (), copy.deepcopy(options)
        self.scale = np.sqrt(0.5)  # a number of NumPy, as the published ones have

    def __reduce__(self):
        meta = {
            "type": "class", "version": 6, "module_src": "raise SystemExit('it ran')", "class_name": self.what,
            "state": dict(self.__dict__),
        }  # fmt: skip
        return sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj, (meta,), None


def _reconstruct_persistent_obj(meta):
    raise AssertionError("the code of a pickle ran")


def tree(state, what, outer, **options):
    """Modules that hold a state dict, the outer ones named as the published classes are."""
    root = Kept(what, **options)
    for name, value in state.items():
        *path, last = name.split(".")
        here = root
        for depth, part in enumerate(path):
            inner = here[part] if isinstance(here, nn.ModuleDict) and part in here else here._modules.get(part)
            if inner is None:
                inner = nn.ModuleDict() if part in ("enc", "dec") else Kept(outer.get(part, "Conv2d"), depth=depth)
                here.add_module(part, inner)
            here = inner
        if last in ("resample_filter", "freqs", "phases", "u"):
            here.register_buffer(last, value)
        else:
            here.register_parameter(last, nn.Parameter(value))
    return root.requires_grad_(False)


INNER = {"model": "SongUNet", "unet": "UNet"}


def write_pickle(path, state, what="EDMPrecond", prefix="model.", protocol=4, more=None, **options):
    """A pickle in the published layout: {"ema": module, "loss_fn": object, "dataset_kwargs": settings}."""
    module = types.ModuleType("torch_utils.persistence")
    module._reconstruct_persistent_obj = _reconstruct_persistent_obj
    before, name = (
        {k: sys.modules.get(k) for k in ("torch_utils", module.__name__)},
        _reconstruct_persistent_obj.__module__,
    )
    sys.modules.update({"torch_utils": types.ModuleType("torch_utils"), module.__name__: module})
    _reconstruct_persistent_obj.__module__ = module.__name__
    try:
        whole = {
            "ema": tree(
                {prefix + k: v for k, v in state.items()}, what, {"model": "SongUNet", "unet": "UNet"}, **options
            ),
            "loss_fn": Kept("EDMLoss", P_mean=-1.2),
            "augment_pipe": None,
            "dataset_kwargs": OrderedDict(path="images.zip", resolution=8, use_labels=False),
        }
        path.write_bytes(pickle.dumps(whole | (more or {}), protocol=protocol))
    finally:
        _reconstruct_persistent_obj.__module__ = name
        for key, value in before.items():
            if value is None:
                sys.modules.pop(key)
            else:
                sys.modules[key] = value
    return path
