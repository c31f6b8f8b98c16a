"""Images of any size: odd sides, no multiples, other ones than a prior was trained on and an h fitted to.

Networks are compared with themselves on an image that was padded by hand, operators with sums that are written out.
"""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

import deft
from deft.core.operator import LinearOperator
from deft.domains.image.prior import ImagePrior, new_prior
from deft.domains.image.tasks import TASKS, get_task
from deft.errors import ContractError, InputError
from deft.kinds.domain import find_domain
from deft.learned import LEARNED
from deft.nn import HalfUNet, UNet
from deft.nn.adm import ADMConfig, ADMUNet
from deft.nn.padding import Padded, cropped, mirrored
from deft.operator import JPEG, BlockAverage, ColourJPEG, bicubic
from deft.operator.separable import every
from deft.prior import load_prior
from deft.runtime.messages import show
from deft.testing import check_operator
from toys import refused, run, toy_prior

SHAPES = ((1, 28, 28), (3, 33, 47), (1, 40, 24))


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def grey_or_colour(n, shape, seed=0):
    """Smooth pictures in [-1, 1], [n, *shape]."""
    coarse = random(n, shape[0], 5, 5, seed=seed)
    return F.interpolate(coarse, shape[1:], mode="bilinear").clamp(-1, 1)


def awake(net):
    """A network whose last layers, which start at zero, are random: an untrained one would agree with any other."""
    torch.manual_seed(1)
    for p in net.parameters():
        if not bool(p.any()):
            torch.nn.init.normal_(p, std=0.1)
    return net


# Networks.


@pytest.mark.parametrize("sides", [(8, 16), (9, 16), (7, 3), (1, 2), (2, 17), (28, 28)])
def test_padding_is_numpys_reflection(sides):
    x = random(2, 3, *sides)
    padded = mirrored(x, 8)
    below, right = (-n % 8 for n in sides)
    theirs = np.pad(x.numpy(), ((0, 0), (0, 0), (0, below), (0, right)), mode="reflect")
    assert np.array_equal(padded.numpy(), theirs) and torch.equal(cropped(padded, x), x)
    assert (padded is x) == (below == right == 0)


def unpadded(net, x, time):
    """`UNet.forward` without any padding, as it was before there was one."""
    e = net.embed(time)
    z = net.inlet(F.pixel_unshuffle(x, net.patch).contiguous(memory_format=torch.channels_last))
    features = []
    for stage in net.down:
        z = stage(z, e)
        features.append(z)
    z = net.middle(z, e)
    for stage in reversed(net.up):
        z = stage(z, e, features.pop())
    return F.pixel_shuffle(net.outlet(F.silu(net.norm(z))), net.patch).contiguous()


@torch.no_grad()
def test_our_network_takes_any_size():
    """Multiples are bit for bit what they were; other sizes are those of the image that is padded by hand."""
    net, time = awake(UNet(2, 3, (8, 12, 16))), torch.tensor([0.3, -1.0])
    assert net.multiple_of == 8
    x = random(2, 2, 16, 24)
    assert torch.equal(net(x, time), unpadded(net, x, time)) and float(net(x, time).std()) > 0
    for sides in ((28, 28), (33, 47), (27, 22), (3, 5), (1, 1)):
        x = random(2, 2, *sides)
        out = net(x, time)
        assert out.shape == (2, 3, *sides) and out.is_contiguous()
        assert torch.equal(out, unpadded(net, mirrored(x, 8), time)[:, :, : sides[0], : sides[1]])
    assert HalfUNet(2, 5, (8, 12))(random(2, 2, 13, 7), time).shape == (2, 5)


@pytest.mark.parametrize("kind", sorted(LEARNED))
def test_every_learned_h_at_an_odd_size(kind):
    """Drawn, and with a gradient for all that it trains; what adapts the prior's network is 0 untrained."""
    prior = deft.freeze(awake(new_prior((1, 11, 14), deft.VPCosine(), widths=(8, 12))))
    obs = get_task("inpaint").observe(grey_or_colour(2, (1, 11, 14)), deft.Noise(0, 2))
    h = LEARNED[kind].sized(prior, 1.1 if kind == "finetuned" else 0.6, 0 if kind == "covariance" else 2)
    x_t = random(2, 1, 11, 14)
    pred = prior(x_t, torch.tensor(0.5))
    out = h(pred, obs)
    assert out.shape == x_t.shape
    if kind in ("lora", "controlnet", "finetuned"):
        assert not bool(out.any())
    out = awake(h)(pred, obs)
    out.square().sum().backward()
    assert (
        bool(torch.isfinite(out).all()) and sum(p.grad is not None and bool(p.grad.any()) for p in h.parameters()) > 3
    )


# Priors at another size.

TINY = ADMConfig(
    image_size=16, num_channels=32, num_res_blocks=1, channel_mult=(1, 2), attention_resolutions=(8,), num_heads=2,
    diffusion_steps=50,
)  # fmt: skip


@pytest.fixture
def adm(tmp_path):
    torch.save(awake(ADMUNet(TINY)).state_dict(), tmp_path / "x.pt")
    return lambda **options: load_prior(tmp_path / "x.pt", config=TINY, **options)


@torch.no_grad()
def test_guided_diffusion_at_another_size(adm):
    """A multiple is the network itself, of the same fingerprint; any other size is padded, which the fingerprint
    says."""
    said: list[str] = []
    t = torch.tensor(25.0)
    with show(said.append):
        own, wide, odd, same = adm(), adm(event_shape=(3, 20, 28)), adm(sides=(15, 21)), adm(event_shape=(3, 16, 16))
    line = "x.pt was trained on 16x16 RGB and is asked for"
    assert [s.split(": ")[1] for s in said] == [f"{line} 20x28 RGB", f"{line} 15x21 RGB"]
    assert own.fingerprint() == wide.fingerprint() == same.fingerprint() != odd.fingerprint()
    assert own.describe() == wide.describe() and odd.describe() == {**own.describe(), "padding": "mirror"}
    x = random(2, 3, 20, 28)
    assert torch.equal(wide.net(x, t.expand(2)), wide.net.net(x, t.expand(2))[:, :3])
    x = random(2, 3, 15, 21)
    assert torch.equal(odd.net(x, t.expand(2)), odd.net.net(mirrored(x, 2), t.expand(2))[:, :3, :15, :21])
    assert odd.reread(output="v").event_shape == (3, 15, 21) and deft.sample(odd, 2, steps=2).shape == (2, 3, 15, 21)
    for wrong in ({"event_shape": (1, 16, 16)}, {"event_shape": (3, 16)}):
        with pytest.raises(InputError, match="images of 3 channels: give event_shape=3,HEIGHT,WIDTH, got"):
            adm(**wrong)
    with pytest.raises(InputError, match="give one of them"):
        adm(sides=(16, 16), event_shape=(3, 16, 16))


def test_edm_at_another_size(tmp_path):
    from edm_files import filled, song_shapes, write_pickle

    path = write_pickle(tmp_path / "x.pkl", filled(song_shapes()))
    own, odd = load_prior(path), load_prior(path, event_shape="3,7,12")
    x, t = random(2, 3, 7, 12), torch.tensor(0.5)
    assert torch.equal(odd.net(x, t.expand(2)), own.net(mirrored(x, 2), t.expand(2))[:, :, :7])
    assert odd.fingerprint() != own.fingerprint() == load_prior(path, sides=(4, 12)).fingerprint()
    assert odd(x, t).mean.shape == x.shape


def test_models_of_diffusers_at_another_size(tmp_path):
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(8, 16), norm_num_groups=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=4,
    )  # fmt: skip
    dit = diffusers.DiTTransformer2DModel(
        num_attention_heads=1, attention_head_dim=8, in_channels=2, out_channels=2, num_layers=1, sample_size=8,
        patch_size=2, norm_num_groups=1, num_embeds_ada_norm=3,
    )  # fmt: skip
    for name, part, model in (("u", "unet", unet), ("d", "transformer", dit)):
        diffusers.DDPMScheduler().save_pretrained(tmp_path / name / "scheduler")
        model.save_pretrained(tmp_path / name / part)
        (tmp_path / name / "model_index.json").write_text(f'{{"{part}": ["diffusers", "{type(model).__name__}"]}}')
    said: list[str] = []
    with show(said.append):
        own, odd = (load_prior(tmp_path / "u", event_shape=shape) for shape in ((1, 8, 8), (1, 9, 14)))
    assert len(said) == 1 and "was trained on 8x8 grey and is asked for 9x14 grey" in said[0]
    x, t = random(2, 1, 9, 14), torch.tensor([5.0, 9.0])
    assert isinstance(odd.net, Padded) and not isinstance(own.net, Padded)
    assert torch.equal(odd.net(x, t), own.net(mirrored(x, 2), t)[:, :, :9])
    assert "padding" in odd.describe() and odd.fingerprint() != own.fingerprint()
    assert load_prior(tmp_path / "d", label=1).event_shape == (2, 8, 8)
    with pytest.raises(InputError, match="a table of positions for 8x8, and was not trained for 8x12") as error:
        load_prior(tmp_path / "d", label=1, event_shape=(2, 8, 12))
    assert "\n" not in str(error.value)


def test_our_priors_at_another_size(tmp_path, capsys):
    path = toy_prior(tmp_path / "p.safetensors")
    said: list[str] = []
    with show(said.append):
        own, odd = load_prior(path), load_prior(path, event_shape=(1, 13, 18))
    assert len(said) == 1 and "was trained on 16x16 grey and is asked for 13x18 grey" in said[0]
    assert odd.fingerprint() == own.fingerprint() and odd.loaded_with == ("event_shape=1,13,18",)
    assert deft.sample(odd, 2, steps=2).shape == (2, 1, 13, 18)
    for option, says in (
        ("event_shape=3,16,16", "makes samples of 16x16 grey alone"),
        ("event_shape=x", "whole numbers"),
    ):
        assert says in refused(capsys, "prior", "inspect", path, "--prior-option", option)


# Operators.


@pytest.mark.parametrize("sides", [(33, 47), (7, 8), (3, 2)])
def test_blocks_at_the_edge(sides):
    """Means of the pixels that a block has left, and everything else in closed form."""
    op, x = BlockAverage(4, sides), random(2, 3, *sides)
    theirs = [
        [x[:, :, i : i + 4, j : j + 4].mean((2, 3)) for j in range(0, sides[1], 4)] for i in range(0, sides[0], 4)
    ]
    torch.testing.assert_close(op(x), torch.stack([torch.stack(row, -1) for row in theirs], -2))
    small = BlockAverage(4, tuple(min(n, 11) for n in sides))
    check_operator(small, (2, *small.size), dtype=torch.float64)
    values, to, back, measured = small.spectrum((2, *small.size), x.double())
    v = random(2, 2, *small.size).double()
    torch.testing.assert_close(back(to(v)), v)
    torch.testing.assert_close(small.adjoint(small(v)), back(values.square() * to(v)))
    torch.testing.assert_close(measured(small(v)), (values > 0) * to(v))


def test_what_a_block_average_refuses():
    x = torch.zeros(1, 1, 33, 47)
    with pytest.raises(ContractError, match=r"no multiple of the factor 4: make it BlockAverage\(4, \(33, 47\)\)"):
        BlockAverage(4)(x)
    op = BlockAverage(4, (33, 47))
    for wrong in (lambda: op(x[:, :, :32]), lambda: op.adjoint(x), lambda: op.spectrum((1, 32, 47), x)):
        with pytest.raises(ContractError, match="made for"):
            wrong()
    assert BlockAverage(4, (32, 48)).size is None and BlockAverage(4, (32, 48)).orthogonal_rows == 1 / 16


@pytest.mark.parametrize("make", [bicubic, *(lambda s, f, w=w: bicubic(s, f, w) for w in ("matlab", "opencv")), every])
def test_smaller_pictures_of_any_size(make):
    """A grey image stays grey, a ramp a ramp inside; pixels are a factor apart, whatever the side."""
    op = make((33, 47), 4)
    assert op(torch.full((1, 1, 33, 47), 0.5)).sub(0.5).abs().max() < 1e-6
    ramp = torch.arange(47.0).expand(1, 1, 33, 47)
    y = op(ramp)
    assert y.shape == (1, 1, 9, 12) and op.features(y).shape == ramp.shape
    torch.testing.assert_close(y[..., 3:9].diff(), torch.full((1, 1, 9, 5), 4.0), atol=1e-3, rtol=0)
    torch.testing.assert_close(make((32, 48), 4)(ramp[..., :32, :].new_ones(1, 1, 32, 48)), torch.ones(1, 1, 8, 12))
    op = make((9, 7), 4)
    check_operator(op, (1, 9, 7), dtype=torch.float64)


def of_pillow(levels, **options):
    file = io.BytesIO()
    Image.fromarray(levels).save(file, "JPEG", **options)
    return np.asarray(Image.open(file)).astype(float)


def off_libjpeg(op, levels, **options):
    """Distances in grey levels from what Pillow reads from the file that it wrote: on average, of the last row and of
    the last column."""
    ours = op(torch.from_numpy(levels)[None] / 127.5 - 1)[0].add(1).mul(127.5).clamp(0, 255).numpy()
    file = io.BytesIO()
    Image.fromarray(levels[0] if len(levels) == 1 else levels.transpose(1, 2, 0)).save(file, "JPEG", **options)
    theirs = np.atleast_3d(np.asarray(Image.open(file))).transpose(2, 0, 1).astype(float)
    off = np.abs(ours - theirs)
    return max(off.mean(), off[:, -1].mean(), off[:, :, -1].mean())


@pytest.mark.parametrize("sides", [(33, 47), (40, 24), (13, 30), (5, 3)])
@pytest.mark.parametrize("quality", [5, 60])
def test_jpeg_of_any_size_is_libjpegs(sides, quality, monkeypatch):
    """Up to the whole levels to which a file rounds, at the edge as inside: libjpeg pads by the last row and column.
    Padded by zeros it is not."""
    smooth = F.interpolate(random(1, 3, 4, 4), sides, mode="bicubic")[0].mul(50).add(128).clamp(0, 255)
    levels = smooth.round().byte().numpy()
    assert off_libjpeg(JPEG(quality), levels[:1], quality=quality) < 0.6
    if min(sides) > 8:  # smaller ones have one chroma value or two, and libjpeg rounds it
        for name, number in (("444", 0), ("422", 1), ("420", 2)):
            assert off_libjpeg(ColourJPEG(quality, name), levels, quality=quality, subsampling=number) < 3.2
    monkeypatch.setattr("deft.operator.jpeg._repeated", lambda x, m: F.pad(x, (0, -x.shape[3] % 8, 0, -x.shape[2] % 8)))
    wrong = off_libjpeg(JPEG(quality), levels[:1], quality=quality)
    assert (wrong < 0.6) == (sides == (40, 24))


# Every task.

SQUARE = {"ct", "ct-limited", "ct-rays", "two-views"}
GREY, COLOUR = {"mri-coils"}, {"colourise"}


def cannot(name, shape):
    """What a task says of a shape that it does not measure."""
    if name in COLOUR and shape[0] == 1:
        return "needs images of several channels"
    if name in GREY and shape[0] > 1:
        return "needs grey images"
    return "needs square images" if name in SQUARE and shape[1] != shape[2] else None


@pytest.fixture(scope="module")
def priors():
    torch.manual_seed(0)
    made = {}
    for shape in SHAPES:
        net = awake(UNet(shape[0], shape[0], (4, 4), patch=4, time_dim=8))
        made[shape] = deft.freeze(ImagePrior(net, deft.VPCosine(), shape))
    return made


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "x".join(map(str, s)))
@pytest.mark.parametrize("name", list(TASKS))
def test_every_task_of_any_size(name, shape, priors):
    """Measured, A^T exact, shown to h, a step of a fit, a draw and its pictures; or one line that says what would."""
    task, x = get_task(name), grey_or_colour(2, shape)
    says = cannot(name, shape)
    if says is not None:
        with pytest.raises(ContractError, match=says) as error:
            task.observe(x, deft.Noise(0, 2))
        assert "\n" not in str(error.value)
        return
    obs = task.observe(x, deft.Noise(0, 2))
    op = obs.likelihood.operator
    if isinstance(op, LinearOperator):
        z, r = random(2, *shape, seed=1).double(), op.measured_part(random(*obs.y.shape, seed=2)).double()
        left, right = ((a * b).flatten(1).sum(1) for a, b in ((op(z), r), (z, op.adjoint(r))))
        torch.testing.assert_close(left, right, atol=1e-5 * float(r.norm() * z.norm()) / 30, rtol=1e-5)
    assert obs.features().shape == (2, shape[0] * task.feature_channels, *shape[1:])
    assert op.picture(obs.y).shape[0] == 2
    prior = priors[shape]
    h = deft.DEFT(shape, task.feature_channels, width=2)
    pred = prior(random(2, *shape), torch.tensor(0.5))
    h(pred, obs).square().mean().backward()
    assert any(p.grad is not None and bool(p.grad.any()) for p in h.n1.parameters())
    draws = deft.sample_posterior(prior, h.requires_grad_(False), obs[:1], 2, steps=2)
    assert draws.x.shape == (1, 2, *shape) and bool(torch.isfinite(draws.x).all())
    domain = find_domain("image")
    shown = domain.draw_pictures(draws.x[0], draws.x[0].std(0), obs[:1], "")
    seen = domain.measurement_picture(x[:1], obs[:1], "")
    drawn = [Image.open(io.BytesIO(v)).size for v in (*shown.values(), *([] if seen is None else [seen]))]
    assert len(drawn) == 3 and all(w >= shape[2] and h >= shape[1] for w, h in drawn)
    measured = domain.measure(draws.x, x[:1], obs[:1])
    assert all(bool(torch.isfinite(v).all()) for v in measured.values())


# The commands, from pictures to a report.


def commands(capsys, folder, text):
    """What the commands of a text, one a line, say; files are named from a folder."""
    said = ""
    for line in text.strip().splitlines():
        words = [str(folder / w[2:]) if w.startswith("./") else w for w in line.split()]
        code, out, err = run(capsys, *words)
        assert code == 0, (line, err)
        said += out + err
    return said


def save(file, x):
    pixels = x.add(1).mul(127.5).round().byte().numpy()
    np.savez(file, x=pixels.transpose(0, 2, 3, 1) if x.shape[1] == 3 else pixels[:, 0])


@pytest.mark.parametrize(("shape", "task"), [((1, 28, 28), "sr4"), ((3, 27, 22), "inpaint")])
def test_from_pictures_to_a_report(shape, task, tmp_path, capsys):
    """A prior trained, h fitted, a measurement made and sampled, and evaluated; then asked for another size."""
    save(tmp_path / "x.npz", grey_or_colour(20, shape))
    said = commands(
        capsys,
        tmp_path,
        f"""
prior train --data ./x.npz --held-out ./x.npz --widths 8,12 --steps 2 --batch 4 --out ./p
fit --prior ./p --data ./x.npz --task {task} --width 4 --bank 8 --steps 2 --batch 4 --out ./run
measure --task {task} --data ./x.npz --images 2 --out ./seen.npz
sample ./run --measurement ./seen.npz -n 2 --steps 2 --out ./out
evaluate ./run --data ./x.npz --methods deft --images 2 --samples 2 --steps 2 --out ./report
""",
    )
    assert load_prior(tmp_path / "p").event_shape == shape and "is asked for" not in said
    assert np.load(tmp_path / "out" / "samples.npz")["samples"].shape[-3:] == shape
    assert Image.open(tmp_path / "out" / "mean.png").size == (shape[2], shape[1])

    other = (shape[0], 21, 34)
    asked = f"event_shape={','.join(map(str, other))}"
    save(tmp_path / "large.npz", grey_or_colour(1, other))
    said = commands(
        capsys,
        tmp_path,
        f"""
measure --task {task} --data ./large.npz --out ./wide.npz
sample ./run --prior-option {asked} --measurement ./wide.npz -n 1 --steps 2 --out ./larger
""",
    )
    assert said.count("was trained on") == 1 and said.count("was fitted to") == 1 and "21x34" in said
    assert Image.open(tmp_path / "larger" / "mean.png").size == (34, 21)
    fitted = deft.load(tmp_path / "run", prior_options=[asked])
    assert fitted.prior.event_shape == fitted.h.event_shape == other
    fitted.save(tmp_path / "again")
    assert deft.load(tmp_path / "again").prior.event_shape == other


def test_h_of_one_size_alone(tmp_path, capsys):
    """A learned covariance whose blocks do not divide the other size, and an h fitted to pairs: one line each."""
    toy_prior(tmp_path / "p.safetensors")
    x = grey_or_colour(12, (1, 16, 16))
    np.savez(tmp_path / "x.npz", x=x.numpy())
    np.savez(tmp_path / "pairs.npz", x=x.numpy(), y=x.flatten(1)[:, :5].numpy())
    commands(
        capsys,
        tmp_path,
        """
fit --prior ./p.safetensors --method covariance --data ./x.npz --size 0.9 --bank 0 --steps 1 --batch 4 --out ./c
fit --prior ./p.safetensors --pairs ./pairs.npz --width 4 --bank 0 --steps 1 --batch 4 --out ./u
""",
    )
    says = "16x16 grey and works at that size alone, and the prior makes 15x18 grey"
    for name in ("c", "u"):
        with pytest.raises(InputError, match=says) as error:
            deft.load(tmp_path / name, prior_options=["event_shape=1,15,18"])
        assert "\n" not in str(error.value)
    assert deft.load(tmp_path / "c", prior_options=["event_shape=1,24,16"]).h.event_shape == (1, 24, 16)


def test_an_h_in_memory_at_another_size():
    """One line for each size; a covariance says which blocks do not divide it."""
    torch.manual_seed(0)
    net = awake(UNet(1, 1, (8, 12)))
    own, odd = (deft.freeze(ImagePrior(net, deft.VPCosine(), shape)) for shape in ((1, 16, 16), (1, 9, 14)))
    obs = get_task("inpaint").observe(grey_or_colour(1, (1, 9, 14)), deft.Noise(0, 1))
    said: list[str] = []
    h = deft.DEFT((1, 16, 16), 2, width=4)
    h.belongs_to(own, get_task("inpaint"), own.fingerprint())
    with show(said.append):
        for _ in range(2):
            assert deft.sample_posterior(odd, h, obs, 1, steps=2).x.shape == (1, 1, 1, 9, 14)
    assert said == [
        "warning: this h was fitted to samples of 1x16x16 and is asked for 1x9x14: look at its samples before you use"
        " them"
    ]
    with pytest.raises(InputError, match="averages blocks of 1, 2 pixels, which do not divide"):
        deft.sample_posterior(odd, deft.learned.LearnedCovariance((1, 16, 16), width=4), obs, 1, steps=2)


def test_another_number_of_channels_is_refused_before_the_network_runs(tmp_path):
    diffusers = pytest.importorskip("diffusers")
    net = diffusers.UNet2DModel(
        sample_size=8, in_channels=3, out_channels=3, block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
    )  # fmt: skip
    diffusers.DDPMPipeline(net, diffusers.DDPMScheduler()).save_pretrained(tmp_path / "p")
    with pytest.raises(InputError, match="has 3 channels, event_shape=1,12,9 has 1: give event_shape=3,12,9"):
        load_prior(tmp_path / "p", event_shape=(1, 12, 9))
