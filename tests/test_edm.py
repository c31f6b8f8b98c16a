"""EDM and EDM2: networks against the formulas written out once more, pickles that are read and never run, D(x; sigma)
of every preconditioning."""

from __future__ import annotations

import math
import pickle
from collections import OrderedDict
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from deft import DPMpp2M, sample
from deft.core.denoiser import fingerprint
from deft.errors import CheckpointError, InputError
from deft.io.inert import read_pickle, read_storage
from deft.nn.edm import EDMConfig, edm_unet
from deft.nn.edm2 import EDM2Config, EDM2UNet
from deft.prior import load_prior
from deft.prior.edm import convention_of, load_edm
from deft.schedule import EDM, VE, VPLinear
from edm_files import edm2, edm2_shapes, filled, song, song_shapes, write_pickle
from toys import refused

SONGS = {
    "DDPM++": {},
    "NCSN++": {"fourier": True, "aux_in": "residual", "taps": 4, "noise": 16},
    "skips": {"aux_in": "skip", "aux_out": "skip", "taps": 4, "mult": (1, 2, 1), "blocks": 2},
    "classes, augmented": {"classes": 3, "augment": 9},
    "grey": {"channels": 1, "attention": ()},
    "wider than its stem": {"mult": (2, 1), "attention": (8, 4)},
}
ADMS = {
    "ADM": {"adm": True},
    "ADM, classes": {"adm": True, "classes": 3, "augment": 9, "mult": (2, 1), "attention": (8,)},
    "ADM, two heads": {"adm": True, "width": 64, "emb": 8, "blocks": 1},
}
EDM2S = {"EDM2": {}, "EDM2, classes": {"classes": 3, "mult": (1, 2, 3), "blocks": 2}}
X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(5))
ONE = torch.eye(3)[[1, 1]]


def inputs(shapes):
    channels = next(v for k, v in shapes.items() if k.endswith(("8x8_aux_conv.weight", "out_conv.weight")))[0]
    x = torch.cat([X, X[:, :1].flip(-1)], 1)[:, :channels]
    return x, torch.tensor([-0.4, 0.9]), ONE if any("label" in k for k in shapes) else None


# Networks.


@pytest.mark.parametrize("name", [*SONGS, *ADMS])
def test_networks_of_edm(name):
    """The same as the formulas written out, for every layout; and built from nothing but names and shapes."""
    shapes = song_shapes(**(SONGS | ADMS)[name])
    state = filled(shapes)
    net = edm_unet(EDMConfig.from_shapes(shapes))
    assert {k: tuple(v.shape) for k, v in net.state_dict().items()} == shapes
    net.load_state_dict(state)
    x, time, code = inputs(shapes)
    want = song(state, x, time, code, adm="out_conv.weight" in shapes)
    with torch.no_grad():
        torch.testing.assert_close(net.eval()(x, time, code), want, atol=2e-5, rtol=2e-5)
        assert float((net(x, time + 0.1, code) - want).abs().max()) > 1e-3  # the level of noise matters
        if code is not None:
            assert float((net(x, time, torch.zeros_like(code)) - want).abs().max()) > 1e-3


@pytest.mark.parametrize("name", EDM2S)
def test_networks_of_edm2(name):
    shapes = edm2_shapes(**EDM2S[name])
    state = filled(shapes)
    net = EDM2UNet(EDM2Config.from_shapes(shapes))
    assert {k: tuple(v.shape) for k, v in net.state_dict().items()} == shapes
    net.load_state_dict(state)
    x, time, code = inputs(shapes)
    want = edm2(state, x, time, code)
    with torch.no_grad():
        torch.testing.assert_close(net(x, time, code), want, atol=2e-5, rtol=2e-5)
        for field, value in {"label": 0.3, "concat": 0.3, "residual": 0.5, "attend": 0.6, "clip": 0.5}.items():
            other = EDM2UNet(replace(net.config, **{field: value}))
            other.load_state_dict(state)
            same = field == "label" and code is None
            assert torch.equal(other(x, time, code), net(x, time, code)) == same, f"{field} changes nothing"


def millions(config):
    with torch.device("meta"):
        net = EDM2UNet(config) if isinstance(config, EDM2Config) else edm_unet(config)
    return sum(p.numel() for p in net.parameters()) / 1e6


def test_published_sizes():
    """Karras et al. 2022, table 7: 56, 56, 62, 63, 296 M; Karras et al. 2024, table 4: 125 M to 1.5 B."""
    ddpm = EDMConfig("song", 32, 3, 3, 128, (256,) * 3, 128, 512, 4, (False, True, False), augment=9)
    ncsn = {"fourier": True, "aux_in": "residual", "taps": 4, "noise": 256}
    faces = replace(ddpm, side=64, widths=(128, 256, 256, 256), attention=(False, False, True, False))
    adm = EDMConfig("adm", 64, 3, 3, 192, (192, 384, 576, 768), 192, 768, 3, (False, True, True, True), classes=1000)
    sizes = [millions(c) for c in (ddpm, replace(ddpm, **ncsn), faces, replace(faces, **ncsn), adm)]
    assert [round(v) for v in sizes] == [56, 56, 62, 63, 296]
    assert [replace(ddpm, **ncsn).name, ddpm.name, adm.name] == ["NCSN++", "DDPM++", "ADM"]
    for width, want in ((128, 125), (192, 280), (256, 498), (448, 1523)):
        widths = tuple(width * i for i in (1, 2, 3, 4))
        assert round(millions(EDM2Config(64, 4, widths, width, 4 * width, 3, (False, False, True, True), 1000))) == want


# Preconditioning.


def denoised(net, state, x, sigma, kind, code=None, channels=3):
    """D(x; sigma) of table 1 of Karras et al. 2022, in its own words."""
    s = torch.full((len(x),), sigma)
    if kind == "edm":
        d = 0.5
        skip, out = d**2 / (sigma**2 + d**2), sigma * d / math.sqrt(sigma**2 + d**2)
        scale, noise = 1 / math.sqrt(sigma**2 + d**2), s.log() / 4
    elif kind == "vp":
        t = (math.sqrt(0.1**2 + 2 * 19.9 * math.log(1 + sigma**2)) - 0.1) / 19.9
        skip, out, scale, noise = 1, -sigma, 1 / math.sqrt(sigma**2 + 1), 0 * s + 999 * t
    elif kind == "ve":
        skip, out, scale, noise = 1, sigma, 1, (s / 2).log()
    return skip * x + out * net(state, scale * x, noise, code)[:, :channels]


def at(prior, x, sigma):
    """The prior's mean for x_0 + sigma n, on its own schedule."""
    t = prior.schedule.time_of(torch.tensor(-2 * math.log(sigma)).double())
    alpha = prior.schedule.alpha(t)
    return prior((alpha * x.double()).float(), t.float()).mean


PRECONDITIONED = {
    "edm": ("EDMPrecond", {}, EDM),
    "vp": ("VPPrecond", {"noise": 8}, VPLinear),
    "ve": ("VEPrecond", {"fourier": True, "aux_in": "residual", "taps": 4}, VE),
}


@pytest.mark.parametrize("kind", PRECONDITIONED)
def test_a_published_pickle_is_its_preconditioned_network(kind, tmp_path):
    what, options, schedule = PRECONDITIONED[kind]
    state = filled(song_shapes(**options))
    path = write_pickle(tmp_path / "edm-cifar10-32x32-uncond-vp.pkl", state, what, img_resolution=8, img_channels=3)
    prior = load_prior(path)
    assert isinstance(prior.schedule, schedule) and prior.event_shape == (3, 8, 8)
    assert prior.card["config"]["preconditioning"] == kind and prior.card["unsure"] == []
    for sigma in (0.05, 0.7, 9.0):
        want = denoised(song, state, sigma * X, sigma, kind)
        torch.testing.assert_close(at(prior, sigma * X, sigma), want, atol=3e-4 * max(1, sigma), rtol=1e-3)
        other = denoised(song, state, sigma * X, 1.1 * sigma, kind)
        assert float((other - want).abs().max()) > 2e-3 * max(1, sigma)  # so a wrong coefficient would be seen


def test_iddpms_table(tmp_path):
    """Levels u_j, learned variances dropped, the index as time (Nichol & Dhariwal 2021, as in Karras et al. 2022)."""
    m, u = 20, [0.0] * 21
    abar = [math.sin(math.pi / 2 * j / (m * 1.008)) ** 2 for j in range(m + 1)]
    for j in range(m, 0, -1):
        u[j - 1] = math.sqrt((u[j] ** 2 + 1) / max(abar[j - 1] / abar[j], 0.001) - 1)
    shapes = song_shapes(adm=True)
    shapes["out_conv.weight"], shapes["out_conv.bias"] = (6, *shapes["out_conv.weight"][1:]), (6,)
    state = filled(shapes)
    torch.save({"model." + k: v for k, v in state.items()} | {"u": torch.tensor(u)}, tmp_path / "x.pt")
    prior = load_prior(tmp_path / "x.pt")
    for j in (2, 9, 19):
        x = u[j] * X
        net = song(state, x / math.sqrt(1 + u[j] ** 2), torch.full((2,), float(m - 1 - j)), adm=True)
        want = x - u[j] * net[:, :3]
        t = torch.tensor(float(m - 1 - j))
        torch.testing.assert_close(prior(x * prior.schedule.alpha(t), t).mean, want, atol=1e-3, rtol=1e-3)
    alone = load_prior(tmp_path / "x.pt", preconditioning="iddpm")
    assert alone.schedule.max_steps == m
    from deft.prior.edm import Settings

    own = convention_of(Settings("iddpm", {"M": m}, True))["schedule"]
    torch.testing.assert_close(own.betas, prior.schedule.betas, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_edm2s_pickle(tmp_path, protocol):
    """Half precision, classes, the network that estimates its own loss beside it, and balances that are not usual."""
    state = {k: v.half().float() for k, v in filled(edm2_shapes(classes=3, channels=3)).items()}
    half = {k: v.half() for k, v in state.items()}
    beside = {"logvar_fourier.freqs": torch.ones(4), "logvar_linear.weight": torch.ones(1, 4)}
    whole = {"unet." + k: v for k, v in half.items()} | beside
    path = write_pickle(tmp_path / "edm2-img64-xs.pkl", whole, "Precond", prefix="", protocol=protocol, sigma_data=0.5)
    prior = load_prior(path, label=1)
    for sigma in (0.1, 3.0):
        want = denoised(edm2, state, sigma * X, sigma, "edm", ONE)
        torch.testing.assert_close(at(prior, sigma * X, sigma), want, atol=1e-4, rtol=1e-3)
    other = write_pickle(tmp_path / "b.pkl", whole, "Precond", prefix="", res_balance=0.5, sigma_data=0.7)
    changed = load_prior(other, label=1)
    assert changed.sigma_data == pytest.approx(0.7) and changed.card["config"]["residual"] == 0.5
    assert fingerprint(changed) != fingerprint(prior) != fingerprint(load_prior(path, label=2))
    assert len(sample(prior, 2, sampler=DPMpp2M(), steps=3)) == 2


def test_labels(tmp_path, capsys):
    state = filled(song_shapes(classes=3))
    path = write_pickle(tmp_path / "x.pkl", state, label_dropout=0.1)
    first, none = load_prior(path, label=1), load_prior(path, label="none")
    torch.testing.assert_close(at(first, X, 1.0), denoised(song, state, X, 1.0, "edm", ONE), atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(at(none, X, 1.0), denoised(song, state, X, 1.0, "edm", 0 * ONE), atol=1e-4, rtol=1e-3)
    assert "label dropout (its file says 0.1)" in none.card["unsure"][0] and none.card["label"] == "none"
    assert "give label=0..2, or label=none" in refused(capsys, "prior", "inspect", path)
    with pytest.raises(InputError, match=r"label=0\.\.2"):
        load_edm(path, label=3)
    plain = write_pickle(tmp_path / "y.pkl", filled(song_shapes()))
    with pytest.raises(InputError, match="is unconditional"):
        load_edm(plain, label=0)


def test_options(tmp_path):
    path = write_pickle(tmp_path / "x.pkl", filled(song_shapes()))
    prior = load_prior(path, schedule="ve", sides="4,12", value_range="0,1", sigma_data=1)
    assert prior.event_shape == (3, 4, 12) and isinstance(prior.inner_schedule, VE) and prior.sigma_data == 1
    assert prior(torch.zeros(1, 3, 4, 12), torch.tensor(0.5)).mean.shape == (1, 3, 4, 12)
    assert prior.reread(output="x0").output == "x0"
    assert load_prior(path, preconditioning="vp").output == "eps"
    with pytest.raises(InputError, match="images of 3 channels: give event_shape=3,HEIGHT,WIDTH, got 1,4,4"):
        load_prior(path, event_shape="1,4,4")
    with pytest.raises(InputError, match="unknown preconditioning"):
        load_prior(path, preconditioning="edn")


@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".ckpt"])
def test_bare_state_dicts(suffix, tmp_path):
    state = filled(song_shapes())
    if suffix == ".safetensors":
        save_file(state, tmp_path / "x.safetensors")
    else:
        torch.save({"state_dict": {"net.model." + k: v for k, v in state.items()}}, tmp_path / f"x{suffix}")
    prior = load_prior(tmp_path / f"x{suffix}")
    torch.testing.assert_close(at(prior, X, 1.0), denoised(song, state, X, 1.0, "edm"), atol=1e-4, rtol=1e-3)
    assert "preconditioning: not in a state dict" in prior.card["unsure"][0]
    assert load_prior(tmp_path / f"x{suffix}", preconditioning="edm").card["unsure"] == []


def test_latents_and_their_autoencoder(tmp_path):
    """EDM2 at 512 pixels: latents by default; images with a folder of diffusers, by the published scale of latents."""
    diffusers = pytest.importorskip("diffusers")
    state = filled(edm2_shapes())
    path = write_pickle(tmp_path / "edm2-img512-xs.pkl", state, "Precond", prefix="unet.")
    assert "autoencoder=FOLDER" in load_prior(path).card["unsure"][0]
    torch.manual_seed(0)
    diffusers.AutoencoderKL(
        latent_channels=4, block_out_channels=(8, 8), norm_num_groups=4, mid_block_add_attention=False,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    ).save_pretrained(tmp_path / "vae")  # fmt: skip
    prior = load_prior(path, autoencoder=str(tmp_path / "vae"))
    assert prior.data_shape == (3, 16, 16) and prior.event_shape == (4, 8, 8)
    raw = prior.autoencoder.model.encode(torch.zeros(1, 3, 16, 16)).latent_dist.mean
    means, deviations = (
        torch.tensor(v).reshape(1, 4, 1, 1) for v in ((5.81, 3.25, 0.12, -2.15), (4.17, 4.62, 3.71, 3.28))
    )
    torch.testing.assert_close(prior.encode(torch.zeros(1, 3, 16, 16)), (raw - means) / deviations * 0.5)


# What is refused.


class Burglar:
    def __reduce__(self):
        import os

        return os.system, ("touch it-ran",)


def test_a_pickle_with_code_is_refused_by_name(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = write_pickle(tmp_path / "x.pkl", filled(song_shapes()), more={"encoder": Burglar()})
    says = refused(capsys, "prior", "inspect", path)
    assert "holds code: it names 'posix.system'" in says and "FILE.py:FUNCTION" in says
    assert not (tmp_path / "it-ran").exists()
    pickle.loads(pickle.dumps(Burglar()))
    assert (tmp_path / "it-ran").exists()  # so the test above would have noticed


def test_what_pickles_may_not_do(tmp_path):
    """Operations and names by which a pickle could reach into this process, or take memory that it does not hold."""
    path = tmp_path / "x.pkl"
    floats = pickle.dumps(torch.ones(3), protocol=2)
    storage = b"ctorch.storage\n_load_from_bytes\n"
    wrong = {
        "a name of builtins": b"\x80\x02cbuiltins\neval\nX\x01\x00\x00\x001\x85R.",
        "a name in parts": b"\x80\x04\x8c\x05torch\x8c\x08_C.other\x93.",
        "an attribute of torch": b"\x80\x02ctorch\nload\n.",
        "a state for a function": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}X\x01\x00\x00\x00aK\x01sb.",
        "a call of no name": b"\x80\x02X\x01\x00\x00\x00a)R.",
        "an old instance": b"\x80\x02(ios\nsystem\n.",
        "an extension": b"\x80\x02\x82\x01.",
        "bytes that are not there": b"\x80\x05\x8e" + (2**40).to_bytes(8, "little") + b"a.",
        "a bytearray": b"\x80\x05\x96" + (2**40).to_bytes(8, "little") + b"a.",
        "a frame that is not there": b"\x80\x04\x95" + (2**40).to_bytes(8, "little") + b"N.",
        "a storage that is none": b"\x80\x02" + storage + b"X\x01\x00\x00\x00a\x85R.",
        "a persistent id": b"\x80\x02K\x01Q.",
        "a tensor larger than its storage": floats.replace(b"K\x03\x85", b"K\x7f\x85"),
        "one number shown often": floats.replace(b"K\x03\x85", b"K\x7f\x85").replace(b"K\x01\x85", b"K\x00\x85"),
        "nothing": b"",
        "text": b"<html>404</html>",
    }
    path.write_bytes(floats)
    assert torch.equal(read_pickle(path), torch.ones(3)) and wrong["a tensor larger than its storage"] != floats
    assert wrong["one number shown often"] != wrong["a tensor larger than its storage"]
    for name, raw in wrong.items():
        path.write_bytes(raw)
        with pytest.raises(CheckpointError, match=r"x\.pkl is"):
            read_pickle(path)
            pytest.fail(name)
    with pytest.raises(pickle.UnpicklingError):
        read_storage(b"\x80\x02N." * 5)


def test_truncated(tmp_path):
    raw = write_pickle(tmp_path / "x.pkl", filled(song_shapes())).read_bytes()
    for share in (0.01, 0.5, 0.9, 0.999):
        (tmp_path / "x.pkl").write_bytes(raw[: int(share * len(raw))])
        with pytest.raises(CheckpointError, match=r"x\.pkl is truncated or no pickle.*fetch it again"):
            load_prior(tmp_path / "x.pkl")


def test_weights_that_do_not_fit(tmp_path):
    state = filled(song_shapes())
    some = dict(state)
    del some["enc.4x4_block0.conv0.bias"]
    cases = {
        r"1 missing \(first: enc\.4x4_block0\.conv0\.bias\)": some,
        r"1 unexpected \(first: enc\.4x4_block0\.gate\)": state | {"enc.4x4_block0.gate": torch.ones(2)},
        r"1 of another shape \(first: map_layer1\.bias is \(5,\), expected \(16,\)\)": state
        | {"map_layer1.bias": torch.ones(5)},
        r"takes 3 channels and returns 5": state
        | {"dec.8x8_aux_conv.weight": torch.ones(5, 8, 3, 3), "dec.8x8_aux_conv.bias": torch.ones(5)},
        r"enc\.8x8_conv\.weight is missing": {k: v for k, v in state.items() if k != "enc.8x8_conv.weight"},
        r"sides of its levels are 8, 4, 3": state | {"enc.3x3_block0.qkv.weight": torch.ones(1)},
    }
    for i, (says, wrong) in enumerate(cases.items()):
        path = write_pickle(tmp_path / f"{i}.pkl", wrong)
        with pytest.raises((CheckpointError, InputError), match=says):
            load_prior(path)


def test_a_file_of_a_huge_network_takes_no_memory(tmp_path):
    """Shapes are compared on the meta device before memory is taken."""
    state = filled(song_shapes()) | {"map_layer0.weight": torch.zeros(1).expand(2**20, 2**20)}
    torch.save(OrderedDict(state), tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=r"fewer numbers stored than it shows|truncated"):
        load_edm(tmp_path / "x.pt")
