"""Guided-diffusion checkpoints: published names, shapes and counts, the network against other ways to write it,
loading."""

from __future__ import annotations

import math
import pathlib
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from deft import DDIM, sample
from deft.core.denoiser import fingerprint
from deft.errors import CheckpointError, InputError
from deft.nn.adm import ADMConfig, ADMUNet, Attention, Norm, ResBlock, sinusoids
from deft.prior.adm import CONFIGS, FILES, infer_config, load_adm, noise_schedule, read_state, recognise

TINY = ADMConfig(
    image_size=16, num_channels=32, num_res_blocks=1, channel_mult=(1, 2), attention_resolutions="8", num_heads=2
)
SMALL = {
    "plain": replace(TINY, use_scale_shift_norm=False),
    "conv resampling": replace(TINY, num_res_blocks=2, learn_sigma=True),
    "resblock_updown": replace(TINY, resblock_updown=True, learn_sigma=True),
    "class_cond": replace(TINY, class_cond=True, num_classes=5, resblock_updown=True),
    "attention everywhere": replace(
        TINY, attention_resolutions="16,8", num_head_channels=16, use_new_attention_order=True
    ),
    "no attention": replace(TINY, attention_resolutions="", num_res_blocks=2, resblock_updown=True),
    "narrow first level": replace(
        TINY, num_channels=64, channel_mult=(0.5, 1, 1), image_size=32, resblock_updown=True, learn_sigma=True
    ),
    "grey, cosine": replace(TINY, in_channels=1, learn_sigma=True, noise_schedule="cosine", diffusion_steps=100),
    "rescaled time": replace(TINY, diffusion_steps=4000, rescale_timesteps=True, dropout=0.1),
}


def random_net(config, seed=0):
    """A network without zeros in it: every weight matters."""
    torch.manual_seed(seed)
    net = ADMUNet(config).eval()
    for p in net.parameters():
        nn.init.normal_(p, std=0.1) if p.ndim == 1 else nn.init.normal_(p, std=0.7 / math.sqrt(p[0].numel()))
    for m in net.modules():
        if isinstance(m, Norm):
            nn.init.normal_(m.weight, 1, 0.1)
    return net.requires_grad_(False)


def inputs(config, n=2):
    torch.manual_seed(1)
    y = torch.arange(n) % config.num_classes if config.class_cond else None
    return torch.randn(n, config.in_channels, config.image_size, config.image_size), torch.tensor([3.0, 57.5])[:n], y


def label_of(config):
    return 0 if config.class_cond else None


def meta_net(config):
    with torch.device("meta"):
        return ADMUNet(config)


@pytest.fixture
def file(tmp_path):
    """A file of the tiny network's weights."""
    torch.save(random_net(TINY).state_dict(), tmp_path / "tiny.pt")
    return tmp_path / "tiny.pt"


# What is published: counts, names, shapes.


def test_parameter_counts():
    """Dhariwal & Nichol 2021, tables of hyperparameters (296M, 422M, 554M, 559M); 552.8M is the unconditional one."""
    counts = {name: sum(p.numel() for p in meta_net(config).parameters()) for name, config in CONFIGS.items()}
    assert counts["imagenet-256"] == 552_814_086
    assert counts["lsun-bedroom"] == counts["lsun-cat"] == counts["lsun-horse"] == 552_814_086
    millions = {"imagenet-64-cond": 296, "imagenet-128-cond": 422, "imagenet-256-cond": 554, "imagenet-512-cond": 559}
    assert {name: round(counts[name] / 1e6) for name in millions} == millions
    assert round(counts["imagenet-256"] / 1e6, 1) == 552.8
    assert counts["imagenet-256-cond"] - counts["imagenet-256"] == 1000 * 1024


PUBLISHED = {
    "imagenet-256": {
        "time_embed.0.weight": (1024, 256),
        "time_embed.2.bias": (1024,),
        "input_blocks.0.0.weight": (256, 3, 3, 3),
        "input_blocks.1.0.in_layers.0.weight": (256,),
        "input_blocks.1.0.in_layers.2.weight": (256, 256, 3, 3),
        "input_blocks.1.0.emb_layers.1.weight": (512, 1024),
        "input_blocks.1.0.out_layers.0.bias": (256,),
        "input_blocks.1.0.out_layers.3.weight": (256, 256, 3, 3),
        "input_blocks.3.0.in_layers.2.weight": (256, 256, 3, 3),  # a ResBlock that halves the side
        "input_blocks.7.0.skip_connection.weight": (512, 256, 1, 1),
        "input_blocks.10.1.norm.weight": (512,),
        "input_blocks.10.1.qkv.weight": (1536, 512, 1),
        "input_blocks.17.1.proj_out.weight": (1024, 1024, 1),
        "middle_block.0.in_layers.2.weight": (1024, 1024, 3, 3),
        "middle_block.1.qkv.weight": (3072, 1024, 1),
        "middle_block.1.proj_out.bias": (1024,),
        "middle_block.2.out_layers.3.weight": (1024, 1024, 3, 3),
        "output_blocks.0.0.in_layers.2.weight": (1024, 2048, 3, 3),
        "output_blocks.2.2.in_layers.2.weight": (1024, 1024, 3, 3),  # after the attention: twice the side
        "output_blocks.11.1.out_layers.3.weight": (512, 512, 3, 3),
        "output_blocks.17.0.skip_connection.weight": (256, 512, 1, 1),
        "out.0.weight": (256,),
        "out.2.weight": (6, 256, 3, 3),
        "out.2.bias": (6,),
    },
    "imagenet-64-cond": {"label_emb.weight": (1000, 768), "input_blocks.0.0.weight": (192, 3, 3, 3)},
    "imagenet-512-cond": {
        "input_blocks.0.0.weight": (128, 3, 3, 3),
        "out.2.weight": (6, 128, 3, 3),
        "time_embed.0.weight": (1024, 256),
    },
    "ffhq-256": {
        "time_embed.0.weight": (512, 128),
        "input_blocks.9.1.qkv.weight": (1536, 512, 1),
        "output_blocks.3.2.in_layers.2.weight": (512, 512, 3, 3),
        "out.2.weight": (6, 128, 3, 3),
    },
}
ABSENT = {
    "imagenet-256": (
        "label_emb.weight",
        "input_blocks.9.1.qkv.weight",
        "input_blocks.18.0.in_layers.0.weight",
        "input_blocks.3.0.op.weight",
    ),
    "ffhq-256": (
        "input_blocks.7.1.qkv.weight",
        "input_blocks.11.1.qkv.weight",
        "output_blocks.12.0.in_layers.0.weight",
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_names_and_shapes(name):
    state = meta_net(CONFIGS[name]).state_dict()
    assert {k: tuple(state[k].shape) for k in PUBLISHED[name]} == PUBLISHED[name]
    assert not [k for k in ABSENT.get(name, ()) if k in state]
    assert recognise(state) and set(FILES) == set(CONFIGS)


def test_published_flags():
    """The README of guided-diffusion: 4 heads at 128, heads of 64 channels elsewhere; the 64 model differs the most."""
    assert {name: c.heads(c.widths[-1]) for name, c in CONFIGS.items()} == {
        name: {"imagenet-64-cond": 12, "imagenet-128-cond": 4, "ffhq-256": 8}.get(name, 16) for name in CONFIGS
    }
    assert [name for name, c in CONFIGS.items() if c.use_new_attention_order] == ["imagenet-64-cond"]
    assert [name for name, c in CONFIGS.items() if c.noise_schedule == "cosine"] == ["imagenet-64-cond"]
    assert all(c.resblock_updown and c.use_scale_shift_norm and c.learn_sigma for c in CONFIGS.values())
    assert {c.diffusion_steps for c in CONFIGS.values()} == {1000}


def test_resampling_by_convs_has_its_names():
    state = meta_net(replace(TINY, attention_resolutions="")).state_dict()
    assert state["input_blocks.2.0.op.weight"].shape == (32, 32, 3, 3)
    assert state["output_blocks.1.1.conv.weight"].shape == (64, 64, 3, 3)
    assert "output_blocks.1.2.conv.weight" in meta_net(TINY).state_dict()  # after the attention


def test_untrained_branches_are_no_ops():
    net = ADMUNet(TINY)
    assert not net.out[2].weight.any() and not net.middle_block[1].proj_out.weight.any()
    x = torch.randn(1, 64, 8, 8)
    assert torch.equal(net.middle_block[0](x, torch.randn(1, 128)), x) and torch.equal(net.middle_block[1](x, x), x)


# The parts against their formulas.


def test_sinusoids():
    t, dim = torch.tensor([0.0, 1.0, 250.25, 999.0], dtype=torch.float64), 8
    expected = [
        [math.cos(ti * 10000 ** (-i / 4)) for i in range(4)] + [math.sin(ti * 10000 ** (-i / 4)) for i in range(4)]
        for ti in t.tolist()
    ]
    assert torch.allclose(sinusoids(t, dim), torch.tensor(expected, dtype=torch.float64), atol=1e-12)
    assert sinusoids(t, 5).shape == (4, 5) and not sinusoids(t, 5)[:, -1].any()
    assert sinusoids(torch.tensor([7]), 8).dtype == torch.float32


@pytest.mark.parametrize("new_order", [False, True])
def test_attention(new_order):
    """Head by head, row by row, with softmax written out."""
    c, heads, d, pixels = 64, 4, 16, 9
    torch.manual_seed(0)
    layer = Attention(c, heads, new_order)
    for p in layer.parameters():
        nn.init.normal_(p, std=0.3)
    x = torch.randn(2, c, 3, 3)
    normed = F.group_norm(x.reshape(2, c, pixels), 32, layer.norm.weight, layer.norm.bias)
    qkv = torch.einsum("oc,bcn->bon", layer.qkv.weight[:, :, 0], normed) + layer.qkv.bias[:, None]
    out = torch.zeros(2, c, pixels)
    for h in range(heads):
        start = [part * c + h * d if new_order else h * 3 * d + part * d for part in range(3)]
        q, k, v = (qkv[:, s : s + d] for s in start)
        logits = torch.stack([(q[:, :, i, None] * k).sum(1) for i in range(pixels)], 1) / math.sqrt(d)
        weights = logits.exp() / logits.exp().sum(2, keepdim=True)
        out[:, h * d : (h + 1) * d] = torch.einsum("bij,bdj->bdi", weights, v)
    out = torch.einsum("oc,bcn->bon", layer.proj_out.weight[:, :, 0], out) + layer.proj_out.bias[:, None]
    assert torch.allclose(layer(x, x), x + out.reshape(x.shape), atol=1e-5)
    layer.new_order = not new_order
    assert (layer(x, x) - x - out.reshape(x.shape)).abs().max() > 0.1


@pytest.mark.parametrize("resize", ["", "down", "up"])
@pytest.mark.parametrize("scale_shift", [True, False])
def test_resblock(scale_shift, resize):
    torch.manual_seed(0)
    block = ResBlock(32, 64, 8, 0.5, scale_shift, resize).eval()
    for p in block.parameters():
        nn.init.normal_(p, std=0.2)
    w = block.state_dict()
    x, emb = torch.randn(2, 32, 4, 4), torch.randn(2, 8)

    def move(z):
        if resize == "down":
            return (z[:, :, ::2, ::2] + z[:, :, 1::2, ::2] + z[:, :, ::2, 1::2] + z[:, :, 1::2, 1::2]) / 4
        return z.repeat_interleave(2, 2).repeat_interleave(2, 3) if resize == "up" else z

    def silu(z):
        return z / (1 + torch.exp(-z))

    z = move(silu(F.group_norm(x, 32, w["in_layers.0.weight"], w["in_layers.0.bias"])))
    z = F.conv2d(z, w["in_layers.2.weight"], w["in_layers.2.bias"], padding=1)
    e = (silu(emb) @ w["emb_layers.1.weight"].T + w["emb_layers.1.bias"])[:, :, None, None]
    second = (32, w["out_layers.0.weight"], w["out_layers.0.bias"])
    z = F.group_norm(z, *second) * (1 + e[:, :64]) + e[:, 64:] if scale_shift else F.group_norm(z + e, *second)
    z = F.conv2d(silu(z), w["out_layers.3.weight"], w["out_layers.3.bias"], padding=1)
    z = z + F.conv2d(move(x), w["skip_connection.weight"], w["skip_connection.bias"])
    assert torch.allclose(block(x, emb), z, atol=1e-5)


@pytest.mark.parametrize("flags", ["resblock_updown", "class_cond", "conv resampling", "new order"])
def test_the_whole_network_against_another_library(flags):
    """The same weights in diffusers' UNet2DModel, which was written apart: the same function."""
    diffusers = pytest.importorskip("diffusers")
    base = replace(TINY, channel_mult=(1, 1, 2), image_size=16, attention_resolutions="8", num_head_channels=16)
    config = {
        "resblock_updown": replace(base, resblock_updown=True, learn_sigma=True),
        "class_cond": replace(base, resblock_updown=True, class_cond=True, num_classes=5),
        "conv resampling": replace(base, num_res_blocks=2, use_scale_shift_norm=False),
        "new order": replace(base, resblock_updown=True, use_new_attention_order=True),
    }[flags]
    how = "resnet" if config.resblock_updown else "conv"
    plain = "ResnetDownsampleBlock2D" if config.resblock_updown else "DownBlock2D"
    other = diffusers.UNet2DModel(
        sample_size=16,
        in_channels=3,
        out_channels=config.out_channels,
        layers_per_block=config.num_res_blocks,
        block_out_channels=config.widths,
        attention_head_dim=16,
        norm_num_groups=32,
        attn_norm_num_groups=32,
        norm_eps=1e-5,
        down_block_types=[plain, "AttnDownBlock2D", plain],
        up_block_types=[plain.replace("Down", "Up"), "AttnUpBlock2D", plain.replace("Down", "Up")],
        downsample_type=how,
        upsample_type=how,
        flip_sin_to_cos=True,
        freq_shift=0,
        resnet_time_scale_shift="scale_shift" if config.use_scale_shift_norm else "default",
        num_class_embeds=config.num_classes if config.class_cond else None,
    ).eval()
    net = random_net(config)
    other.load_state_dict(to_diffusers(net))
    x, t, y = inputs(config)
    assert torch.allclose(net(x, t, y), other(x, t, class_labels=y).sample, atol=2e-4)


def to_diffusers(net):
    """Our state dict under diffusers' names."""
    state, c = net.state_dict(), net.config
    out = {}

    def copy(source, target):
        out.update({target + k.removeprefix(source): v for k, v in state.items() if k.startswith(source + ".")})

    def part(source, group, resnet, attention=None):
        """One ResBlock or attention layer."""
        if f"{source}.qkv.weight" in state:
            copy(f"{source}.norm", f"{group}.attentions.{attention}.group_norm")
            for kind in ("weight", "bias"):
                q = state[f"{source}.qkv.{kind}"]
                size, d = q.shape[0] // 3, 16
                q = (
                    q.reshape(3, size // d, d, -1)
                    if c.use_new_attention_order
                    else q.reshape(size // d, 3, d, -1).transpose(0, 1)
                )
                for name, value in zip(("to_q", "to_k", "to_v"), q.reshape(3, size, -1), strict=True):
                    out[f"{group}.attentions.{attention}.{name}.{kind}"] = value.squeeze(1) if kind == "bias" else value
                proj = state[f"{source}.proj_out.{kind}"]
                out[f"{group}.attentions.{attention}.to_out.0.{kind}"] = proj[:, :, 0] if kind == "weight" else proj
            return
        names = {
            "in_layers.0": "norm1", "in_layers.2": "conv1", "emb_layers.1": "time_emb_proj", "out_layers.0": "norm2",
            "out_layers.3": "conv2", "skip_connection": "conv_shortcut", "op": "conv", "conv": "conv",
        }  # fmt: skip
        for ours, theirs in names.items():
            copy(f"{source}.{ours}", f"{group}.{resnet}.{theirs}")

    copy("time_embed.0", "time_embedding.linear_1")
    copy("time_embed.2", "time_embedding.linear_2")
    copy("input_blocks.0.0", "conv_in")
    copy("out.0", "conv_norm_out")
    copy("out.2", "conv_out")
    copy("label_emb", "class_embedding")
    levels, r, n = len(c.widths), c.num_res_blocks, 1
    for level in range(levels):
        for i in range(r):
            part(f"input_blocks.{n}.0", f"down_blocks.{level}", f"resnets.{i}")
            if c.attention_levels[level]:
                part(f"input_blocks.{n}.1", f"down_blocks.{level}", "", i)
            n += 1
        if level + 1 < levels:
            part(f"input_blocks.{n}.0", f"down_blocks.{level}", "downsamplers.0")
            n += 1
    part("middle_block.0", "mid_block", "resnets.0")
    part("middle_block.1", "mid_block", "", 0)
    part("middle_block.2", "mid_block", "resnets.1")
    for n in range(levels * (r + 1)):
        up, i = divmod(n, r + 1)
        attention = c.attention_levels[levels - 1 - up]
        part(f"output_blocks.{n}.0", f"up_blocks.{up}", f"resnets.{i}")
        if attention:
            part(f"output_blocks.{n}.1", f"up_blocks.{up}", "", i)
        if i == r and up + 1 < levels:
            part(f"output_blocks.{n}.{2 if attention else 1}", f"up_blocks.{up}", "upsamplers.0")
    return out


# Schedules.


def test_schedules():
    linear = noise_schedule(CONFIGS["imagenet-256"])
    assert (
        linear.betas[0] == pytest.approx(1e-4) and linear.betas[-1] == pytest.approx(2e-2) and len(linear.betas) == 1000
    )
    short = noise_schedule(replace(TINY, diffusion_steps=250))
    assert short.betas[0] == pytest.approx(4e-4) and short.betas[-1] == pytest.approx(8e-2)
    cosine = noise_schedule(CONFIGS["imagenet-64-cond"])
    t = torch.arange(1, 999, dtype=torch.float64)

    def f(u):
        return torch.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2

    abar = f((t[:900] + 1) / 1000) / f(torch.zeros(1, dtype=torch.float64))
    assert torch.allclose(cosine.alpha(t[:900]) ** 2, abar, rtol=1e-9)
    assert cosine.betas.max() == pytest.approx(0.999)


# Loading.


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
@pytest.mark.parametrize("name", SMALL)
def test_save_and_load(tmp_path, name, suffix):
    config, net = SMALL[name], random_net(SMALL[name])
    path = tmp_path / f"model.{suffix}"
    torch.save(net.state_dict(), path) if suffix == "pt" else save_file(net.state_dict(), path)
    prior = load_adm(path, config=config, label=2 if config.class_cond else None)
    x, t, _ = inputs(config)
    y = torch.full((2,), 2) if config.class_cond else None
    scale = 0.25 if config.rescale_timesteps else 1
    eps = net(x, t * scale, y)
    assert eps.shape[1] == config.out_channels
    eps = eps[:, : config.in_channels]
    pred = prior(x, t)
    expected = (x - pred.sigma * eps) / pred.alpha
    assert torch.allclose(pred.mean, expected, atol=1e-4, rtol=1e-4) and torch.allclose(pred.eps, eps, atol=1e-3)
    assert (
        prior.event_shape == x.shape[1:] and not prior.training and not any(p.requires_grad for p in prior.parameters())
    )
    assert prior.card["family"] == "adm" and prior.card["unsure"] == []
    assert prior.card["parameters"] == sum(p.numel() for p in net.parameters())
    assert ADMConfig(**prior.card["config"]) == config


def test_a_prior_samples_and_can_be_differentiated(file):
    prior = load_adm(file, config=TINY)
    assert sample(prior, 2, sampler=DDIM(), steps=3).shape == (2, 3, 16, 16)
    x = torch.randn(1, 3, 16, 16, requires_grad=True)
    (g,) = torch.autograd.grad(prior(x, torch.tensor(500.0)).mean.square().sum(), x)
    assert g.isfinite().all() and g.any()


def test_half_precision(tmp_path):
    """A file in half precision runs in float32, or with a half trunk; both are near the original."""
    net = random_net(SMALL["resblock_updown"])
    state = net.state_dict()
    torch.save({k: v.half() for k, v in state.items()}, tmp_path / "half.pt")
    x, t, _ = inputs(net.config)
    eps = net(x, t)[:, :3]
    wide = load_adm(tmp_path / "half.pt", config=net.config)
    assert {p.dtype for p in wide.parameters()} == {torch.float32}
    assert 0 < (wide.net(x, t) - eps).abs().max() < 0.01 * eps.abs().max()
    half = load_adm(tmp_path / "half.pt", config=net.config, dtype="float16")
    kinds = {k: v.dtype for k, v in half.net.net.state_dict().items()}
    assert kinds["input_blocks.1.0.in_layers.2.weight"] == kinds["middle_block.1.qkv.weight"] == torch.float16
    narrow = [k for k, v in kinds.items() if v == torch.float16]
    assert all(k.split(".")[0] in ("input_blocks", "middle_block", "output_blocks") for k in narrow)
    assert kinds["out.2.weight"] == kinds["time_embed.0.weight"] == kinds["middle_block.1.norm.weight"] == torch.float32
    out = half.net(x, t)
    assert out.dtype == torch.float32 and 0 < (out - wide.net(x, t)).abs().max() < 0.02 * eps.abs().max()


@pytest.mark.parametrize(
    "nest",
    [
        lambda s: {"state_dict": s, "epoch": 3},
        lambda s: {"model": {k: 0 * v for k, v in s.items()}, "ema": s},
        lambda s: {"module." + k: v for k, v in s.items()},
        lambda s: {"model": {"_orig_mod.module." + k: v for k, v in s.items()}},
    ],
)
def test_nestings(tmp_path, nest):
    state = random_net(TINY).state_dict()
    torch.save(nest(state), tmp_path / "nested.pth")
    read = read_state(tmp_path / "nested.pth")
    assert read.keys() == state.keys() and all(torch.equal(v, state[k]) for k, v in read.items())


def test_the_old_format_is_read(tmp_path, file):
    state = random_net(TINY).state_dict()
    torch.save(state, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert all(torch.equal(v, state[k]) for k, v in read_state(tmp_path / "old.pt").items())


def test_class_labels(tmp_path, file):
    config = SMALL["class_cond"]
    torch.save(random_net(config).state_dict(), tmp_path / "cond.pt")
    path = tmp_path / "cond.pt"
    for label in (None, -1, 5):
        with pytest.raises(InputError, match=rf"class-conditional, got label={label}: give label=0\.\.4"):
            load_adm(path, config=config, label=label)
    with pytest.raises(InputError, match="unconditional, got label=3"):
        load_adm(file, config=TINY, label=3)
    one, two = (load_adm(path, config=config, label=label) for label in (1, 2))
    x, t, _ = inputs(config)
    assert not torch.allclose(one(x, t).mean, two(x, t).mean)
    assert fingerprint(one) != fingerprint(two)  # an h fitted for one class is not for another
    net = random_net(config)
    with pytest.raises(ValueError, match="give y"):
        net(x, t)
    with pytest.raises(ValueError, match="multiples of 2"):
        net(x[:, :, :15], t, torch.zeros(2, dtype=torch.long))


def test_flags_the_weights_do_not_show_are_part_of_the_fingerprint(file):
    first, second = (load_adm(file, config=replace(TINY, num_heads=n)) for n in (2, 4))
    x, t, _ = inputs(TINY)
    assert not torch.allclose(first(x, t).mean, second(x, t).mean) and fingerprint(first) != fingerprint(second)
    again = first.reread(output="v")
    assert again.output == "v" and again.card == first.card and fingerprint(first.reread()) == fingerprint(first)


# Flags from shapes.


@pytest.mark.parametrize("name", SMALL)
def test_infer_config(name):
    config = SMALL[name]
    found, unsure = infer_config(meta_net(config).state_dict())
    hidden = ("num_heads", "num_head_channels", "use_new_attention_order", "noise_schedule", "diffusion_steps")
    hidden += ("rescale_timesteps", "dropout", "num_classes")
    assert found.num_classes == (5 if config.class_cond else 1000)
    assert replace(found, **{k: getattr(config, k) for k in hidden}) == config
    assert [line.split(":")[0] for line in unsure] == [
        "attention heads",
        "attention order",
        "noise schedule",
        "image size",
    ]


@pytest.mark.parametrize("name", CONFIGS)
def test_infer_published_config(name):
    """Flags and all, but for dropout, precision and which of four models with the same shapes it is."""
    found, unsure = infer_config(meta_net(CONFIGS[name]).state_dict())
    assert replace(found, dropout=0, use_fp16=False) == replace(CONFIGS[name], dropout=0, use_fp16=False)
    assert len(unsure) == 1 and name in unsure[0]


def test_inferred_is_what_load_uses(file):
    prior = load_adm(file, image_size=32, num_heads=2)
    assert prior.config.attention_levels == TINY.attention_levels  # the weights know levels, not pixels
    assert prior.event_shape == (3, 32, 32) and prior.config.num_heads == 2 and prior.config.num_head_channels == -1
    assert [line.split(":")[0] for line in prior.card["unsure"]] == ["attention order", "noise schedule"]
    assert prior.card["name"] is None
    x, t, _ = inputs(TINY)
    assert torch.equal(prior(x, t).mean, load_adm(file, config=TINY)(x, t).mean)


def test_an_upsampler_is_noted():
    config = replace(TINY, in_channels=6)
    assert "upsampler" in infer_config(meta_net(config).state_dict())[1][-1]


def test_shapes_without_flags():
    state = dict(meta_net(TINY).state_dict())
    odd = state | {"out.2.weight": torch.zeros(5, 32, 3, 3)}
    with pytest.raises(CheckpointError, match="3 channels go in and 5 come out"):
        infer_config(odd)
    with pytest.raises(CheckpointError, match=r"middle_block\.1\.qkv\.weight is missing"):
        infer_config({k: v for k, v in state.items() if "middle" not in k})
    with pytest.raises(CheckpointError, match=r"emb_layers.*is missing"):
        infer_config({k: v for k, v in state.items() if "input_blocks.1.0.emb" not in k})
    with pytest.raises(CheckpointError, match="output blocks on 2 levels"):
        infer_config({k: v for k, v in state.items() if not k.startswith("output_blocks.3")})


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"image_size": 100}, "no default channel_mult for image_size 100"),
        ({"noise_schedule": "sqrt"}, "noise_schedule 'sqrt'"),
        ({"num_res_blocks": 0}, "above 0"),
    ],
)
def test_impossible_flags(flags, message):
    with pytest.raises(ValueError, match=message):
        ADMConfig(**flags)


def test_heads_that_do_not_divide(file):
    for flags in ({"num_heads": 5}, {"num_head_channels": 48}):
        with pytest.raises(InputError, match="do not split into the heads"):
            load_adm(file, **flags)


# Files that are not what they should be.


def test_missing_and_misshapen(tmp_path, file):
    state = torch.load(file)
    del state["out.0.bias"]
    state["extra"] = torch.zeros(1)
    state["time_embed.0.bias"] = torch.zeros(7)
    torch.save(state, tmp_path / "bad.pt")
    with pytest.raises(CheckpointError) as caught:
        load_adm(tmp_path / "bad.pt", config=TINY)
    text = str(caught.value)
    assert "1 missing (first: out.0.bias)" in text and "1 unexpected (first: extra)" in text
    assert "time_embed.0.bias is (7,), expected (128,)" in text and "\n" not in text
    with pytest.raises(CheckpointError, match=r"missing \(first: .*of another shape"):
        load_adm(file, config="ffhq-256")
    with pytest.raises(InputError, match="did you mean 'ffhq-256'"):
        load_adm(file, config="ffhq256")
    with pytest.raises(InputError, match="unknown dtype"):
        load_adm(file, dtype="int8")


def test_not_a_checkpoint(tmp_path, file):
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        load_adm(tmp_path / "nothing.pt")
    whole = file.read_bytes()
    for kind, data in {
        "half": whole[: len(whole) // 2],
        "head": whole[:1],
        "empty": b"",
        "text": b"<html>404</html>",
    }.items():
        path = tmp_path / f"{kind}.pt"
        path.write_bytes(data)
        with pytest.raises(CheckpointError, match=r"truncated or not a PyTorch file.*fetch it again"):
            load_adm(path)
    torch.save(torch.load(file), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    old = (tmp_path / "old.pt").read_bytes()
    for cut in (len(old) // 2, 60, 3):
        (tmp_path / "old.pt").write_bytes(old[:cut])
        with pytest.raises(CheckpointError, match="truncated or not a PyTorch file"):
            load_adm(tmp_path / "old.pt")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{")
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        load_adm(tmp_path / "cut.safetensors")
    torch.save({"conv1.weight": torch.zeros(1), "fc.bias": torch.zeros(1)}, tmp_path / "resnet.pt")
    with pytest.raises(CheckpointError, match=r"holds no guided-diffusion UNet \(it holds: conv1.weight, fc.bias"):
        load_adm(tmp_path / "resnet.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(CheckpointError, match="it holds: list"):
        load_adm(tmp_path / "list.pt")
    torch.save(torch.load(file) | {"out.2.bias": "x"}, tmp_path / "text.pt")
    with pytest.raises(CheckpointError, match=r"out\.2\.bias is no tensor of floats"):
        load_adm(tmp_path / "text.pt")


class Burglar:
    """Unpickled, it leaves a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (self.path,)


WHAT = {
    True: r"holds more than tensors \(it names '(__builtin__|builtins)\.getattr'\).*--trust-pickle",
    False: r"holds more than tensors.*--trust-pickle",
}


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_runs_code_is_refused(tmp_path, file, zipped):
    trace = tmp_path / "trace"
    path = tmp_path / "evil.pt"
    torch.save(torch.load(file) | {"gift": Burglar(trace)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=WHAT[zipped]):
        load_adm(path)
    assert not trace.exists()
    with pytest.raises(CheckpointError, match="gift is no tensor"):
        load_adm(path, trust_pickle=True)
    assert trace.exists()  # so the test above would have noticed


class Odd:
    """Of a class that nobody knows."""


def test_settings_that_are_objects_are_no_code(tmp_path, file):
    """A path among the settings is neither tensor nor code: the weights are read, and nothing is trusted."""
    torch.save({"model": torch.load(file), "where": pathlib.PurePosixPath("runs")}, tmp_path / "state.pt")
    assert load_adm(tmp_path / "state.pt", config=TINY).fingerprint() == load_adm(file, config=TINY).fingerprint()


def test_a_trusted_pickle(tmp_path, file):
    """A training state with odds and ends that are no tensors."""
    path = tmp_path / "state.pt"
    torch.save({"model": torch.load(file), "where": Odd()}, path)
    with pytest.raises(CheckpointError, match="--trust-pickle"):
        load_adm(path, config=TINY)
    assert load_adm(path, config=TINY, trust_pickle=True).card["file"] == "state.pt"
