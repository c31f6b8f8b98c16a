"""The commands of the adapters' pages run, line by line, on small models and pictures of the names the pages use."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from edm_files import filled, song_shapes, write_pickle
from graph_nets import onnx_net, program, scripted
from toys import pictures, run, save_pictures

ROOT = Path(__file__).parents[1]
PAGES = (
    "commands",
    "priors",
    "prior-diffusers",
    "prior-text",
    "prior-adm",
    "prior-edm",
    "prior-function",
    "pipeline",
    "prior-exported",
    "latent",
    "tasks",
    "methods",
)
SMALL = {  # said again at the end of a line, where the last word counts
    "fit": "--steps 2 --batch 2 --bank 0 --size 0.9",
    "sample": "-n 2 --steps 2",
    "inspect": "-n 2",
    "evaluate": "--images 2 --samples 1 --steps 2",
}


def commands(page: str) -> list[str]:
    text = (ROOT / f"docs/{page}.md").read_text(encoding="utf-8")
    lines = [
        line
        for block in re.findall(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        for line in re.sub(r"\\\n\s*", "", block).splitlines()
    ]
    return [line for line in lines if line.startswith("deft ")]


def unet(diffusers, side, channels):
    return diffusers.UNet2DModel(
        sample_size=side,
        in_channels=channels,
        out_channels=channels,
        block_out_channels=(32, 64),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
    )


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty folder with what the pages call photos/, photo.png, mask.png, small.png and the models they name."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    monkeypatch.chdir(tmp_path)
    save_pictures(tmp_path / "photos", pictures(12))
    Image.fromarray(pictures(1)[0]).save("photo.png")
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save("striped.png")
    Image.fromarray(np.tile(np.repeat(np.array([255, 0], np.uint8), 8), 4)[:, None].repeat(64, 1)).save("stripes.png")
    np.savez("drawn.npz", x=rng.uniform(-1, 1, (2, 3, 64, 64)).astype(np.float32))
    mask = np.full((16, 16), 255, dtype=np.uint8)
    mask[4:9, 4:9] = 0
    Image.fromarray(mask).save("mask.png")
    diffusers.DDPMPipeline(unet(diffusers, 16, 1), diffusers.DDPMScheduler()).save_pretrained("my-pipeline")
    unet(diffusers, 8, 2).save_pretrained("my-latent-pipeline/unet")
    diffusers.AutoencoderKL(
        in_channels=1,
        out_channels=1,
        latent_channels=2,
        block_out_channels=(8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        mid_block_add_attention=False,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
    ).save_pretrained("my-latent-pipeline/vae")
    diffusers.DDPMScheduler(prediction_type="v_prediction").save_pretrained("my-latent-pipeline/scheduler")
    index = {"_class_name": "LDMPipeline", "unet": ["diffusers", "UNet2DModel"]}
    Path("my-latent-pipeline/model_index.json").write_text(json.dumps(index))
    model = unet(diffusers, 16, 1)
    torch.save({"ema": {f"module.{k}": v for k, v in model.state_dict().items()}, "step": 3}, "unet-ema.pt")
    (tmp_path / "mine.py").write_text(
        re.search(r"^# mine\.py\n(.*?)^```", (ROOT / "docs/prior-function.md").read_text(), re.M | re.S)[1]
    )
    return tmp_path


def adm_file(path):
    """A tiny network of guided-diffusion, and photos of its size."""
    from deft.nn.adm import ADMConfig, ADMUNet
    from deft.prior import load_prior

    config = ADMConfig(
        image_size=64,
        num_channels=32,
        num_res_blocks=1,
        channel_mult=(1, 2),
        attention_resolutions=(32,),
        num_heads=2,
        learn_sigma=True,
    )
    torch.save(ADMUNet(config).state_dict(), path)
    c, h, w = load_prior(path).event_shape
    rng = np.random.default_rng(0)
    for old in Path("photos").iterdir():
        old.unlink()
    for i in range(4):
        coarse = rng.uniform(0, 255, (h // 8, w // 8, c))
        Image.fromarray(np.kron(coarse, np.ones((8, 8, 1))).astype(np.uint8)).save(f"photos/{i}.png")
    Image.fromarray(rng.uniform(0, 255, (h // 4, w // 4, c)).astype(np.uint8)).save("small.png")


def edm_file(path):
    """A pickle in EDM's layout, of a tiny network for the pictures that are there."""
    write_pickle(path, filled(song_shapes(side=16, channels=1, attention=(8,))))


def text_folder(path):
    """A small text-conditional pipeline, and photos in colour."""
    pytest.importorskip("transformers")
    import text_models
    from test_text_single import in_one_file

    save_file(in_one_file(text_models.stable_diffusion(path)), "one-file.safetensors")
    for file in [*Path("photos").iterdir(), Path("photo.png")]:
        Image.open(file).convert("RGB").save(file)


FIT = "--data photos/ --task denoise --out run " + SMALL["fit"]


def rows():
    """(file, command) of the table "your file, the command"."""
    text = (ROOT / "docs/priors.md").read_text(encoding="utf-8").partition("| you have |")[2].partition("\n\n")[0]
    found = re.findall(r"\| `(deft [^`]*)` \|", text)
    return [(re.search(r"(?:--prior|--data) (\S+)", command)[1], command) for command in found]


def genie_file(path):
    """A tiny Genie, with its configuration beside it."""
    from deft.domains.protein.genie import GenieNet
    from test_protein_genie import SMALL as tiny
    from test_protein_genie import TEXT

    torch.save({"state_dict": {f"model.{k}": v for k, v in GenieNet(tiny).state_dict().items()}}, path)
    Path("configuration").write_text(TEXT.replace("maximumNumResidues 40", "maximumNumResidues 64"))


GREY = {"channels": 1, "outputs": 1, "width": 64}
GRAPHS = {
    "model.onnx": lambda path: onnx_net(path, (1, 16, 16), **GREY),
    "model.ts": lambda path: scripted(path, (1, 16, 16), **GREY),
    "model.pt2": lambda path: program(path, shape=(1, 16, 16), **GREY),
}
"""Files of the table that are graphs."""


@pytest.mark.parametrize(("file", "command"), rows())
def test_every_row_of_the_table_of_files_runs(file, command, place, capsys, monkeypatch):
    if file in ("sd/", "one-file.safetensors"):
        text_folder(place / "sd")
    if file == "model.pth":
        from deft.domains.series.csdi_net import CSDIConfig, CSDINet

        torch.save(CSDINet(CSDIConfig(variables=3, channels=16, layers=1)).state_dict(), place / file)
        command = command.replace("…", f"--prior-option clamp=3 --task impute --out run {SMALL['fit']}")
    if file == "genie.ckpt":
        genie_file(place / file)
        command = command.replace("…", "--problem 5W0GA -n 1 --steps 20 --out scaffolds")
    if file.startswith("http:"):
        from deft.prior import load_prior
        from deft.remote.server import make_app, running

        with running(make_app(load_prior("my-pipeline"))) as url:
            command = command.replace(file, url).replace("…", FIT)
            code, out, err = run(capsys, *shlex.split(command)[1:])
        assert code == 0, f"{command}\n{out}\n{err}"
        return
    if file.endswith("uncond.pt"):
        adm_file(place / file)
    if file.endswith(".pkl"):
        edm_file(place / file)
    if file in GRAPHS:
        GRAPHS[file](place / file)
    if file == "model-10.pt":  # a trainer's file, with DataParallel, and an average under other names
        adm_file(place / "plain.pt")
        state = torch.load("plain.pt")
        average = {f"ema_model.module.{k}": v for k, v in state.items()} | {"initted": torch.tensor(True)}
        torch.save({"step": 10, "model": {f"module.{k}": 0 * v for k, v in state.items()}, "ema": average}, file)
    if file.startswith("google/"):  # no hub here: what it would have downloaded
        monkeypatch.setattr("deft.prior.diffusers._download", lambda name: place / "my-pipeline")
    command = command.replace("…", FIT) if command.startswith("deft fit") else command
    command += " --steps 2 --batch 2 --widths 8 --features none --evaluations 1" if "prior train" in command else ""
    code, out, err = run(capsys, *shlex.split(command)[1:])
    assert code == 0, f"{command}\n{out}\n{err}"


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_run(page, place, capsys):
    lines = commands(page)
    assert lines
    if page == "prior-adm":
        adm_file(place / "256x256_diffusion_uncond.pt")
    if page == "prior-exported":
        onnx_net(place / "model.onnx", (1, 16, 16), **GREY)
    if page == "prior-text":
        text_folder(place / "sd")
    if page == "prior-edm":
        edm_file(place / "edm-ffhq-64x64-uncond-vp.pkl")
    for line in lines:
        words = shlex.split(line)[1:]
        more = next((v for k, v in SMALL.items() if k in words and (k != "inspect" or "--images" in words)), "")
        code, out, err = run(capsys, *words, *shlex.split(more))
        assert code == 0, f"{page}: {line}\n{out}\n{err}"


def test_the_pipeline_of_its_page_runs(place, capsys):
    """The program that is marked `notest`, after the page's command."""
    text = (ROOT / "docs/pipeline.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"^```python notest\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    (command,) = commands("pipeline")
    assert run(capsys, *shlex.split(command)[1:], *shlex.split(SMALL["fit"]))[0] == 0
    found: dict[str, object] = {}
    exec(compile(program.replace("num_inference_steps=50", "num_inference_steps=2"), "docs/pipeline.md", "exec"), found)
    assert len(found["out"].images) == 4 and Path("filled.png").is_file() and found["low"].shape == (1, 1, 16, 16)


def test_the_table_of_conventions_is_the_table_of_the_code():
    from deft.denoiser.parametrisation import OUTPUTS, TIMES
    from deft.prior import CONVENTIONS
    from deft.schedule import SCHEDULES

    text = (ROOT / "docs/priors.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([a-z0-9-]+)` \|", text, re.MULTILINE)
    assert set(CONVENTIONS) <= set(rows)
    for name in (*OUTPUTS, *TIMES, *SCHEDULES):
        assert f"`{name}`" in text, name


def test_galaxies(monkeypatch):
    """The prior nobody here trained, where its package is installed: it denoises its own samples as a trained one
    does."""
    import importlib.util

    if importlib.util.find_spec("galaxygrad") is None:
        pytest.skip("pip install --no-deps galaxygrad==0.1.9")
    monkeypatch.syspath_prepend(str(ROOT / "examples/galaxies"))
    import galaxies

    import deft
    from deft.prior.check import confirm, warning

    prior = galaxies.hsc32()
    assert prior.parameter_count() == 605_761
    x = deft.sample(prior, 8, steps=50, spacing="log-snr")
    assert warning(prior, x) is None
    with torch.no_grad():  # the kernel the other way round, as torch stores it, is no galaxy's
        prior.net.outlet.weight.copy_(prior.net.outlet.weight.flip(2, 3))
    assert confirm(prior, x).worst > 10


def test_the_commands_of_the_page_of_the_covariance_run(tmp_path, monkeypatch, capsys):
    """With the bundled prior, and a copy of it that goes by another name."""
    from deft.kinds.domain import find_domain

    monkeypatch.chdir(tmp_path)
    Path("my-prior").mkdir()
    shutil.copy(find_domain("image").bundled_priors()["fashion"], "my-prior/prior.safetensors")
    save_pictures(Path("photos"), pictures(12, side=32))
    Image.fromarray(pictures(1, side=32)[0]).save("photo.png")
    mask = np.full((32, 32), 255, dtype=np.uint8)
    mask[8:18, 8:18] = 0
    Image.fromarray(mask).save("mask.png")
    Image.fromarray(pictures(1, side=8)[0]).save("small.png")
    fit = ("fit", "--prior", "fashion", "--data", "photos", *shlex.split(SMALL["fit"]))
    assert run(capsys, *fit, "--task", "inpaint", "--out", "run")[0] == 0
    assert run(capsys, *fit, "--task", "sr4", "--out", "run-sr4")[0] == 0
    for line in commands("any-linear"):
        words = shlex.split(line)[1:]
        code, out, err = run(capsys, *words, *shlex.split(SMALL.get(words[0], "")))
        assert code == 0, f"{line}\n{out}\n{err}"
