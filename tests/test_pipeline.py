"""deft.diffusers.DeftPipeline: pictures in and out as in diffusers, the samples those of h bit for bit."""

from __future__ import annotations

import importlib
import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import deft
from deft.errors import CheckpointError, DeftError, InputError
from toys import pictures

diffusers = pytest.importorskip("diffusers")
from deft.diffusers import DeftPipeline, DeftPipelineOutput  # noqa: E402
from deft.diffusers.pictures import as_images, as_output, seen_of  # noqa: E402

SIDE = 16
FEW = {"steps": 2, "batch": 2, "warmup": 1, "prior_samples": 0, "cache": 0, "calibrate": False, "evaluations": 1}


def unet(side, channels):
    return diffusers.UNet2DModel(
        sample_size=side,
        in_channels=channels,
        out_channels=channels,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
    ).eval()


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders that diffusers wrote, with random weights: a DDPM of pixels, and a latent one."""
    torch.manual_seed(0)
    here = tmp_path_factory.mktemp("models")
    scheduler = diffusers.DDPMScheduler(prediction_type="v_prediction")
    diffusers.DDPMPipeline(unet(SIDE, 1), scheduler).save_pretrained(here / "pixels")
    unet(8, 2).save_pretrained(here / "latents/unet")
    diffusers.AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=2,
        block_out_channels=(8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        mid_block_add_attention=False,
    ).save_pretrained(here / "latents/vae")
    scheduler.save_pretrained(here / "latents/scheduler")
    index = {"_class_name": "LDMPipeline", "unet": ["diffusers", "UNet2DModel"]}
    (here / "latents/model_index.json").write_text(json.dumps(index))
    return here


def fitted(folder, task="inpaint"):
    prior = deft.load_prior(folder)
    x = 2 * torch.rand(4, *prior.data_shape, generator=torch.Generator().manual_seed(1)) - 1
    h = deft.fit_h(prior, task, x, width=8, **FEW, progress=False)
    torch.manual_seed(2)
    for p in h.h.parameters():
        p.data.normal_(std=0.05)  # an h that says something
    return h


@pytest.fixture(scope="module")
def fits(folders):
    return {name: fitted(folders / name) for name in ("pixels", "latents")}


def made(h):
    pipe = DeftPipeline(h.prior, h)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def pipe(fits):
    return made(fits["pixels"])


PHOTOS = [Image.fromarray(one) for one in pictures(2, side=SIDE)]
WHITE = np.zeros((SIDE, SIDE), np.uint8)
WHITE[4:9, 3:9] = 255
FILL = Image.fromarray(WHITE)
"""White where it is to be filled."""


@pytest.mark.parametrize("name", ["pixels", "latents"])
def test_the_samples_are_those_of_h(fits, name):
    """Bit for bit, for two pictures and three samples of each, from the seed of a generator or the seed itself."""
    h, pipe = fits[name], made(fits[name])
    photos = [one.convert("RGB") for one in PHOTOS] if name == "latents" else PHOTOS
    y = torch.stack([torch.from_numpy(np.asarray(p).astype(np.float32) / 255).reshape(SIDE, SIDE, -1) for p in photos])
    mask = 1 - torch.from_numpy(WHITE / np.float32(255))[None, None].expand(2, -1, -1, -1)
    truth = h.sample(2 * y.permute(0, 3, 1, 2) - 1, 3, steps=4, seed=7, mask=mask)
    for seed in (7, torch.Generator().manual_seed(7)):
        out = pipe(photos, FILL, num_inference_steps=4, num_images_per_prompt=3, generator=seed, output_type="pt")
        assert isinstance(out, DeftPipelineOutput) and torch.equal(out.draws.x, truth.x)
        assert torch.equal(out.images, (truth.x.flatten(0, 1) / 2 + 0.5).clamp(0, 1))
    parts = pipe(photos, FILL, num_inference_steps=4, num_images=3, generator=7, batch=2)
    torch.testing.assert_close(parts.draws.x, truth.x, atol=1e-5, rtol=1e-5)


def test_generators(pipe):
    """The same seed, the same picture, alone and in a list; a generator goes on; none is another seed each time."""
    call = {"mask_image": FILL, "num_inference_steps": 3, "output_type": "pt"}
    g = torch.Generator().manual_seed(3)
    first, second = pipe(PHOTOS[0], generator=g, **call).images, pipe(PHOTOS[0], generator=g, **call).images
    assert torch.equal(first, pipe(PHOTOS[0], generator=3, **call).images) and not torch.equal(first, second)
    again = torch.Generator().manual_seed(3)
    pipe(PHOTOS[0], generator=again, **call)
    assert torch.equal(second, pipe(PHOTOS[0], generator=again, **call).images)
    each = [torch.Generator().manual_seed(s) for s in (8, 3)]
    listed = pipe(PHOTOS[0], generator=each, num_images=2, **call).images
    torch.testing.assert_close(listed[1:], first, atol=1e-5, rtol=1e-5)
    assert float((listed[0] - listed[1]).abs().max()) > 0.1
    torch.manual_seed(0)
    one, two = pipe(PHOTOS[0], **call).images, pipe(PHOTOS[0], **call).images
    torch.manual_seed(0)
    assert not torch.equal(one, two) and torch.equal(one, pipe(PHOTOS[0], **call).images)


def test_white_is_to_be_filled(pipe):
    """What lies under white has no influence, what lies under black has: the convention of diffusers, and a test that
    is red if the mask is the other way round."""
    call = {"num_inference_steps": 3, "generator": 0, "output_type": "pt"}
    whole = np.asarray(PHOTOS[0]).astype(np.float32) / 255
    hidden, seen = whole.copy(), whole.copy()
    hidden[5, 4] = 1 - whole[5, 4] / 2
    seen[12, 12] = 1 - whole[12, 12] / 2
    x = pipe(whole, FILL, **call).draws.x
    assert torch.equal(pipe(hidden, FILL, **call).draws.x, x)
    assert not torch.equal(pipe(seen, FILL, **call).draws.x, x)
    assert seen_of(FILL, (SIDE, SIDE))[0, 0, 5, 4] == 0 and seen_of(FILL, (SIDE, SIDE))[0, 0, 12, 12] == 1


@pytest.mark.parametrize("form", ["L", "1", "RGB", "bytes", "floats", "column", "tensor", "batch", "truth"])
def test_a_mask_is_the_same_in_every_form(form):
    unit = WHITE / np.float32(255)
    mask = {
        "L": FILL,
        "1": FILL.convert("1"),
        "RGB": FILL.convert("RGB"),
        "bytes": WHITE,
        "floats": 0.9 * unit + 0.05,
        "column": unit[..., None],
        "tensor": torch.from_numpy(unit),
        "batch": torch.from_numpy(unit)[None, None],
        "truth": WHITE > 0,
    }[form]
    assert torch.equal(seen_of(mask, (SIDE, SIDE))[0, 0], 1 - torch.from_numpy(unit))


def test_pictures_come_back_as_they_were():
    """PIL, NumPy and PyTorch, one, a batch and a list, grey and colour: to [-1, 1] and back, every byte the same."""
    rng = np.random.default_rng(0)
    for c in (1, 3):
        stored = rng.integers(0, 256, (3, 8, 6, c), np.uint8)
        images = [Image.fromarray(s[..., 0] if c == 1 else s) for s in stored]
        unit = stored.astype(np.float32) / 255
        forms = [images, stored, unit, list(unit), torch.from_numpy(unit).permute(0, 3, 1, 2)]
        for form in forms:
            x = as_images(form, (c, 8, 6))
            back = as_output(x, "pil")
            assert all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in zip(back, images, strict=True))
            np.testing.assert_allclose(as_output(x, "np"), unit, atol=1e-6)
        assert as_images(images[0], (c, 8, 6)).shape == as_images(unit[0], (c, 8, 6)).shape == (1, c, 8, 6)
    grey = Image.fromarray(stored[0, ..., 0])
    assert torch.equal(as_images(grey.convert("RGB"), (1, 8, 6)), as_images(grey, (1, 8, 6)))
    assert torch.equal(as_images(grey, (3, 8, 6))[:, :1], as_images(grey, (1, 8, 6)))


def test_what_comes_out(pipe, fits):
    call = {"num_inference_steps": 2, "num_images": 2, "generator": 0}
    pil, array, tensor, latent = (
        pipe(PHOTOS, FILL, output_type=kind, **call).images for kind in ("pil", "np", "pt", "latent")
    )
    assert len(pil) == 4 and pil[0].size == (SIDE, SIDE) and pil[0].mode == "L"
    assert array.shape == (4, SIDE, SIDE, 1) and tensor.shape == (4, 1, SIDE, SIDE)
    np.testing.assert_allclose(array[..., 0], tensor[:, 0].numpy())
    torch.testing.assert_close((latent / 2 + 0.5).clamp(0, 1), tensor)
    images, draws = pipe(PHOTOS, FILL, return_dict=False, **call)
    assert len(images) == 4 and draws.x.shape == (2, 2, 1, SIDE, SIDE)
    out = made(fits["latents"])(PHOTOS[0], FILL, output_type="latent", num_inference_steps=2)
    assert out.images.shape == (1, 2, 8, 8) and out.draws is None
    assert made(fits["latents"])(PHOTOS[0], FILL, num_inference_steps=2).images[0].mode == "RGB"


def test_the_callback_sees_every_step(pipe):
    seen = []

    def watch(found, step, t, tensors):
        seen.append((found is pipe, step, t, tuple(tensors), tensors["mean"].shape))
        return {}

    call = {"num_inference_steps": 5, "generator": 1, "num_images": 2, "output_type": "pt"}
    free = pipe(PHOTOS[0], FILL, **call).images
    watched = pipe(
        PHOTOS[0],
        FILL,
        callback_on_step_end=watch,
        callback_on_step_end_tensor_inputs=["latents", "mean"],
        **call,
    )
    assert torch.equal(watched.images, free) and pipe.num_timesteps == 5
    assert [s[1] for s in seen] == list(range(5)) and all(s[0] and s[3] == ("latents", "mean") for s in seen)
    times = [s[2] for s in seen]
    assert times == sorted(times, reverse=True) and seen[0][4] == (2, 1, SIDE, SIDE)


def test_the_callback_may_change_the_state_and_interrupt(pipe):
    """What it returns as latents is the state; with `_interrupt` the state reached is returned, no step more."""
    call = {"num_inference_steps": 5, "generator": 1}
    x = as_images(PHOTOS[1], (1, SIDE, SIDE))
    out = pipe(PHOTOS[0], FILL, callback_on_step_end=lambda p, i, t, k: {"latents": x} if i == 4 else k, **call)
    assert np.array_equal(np.asarray(out.images[0]), np.asarray(PHOTOS[1]))
    early = pipe(PHOTOS[0], FILL, callback_on_step_end=lambda p, i, t, k: {"latents": 0 * k["latents"]}, **call)
    assert not np.array_equal(np.asarray(early.images[0]), np.asarray(pipe(PHOTOS[0], FILL, **call).images[0]))
    steps, states = [], []

    def stop(p, i, t, tensors):
        steps.append(i)
        states.append(tensors["latents"].clone())
        p._interrupt = i == 2
        return {}

    out = pipe(PHOTOS[0], FILL, callback_on_step_end=stop, output_type="pt", **call)
    assert steps == [0, 1, 2] and out.draws is None
    torch.testing.assert_close(out.images, (states[-1] / 2 + 0.5).clamp(0, 1))
    assert pipe(PHOTOS[0], FILL, **call).draws is not None and not pipe.interrupt


def test_a_callback_of_diffusers(pipe):
    """A subclass of their PipelineCallback, which names the tensors it wants."""
    from diffusers.callbacks import PipelineCallback

    class Mine(PipelineCallback):
        tensor_inputs = ["latents"]  # noqa: RUF012

        def callback_fn(self, pipeline, step_index, timestep, callback_kwargs):
            if step_index == int(pipeline.num_timesteps * self.config.cutoff_step_ratio):
                pipeline._interrupt = True
            return callback_kwargs

    pipe(PHOTOS[0], FILL, num_inference_steps=4, callback_on_step_end=Mine(cutoff_step_ratio=0.5))
    assert pipe.interrupt


def test_progress(pipe, capsys):
    pipe.set_progress_bar_config(desc="filling")
    pipe(PHOTOS, FILL, num_inference_steps=3, batch=1)
    assert "filling: 100%" in (err := capsys.readouterr().err) and "6/6" in err
    pipe.set_progress_bar_config(disable=True)
    pipe(PHOTOS, FILL, num_inference_steps=3)
    assert "filling" not in capsys.readouterr().err


def test_other_tasks(folders):
    """Super-resolution takes the small picture, tomography the array; a kernel goes by its name."""
    h = fitted(folders / "pixels", "sr4")
    y = torch.rand(1, 1, 4, 4)
    out = made(h)(y, num_inference_steps=2, num_images=2, generator=3)
    assert torch.equal(out.draws.x, h.sample(2 * y - 1, 2, steps=2, seed=3).x)
    with pytest.raises(InputError, match=r"image is 16x16 .*expected 4x4"):
        made(h)(PHOTOS[0])
    ct = DeftPipeline(h.prior, task="ct")
    obs = ct.task.observe(2 * torch.rand(1, 1, SIDE, SIDE) - 1, deft.Noise(0, 1))
    call = {"num_inference_steps": 2, "generator": 0, "output_type": "pt"}
    assert torch.equal(ct(obs.y.numpy(), **call).images, ct(obs, **call).images)


QUICK = ("dps", "pigdm", "diffpir", "tds")


@pytest.mark.parametrize(
    "method",
    [
        pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
        for name, method in sorted(deft.methods.METHODS.items())
        if not method.trained
    ],
)
def test_every_method_without_h(folders, method, capsys):
    """With the progress bar on, where the sampler is watched; chains and particles draw as `Plan.draw` does."""
    pipe = DeftPipeline.from_pretrained(folders / "pixels", task="inpaint")
    if deft.methods.METHODS[method].learned:
        pytest.skip("its h is of one prior")
    try:
        out = pipe(PHOTOS[0], FILL, num_inference_steps=3, generator=4, method=method)
    except InputError as error:
        assert "needs" in str(error) or "takes" in str(error), error
        return
    plan = deft.methods.plan(method, "inpaint", steps=3)
    mask = seen_of(FILL, (SIDE, SIDE))
    obs = deft.Observation(mask * as_images(PHOTOS[0], (1, SIDE, SIDE)), pipe.task.likelihood(deft.Mask(mask)))
    assert torch.equal(out.draws.x, plan.draw(pipe.prior, obs, 1, seed=4, batch=1).x)


def test_components(pipe, fits):
    assert set(pipe.components) == {"prior", "h", "task"} and pipe.components["h"].h is fits["pixels"].h
    call = {"image": PHOTOS[0], "mask_image": FILL, "num_inference_steps": 2, "generator": 0}
    other = DeftPipeline(**pipe.components)
    assert torch.equal(other(**call).draws.x, pipe(**call).draws.x)
    assert isinstance(pipe, diffusers.DiffusionPipeline)
    assert "deft of" in repr(pipe) and "task inpaint" in repr(pipe) and "\n" not in repr(pipe)
    assert "no h, task None" in repr(DeftPipeline(pipe.prior))
    assert (pipe.device.type, pipe.dtype) == ("cpu", torch.float32) and pipe.to("cpu") is pipe
    for offload in (pipe.enable_model_cpu_offload, pipe.enable_sequential_cpu_offload, pipe.enable_group_offload):
        with pytest.raises(InputError, match="moves as a whole"):
            offload()


@pytest.mark.parametrize("name", ["pixels", "latents"])
def test_half_precision_is_the_priors(folders, fits, tmp_path, name):
    """bfloat16 weights of the prior (and its autoencoder), float32 states: near the float32 pictures; h is checked
    before the weights are rounded."""
    fits[name].save(tmp_path / "run")
    call = {"image": PHOTOS[0], "mask_image": FILL, "num_inference_steps": 3, "generator": 0}
    pipe = DeftPipeline.from_pretrained(folders / name, tmp_path / "run", torch_dtype=torch.bfloat16)
    assert pipe.dtype == torch.bfloat16 and pipe.h.h.log_rho2.dtype == torch.float32
    x, truth = pipe(**call).draws.x, made(fits[name])(**call).draws.x
    assert x.dtype == torch.float32 and 0 < float((x - truth).abs().mean()) < 0.05
    with pytest.raises(InputError, match="before it is cast"):
        pipe.save_pretrained(tmp_path / "out")


@pytest.mark.parametrize("name", ["pixels", "latents"])
def test_what_is_saved_is_loaded(folders, fits, tmp_path, name):
    options = {"gradient": "encoder"} if name == "latents" else {"value_range": (0.0, 1.0)}
    h = fitted_with(folders / name, options)
    pipe = made(h)
    pipe.save_pretrained(tmp_path / "out")
    again = DeftPipeline.from_pretrained(str(tmp_path / "out"))
    call = {"image": PHOTOS[0], "mask_image": FILL, "num_inference_steps": 2, "generator": 0}
    assert torch.equal(again(**call).draws.x, pipe(**call).draws.x)
    assert again.prior.loaded_with == h.prior.loaded_with != ()
    again.save_pretrained(tmp_path / "twice")  # of a folder that has an h of its own
    assert (tmp_path / "twice/h/h.safetensors").is_file() and not (tmp_path / "twice/h/h").exists()
    if name == "pixels":  # what diffusers wrote stays readable for diffusers
        assert diffusers.DDPMPipeline.from_pretrained(tmp_path / "out").unet.config.sample_size == SIDE
    with pytest.raises(InputError, match="not empty"):
        pipe.save_pretrained(tmp_path / "out")


def fitted_with(folder, options):
    prior = deft.load_prior(folder, **options)
    x = 2 * torch.rand(4, *prior.data_shape) - 1
    return deft.fit_h(prior, "inpaint", x, width=8, **FEW, progress=False)


def test_other_priors_are_saved(folders, tmp_path, monkeypatch):
    from toys import toy_prior

    files = toy_prior(tmp_path / "mine.safetensors")
    for name in ("fashion", str(files)):
        where = tmp_path / f"out-{len(name)}"
        DeftPipeline.from_pretrained(name, task="sr4").save_pretrained(where)
        again = DeftPipeline.from_pretrained(where)
        assert again.task.name == "sr4" and again.prior.fingerprint() == deft.load_prior(name).fingerprint()
    monkeypatch.setattr("deft.prior.diffusers._download", lambda name: folders / "pixels")
    DeftPipeline.from_pretrained("google/ddpm-mine").save_pretrained(tmp_path / "hub")
    assert (tmp_path / "hub/unet/config.json").is_file()
    index = tmp_path / "hub/deft_pipeline.json"
    written = index.read_text()
    for name in ("mine.py", "mine.py:make"):  # a stranger's folder: its program is not run
        (tmp_path / "hub" / name).write_text("def make():\n    raise SystemExit('it ran')\n")
    for name in ("../pixels", "mine.py:make", "https://example.org", "google/ddpm-mine"):
        index.write_text(written.replace('"."', json.dumps(name)))
        with pytest.raises(InputError, match="expected a bundled one, or a file in this folder"):
            DeftPipeline.from_pretrained(tmp_path / "hub")
    index.write_text("[")
    with pytest.raises(CheckpointError):
        DeftPipeline.from_pretrained(tmp_path / "hub")
    net = deft.NetworkDenoiser(lambda x, t: x, deft.VPCosine(), (1, 8, 8))
    with pytest.raises(InputError, match="no files to copy"):
        DeftPipeline(net).save_pretrained(tmp_path / "no")


def test_the_ways_to_make_one(folders, fits, tmp_path):
    h = fits["pixels"]
    h.save(tmp_path / "run")
    for given in (
        (folders / "pixels", tmp_path / "run"),
        (h.prior, tmp_path / "run"),
        (h.prior, h),
        (deft.load_prior(folders / "pixels"), h),
        (None, tmp_path / "run"),
        (None, h),
    ):
        pipe = DeftPipeline.from_pretrained(*given)
        assert pipe.task.name == "inpaint" and pipe.h.prior is pipe.prior
    assert DeftPipeline.from_pretrained(folders / "pixels").h is None
    assert DeftPipeline.from_pretrained(folders / "pixels", output="v").prior.output == "v"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"model": None}, "expected a folder, an id or a prior"),
        ({"model": "not there/"}, "is no folder here"),
        ({"h": "not there/"}, "no such run"),
        ({"h": 3}, "expected a FittedH"),
        ({"output": "noise"}, "unknown output kind"),
        ({"colour": "red"}, "unknown option 'colour'"),
        ({"task": "nonsense"}, "nonsense"),
        ({"torch_dtype": torch.int8}, "torch_dtype is torch.int8"),
        ({"device": "abacus"}, "no such device"),
        ({"model": "prior", "label": 3}, "label is an option of a prior that is loaded here"),
        ({"h": "other"}, "fitted to another prior"),
        ({"h": "own", "task": "sr4"}, "h was fitted to"),
    ],
)
def test_bad_options(folders, fits, options, says):
    given = {"model": folders / "pixels", **options}
    given["h"] = {"other": fits["latents"], "own": fits["pixels"]}.get(str(given.get("h")), given.get("h"))
    given["model"] = fits["pixels"].prior if given["model"] == "prior" else given["model"]
    with pytest.raises(DeftError, match=says) as error:
        DeftPipeline.from_pretrained(**given)
    assert "\n" not in str(error.value)


BAD = [
    ({"image": None}, "image is missing"),
    ({"mask_image": None}, "needs mask_image"),
    ({"image": "photo.png"}, "expected a PIL image"),
    ({"image": []}, "holds no picture"),
    ({"image": PHOTOS[0].resize((8, 12))}, r"image is 12x8 .* expected 16x16"),
    ({"image": torch.zeros(3, SIDE, SIDE)}, "with 1 channels"),
    ({"image": np.full((SIDE, SIDE), 200.0)}, "bytes are uint8"),
    ({"image": np.full((SIDE, SIDE), -0.9)}, r"\(x \+ 1\) / 2"),
    ({"image": np.full((SIDE, SIDE), np.nan)}, "values from nan"),
    ({"image": np.zeros((SIDE, SIDE), np.int64)}, "holds int64"),
    ({"image": Image.fromarray(np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8))}, "in colour"),
    ({"image": Image.new("RGBA", (SIDE, SIDE))}, "transparent"),
    ({"image": Image.new("F", (SIDE, SIDE))}, "mode F"),
    ({"mask_image": FILL.resize((8, 8))}, r"shape 8x8, expected 16x16"),
    ({"mask_image": Image.new("L", (SIDE, SIDE))}, "black everywhere: there is nothing to fill"),
    ({"mask_image": Image.new("L", (SIDE, SIDE), 255)}, "white everywhere: nothing is seen"),
    ({"mask_image": 3 * np.ones((SIDE, SIDE))}, "values from 3 to 3"),
    ({"mask_image": [FILL, FILL]}, "2 masks for 1 images"),
    ({"mask_image": "mask.png"}, "mask_image is 'mask.png'"),
    ({"num_inference_steps": 0}, "steps"),
    ({"num_images": 0}, "num_images"),
    ({"num_images": 1, "num_images_per_prompt": 2}, "they are the same"),
    ({"generator": [1, 2]}, "a list of 2, and 1 pictures"),
    ({"generator": "seven"}, "expected a torch.Generator"),
    ({"generator": -1}, "generator"),
    ({"output_type": "jpeg"}, "unknown output_type"),
    ({"callback_on_step_end_tensor_inputs": ["prompt_embeds"]}, "unknown tensor input"),
    ({"callback_on_step_end": lambda *a: {"latents": torch.zeros(3)}}, "returns latents"),
    ({"height": 512}, "height is 512"),
    ({"prompt": "a cat"}, "prompt is 'a cat', and the prior has none"),
    ({"guidance_scale": 7.5}, "part of the prior"),
    ({"strength": 0.5}, "takes no strength="),
    ({"mask": torch.ones(1, 1, SIDE, SIDE)}, "takes no mask="),
    ({"method": "dsp"}, "unknown method"),
    ({"sampler": "eluer"}, "eluer"),
    ({"batch": 0}, "batch"),
    ({"batch": 1, "num_images": 2, "callback_on_step_end": print}, "watches all 2 pictures"),
    ({"method": "deft-smc", "callback_on_step_end": print}, "draws its samples together"),
]


@pytest.mark.parametrize(("given", "says"), BAD, ids=lambda v: "-".join(v) if isinstance(v, dict) else "")
def test_bad_calls(pipe, given, says):
    with pytest.raises(DeftError, match=says) as error:
        pipe(**{"image": PHOTOS[0], "mask_image": FILL, "num_inference_steps": 2, **given})
    assert "\n" not in str(error.value)


def test_bad_calls_of_other_pipelines(pipe, fits):
    with pytest.raises(InputError, match="no h, and so no task"):
        DeftPipeline(pipe.prior)(PHOTOS[0], FILL)
    with pytest.raises(InputError, match="leave it out"):
        DeftPipeline(pipe.prior, task="sr4")(torch.rand(1, 4, 4), FILL)
    with pytest.raises(InputError, match="give kernel="):
        DeftPipeline(pipe.prior, task="deblur-motion")(PHOTOS[0])
    with pytest.raises(InputError, match="is for images"):
        DeftPipeline(deft.testing.gaussian_field(2).prior(deft.VPCosine()))
    with pytest.raises(InputError, match="leave the rest out"):
        pipe(pipe.h.observe(torch.rand(1, 1, SIDE, SIDE), mask=seen_of(FILL, (SIDE, SIDE))), FILL)


def test_the_prompt_is_the_priors(pipe):
    """A prior that names its prompt is called with that one or with none."""
    prior = deft.load_prior(pipe.prior.loaded_as)
    prior.card["prompt"], prior.loaded_with = "a cat", ("guidance_scale=7.5",)
    told = DeftPipeline(prior, task="inpaint")
    call = {"image": PHOTOS[0], "mask_image": FILL, "num_inference_steps": 2}
    told(prompt="a cat", guidance_scale=7.5, **call)
    with pytest.raises(InputError, match="prompt is 'a dog', and the prior has 'a cat'"):
        told(prompt="a dog", **call)


def test_options_of_the_prior_go_to_its_loader(monkeypatch, fits):
    """Those of text-conditional priors, too: nothing here knows them."""
    asked = []
    monkeypatch.setattr(
        "deft.diffusers.pipeline.load_prior", lambda name, device, **o: asked.append((name, o)) or fits["pixels"].prior
    )
    DeftPipeline.from_pretrained("some/model", prompt="a cat", guidance_scale=5.0, variant="fp16")
    assert asked == [("some/model", {"prompt": "a cat", "guidance_scale": 5.0, "variant": "fp16"})]


def test_without_diffusers(monkeypatch):
    """`import deft` does without; the pipeline says what to install, in one line."""
    for name in [n for n in sys.modules if n.split(".")[:2] == ["deft", "diffusers"]]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "diffusers.pipelines.pipeline_utils", None)
    with pytest.raises(InputError, match=r"pip install 'deft-diffusion\[diffusers\]'"):
        importlib.import_module("deft.diffusers")
    assert "diffusers" not in deft.__all__


def test_networks_in_16_bits(folders):
    """The pictures are near those of float32, the prior is the same, and another name is one line."""
    from deft.runtime.precision import precision_of

    folder = folders / "pixels"
    pipe = DeftPipeline.from_pretrained(folder, task="sr4", precision="bf16")
    assert precision_of(pipe.prior) == "bf16" and pipe.dtype == torch.float32
    with pytest.raises(InputError, match="precision"):
        DeftPipeline.from_pretrained(folder, task="sr4", precision="half")
