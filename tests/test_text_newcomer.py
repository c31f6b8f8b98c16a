"""A newcomer's way with a text-conditional pipeline: twelve photographs, a fit under a prompt, samples; and the same
prior behind a service."""

from __future__ import annotations

import json
import shlex

import numpy as np
import pytest
import torch
from PIL import Image

from deft.errors import CheckpointError
from deft.prior import load_prior
from deft.recipe.fitted import load

diffusers = pytest.importorskip("diffusers")
pytest.importorskip("transformers")

import text_models as models  # noqa: E402
from text_models import PROMPT  # noqa: E402
from toys import refused, run  # noqa: E402

FEW = ("--steps", "2", "--batch", "2", "--bank", "0", "--size", "0.9", "--prior-samples", "0")


def photographs(folder, count=12, side=16):
    """Smooth pictures in colour."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for i in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8))
        coarse.resize((side, side), Image.BICUBIC).save(folder / f"{i:02d}.png")
    return folder


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    models.stable_diffusion(tmp_path / "sd")
    photographs(tmp_path / "photos")
    mask = np.full((16, 16), 255, np.uint8)
    mask[4:10, 5:11] = 0
    Image.fromarray(mask).save("mask.png")
    return tmp_path


def test_fit_and_sample(place, capsys):
    """The run remembers prompt and guidance; another prompt is refused; pictures are written."""
    words = ("--prompt", PROMPT, "--guidance-scale", "2")
    code, _, err = run(
        capsys, "fit", "--prior", "sd/", *words, "--data", "photos/", "--task", "inpaint", "--out", "run", *FEW
    )
    assert code == 0, err
    drawn = ("--measurement", "photos/00.png", "--mask", "mask.png", "-n", "2", "--steps", "3")
    code, _, err = run(capsys, "sample", "run", *drawn, "--out", "filled")
    assert code == 0, err
    assert {"mean.png", "sample-000.png", "sample-001.png"} <= {p.name for p in (place / "filled").iterdir()}
    about = json.loads((place / "filled/sample.json").read_text())
    assert about["network_rows_per_call"] == 2
    found = load("run")
    assert found.card["prior_options"] == [f"prompt={PROMPT}", "guidance_scale=2"]
    assert found.prior.describe()["prompt"] == PROMPT
    assert PROMPT in (place / "run/card.md").read_text()
    line = refused(capsys, "sample", "run", *drawn, "--prompt", "a dog", "--out", "other")
    assert f"prompt: fitted {PROMPT}, given a dog" in line or ("a dog" in line and PROMPT in line)
    line = refused(capsys, "sample", "run", *drawn, "--guidance-scale", "5", "--out", "other")
    assert "guidance_scale" in line
    with pytest.raises(CheckpointError, match="guidance_scale"):
        load("run", load_prior("sd", prompt=PROMPT))


def test_embeddings_and_lora_are_found_again_from_elsewhere(place, capsys, monkeypatch):
    """Files are remembered by their absolute paths; the text encoder is not needed."""
    from safetensors.torch import save_file

    name = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
    save_file(
        {f"{name}.lora_A.weight": torch.ones(2, 16), f"{name}.lora_B.weight": torch.ones(32, 2)}, "style.safetensors"
    )
    run(capsys, "prior", "embed", "sd", "--prompt", PROMPT, "--out", "cat.safetensors")
    words = ("--embeddings", "cat.safetensors", "--lora", "style.safetensors")
    code, _, err = run(
        capsys, "fit", "--prior", "sd", *words, "--data", "photos/", "--task", "inpaint", "--out", "run", *FEW
    )
    assert code == 0, err
    (place / "sd/text_encoder").rename(place / "elsewhere")
    (place / "further").mkdir()
    monkeypatch.chdir(place / "further")
    again = load(place / "run")
    assert again.prior.describe()["prompt"] == PROMPT and again.prior.card["lora"]["file"] == "style.safetensors"


def test_behind_a_service(place, capsys):
    """The prompt is the service's; means and fingerprint are those here, so that an h serves on both sides."""
    from deft.remote.client import RemoteDenoiser
    from deft.remote.server import make_app, running

    local = load_prior("sd", prompt=PROMPT, guidance_scale=2.0)
    with running(make_app(load_prior("sd", prompt=PROMPT, guidance_scale=2.0))) as url:
        there = RemoteDenoiser(url)
        x, t = torch.randn(2, 4, 8, 8), torch.tensor(400.0)
        torch.testing.assert_close(there(x, t).mean, local(x, t).mean, atol=1e-5, rtol=1e-5)
        assert there.fingerprint() == local.fingerprint()
        assert there.describe()["prompt"] == PROMPT
        line = refused(capsys, "prior", "inspect", url, "--prompt", "a dog")
        assert "the prompt of a prior behind a service is the service's own" in line


def test_methods_without_a_fit(place, capsys):
    code, _, err = run(
        capsys, "sample", "--prior", "sd", "--prompt", PROMPT, "--task", "inpaint", "--method", "dps", "--measurement",
        "photos/01.png", "--mask", "mask.png", "-n", "1", "--steps", "2", "--out", "out",
    )  # fmt: skip
    assert code == 0, err
    assert (place / "out/mean.png").is_file()


def fitted_without_guidance(capsys):
    code, _, err = run(
        capsys, "fit", "--prior", "sd", "--prompt", PROMPT, "--data", "photos/", "--task", "inpaint", "--out", "run",
        *FEW,
    )  # fmt: skip
    assert code == 0, err


def test_what_a_shared_h_tells_to_do_works(place, capsys):
    """Both ways in README.md load the prior under its prompt, and its Python takes images, not latents."""
    fitted_without_guidance(capsys)
    code, _, err = run(capsys, "hub", "export", "run", "--out", "shared", "--license", "mit")
    assert code == 0, err
    text = (place / "shared/README.md").read_text()
    assert "| samples | 3x16x16, values in [-1, 1], of latents 4x8x8 |" in text
    line = next(line for line in text.splitlines() if line.startswith("deft sample . "))
    words = shlex.split(line.replace(" . ", " shared ").replace("PRIOR", "sd").replace("photo.png", "photos/00.png"))
    code, _, err = run(capsys, *words[1:], "--steps", "2")
    assert code == 0, err
    about = json.loads((place / "samples/sample.json").read_text())
    assert about["prior_settings"]["prompt"] == PROMPT
    scope: dict = {}
    code = text.partition("```python\n")[2].partition("```")[0].replace('"PRIOR"', '"sd"').replace('"."', '"shared"')
    exec(code, scope)
    assert scope["draws"].x.shape == (1, 4, 3, 16, 16)


def test_refusals_say_what_to_do(place, capsys):
    """Another prompt, another size, a graph of an h of latents, tiles of latents, a method for linear operators."""
    fitted_without_guidance(capsys)
    drawn = ("--measurement", "photos/00.png", "--mask", "mask.png", "--out", "out")
    assert refused(capsys, "sample", "run", "--prompt", "a dog", *drawn).endswith(f"give prompt='{PROMPT}'")
    assert "works at that size alone" in refused(
        capsys, "sample", "run", "--prior-option", "event_shape=4,12,12", *drawn
    )
    for options in ((), ("--with-prior",)):
        line = refused(capsys, "export", "run", "--out", "h.onnx", *options)
        assert "an h of an autoencoder's latents cannot be written as a graph" in line and "--with-prior" not in line
    assert "leave tiled out, and give event_shape" in refused(
        capsys, "prior", "inspect", "sd", "--prior-option", "tiled=4,16,16"
    )
    assert "take dps or reconstruction" in refused(capsys, "sample", "--prior", "sd", *drawn)


def test_what_is_served_of_latents_is_said(place, capsys, monkeypatch):
    import deft.remote.server as server

    def once(prior, host, port, *, ready, **_):
        ready("http://127.0.0.1:1")
        return True

    monkeypatch.setattr(server, "serve", once)
    code, out, err = run(capsys, "serve", "sd", "--prompt", PROMPT)
    assert code == 0 and "it serves latents, not images" in out + err
