"""A fitted h as a graph: the numbers of PyTorch at every noise level and number of rows, what is said beside it, the
page's sampler in NumPy with deft's own samples, and one line for what cannot be written."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import deft
from deft.domains.image.prior import ImagePrior
from deft.errors import ContractError, InputError
from deft.io.tasks import get_task
from deft.kinds.domain import find_domain
from deft.nn import UNet
from deft.prior import load_prior, wrap
from deft.recipe.fitted import FittedH
from deft.workflow import exporting
from graph_nets import onnx_net
from toys import pictures, refused, run, save_pictures

pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

PAGE = Path(__file__).parents[1] / "docs/export.md"
SHAPE = (1, 16, 16)


class Tiny(nn.Module):
    """A network of two convolutions that sees a time."""

    def __init__(self, inputs: int, outputs: int, width: int = 8):
        super().__init__()
        self.a, self.e = nn.Conv2d(inputs, width, 3, padding=1), nn.Linear(1, width)
        self.b = nn.Conv2d(width, outputs, 3, padding=1)

    def forward(self, x, t):
        return self.b(torch.tanh(self.a(x) + self.e(t[:, None])[:, :, None, None]))


def tiny_prior(convention="cosine", channels=1):
    torch.manual_seed(0)
    return wrap(Tiny(channels, channels), (channels, 16, 16), convention)


def fitted(task: str, prior=None, **options) -> FittedH:
    """An h of random weights, as large as they are after a fit."""
    prior, made = prior or tiny_prior(), get_task(task)
    torch.manual_seed(1)
    h = deft.DEFT(prior.event_shape, made.feature_channels, 8, net=Tiny, **options)
    return FittedH(h.eval().requires_grad_(False), prior, made)


def session(path):
    return runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def test_a_conditioned_prior_in_onnx(tmp_path):
    """Gaussian deblurring: on levels and numbers of rows that were not compared when it was written."""
    f = fitted("deblur-gaussian")
    about = deft.export(f, tmp_path / "g.onnx", with_prior=True, steps=7)
    assert about == json.loads((tmp_path / "g.json").read_text()) and about["largest_difference"] < 2e-5
    assert list(about["inputs"]) == ["x_t", "t", "alpha", "sigma", "y"] and len(about["levels"]) == 8
    assert about["task"] == f.task.config() and about["prior"]["sha256"] == f.prior.fingerprint()
    assert about["schedule"]["name"] == "vp-cosine" and about["levels"][-1]["sigma"] == 0
    graph = session(tmp_path / "g.onnx")
    for rows, level in ((1, about["levels"][0]), (3, about["levels"][5]), (9, about["levels"][3])):
        x = torch.randn(rows, *SHAPE)
        obs = f.task.observe(x.clamp(-1, 1), deft.Noise(rows, rows))
        inputs = {"x_t": x, **{k: torch.full((rows,), v) for k, v in level.items()}, "y": obs.y}
        got = graph.run(["denoised"], {k: v.numpy() for k, v in inputs.items()})[0]
        want = deft.condition(f.prior, f.h, obs)(x, torch.tensor(level["t"], dtype=torch.float64)).mean
        assert np.abs(got - want.numpy()).max() < 1e-4 * max(1, float(want.abs().max()))


def test_h_alone_in_onnx(tmp_path):
    """Super-resolution, with the mean of a prior that is asked elsewhere: one that has no network here, say."""
    graph = onnx_net(tmp_path / "prior.onnx", SHAPE, channels=1, outputs=1)
    prior = load_prior(graph, convention="ddpm", output="v")
    f = fitted("sr4", prior)
    about = deft.export(f, tmp_path / "h.onnx")
    assert list(about["inputs"]) == ["x_t", "x_hat", "alpha", "sigma", "y"] and not about["prior"]["in_the_graph"]
    x, level = torch.randn(3, *SHAPE), about["levels"][20]
    obs = f.task.observe(x.clamp(-1, 1), deft.Noise(0, 3))
    t = torch.tensor(level["t"], dtype=torch.float64)
    inputs = {"x_t": x, "x_hat": prior(x, t).mean, "y": obs.y}
    inputs |= {k: torch.full((3,), level[k]) for k in ("alpha", "sigma")}
    got = session(tmp_path / "h.onnx").run(["denoised"], {k: v.numpy() for k, v in inputs.items()})[0]
    want = deft.condition(prior, f.h, obs)(x, t).mean
    assert np.abs(got - want.numpy()).max() < 1e-4 * max(1, float(want.abs().max()))
    with pytest.raises(
        InputError, match=r"network of this prior \(ONNX\) cannot be written as a graph: export h alone"
    ):
        deft.export(f, tmp_path / "both.onnx", with_prior=True)


@pytest.mark.parametrize(
    ("task", "convention", "options"),
    [
        ("inpaint-freeform", "ddpm", {}),
        ("sr4-bicubic", "score-sde-ve", {"units": "eps", "guide": "score"}),
        pytest.param("colourise", "edm", {"gate": False}, marks=pytest.mark.slow),
        pytest.param("deblur-motion", "rectified-flow", {}, marks=pytest.mark.slow),
        pytest.param("hdr", "vp", {"normalise": False}, marks=pytest.mark.slow),
        pytest.param("jpeg", "deft", {}, marks=pytest.mark.slow),
        pytest.param("ct", "cosine", {}, marks=pytest.mark.slow),
        pytest.param("deblur-nonlinear", "cosine", {}, marks=pytest.mark.slow),
    ],
)
def test_tasks_schedules_and_forms_of_h(task, convention, options, tmp_path):
    """In torch.export's own format, which is compared alike: every kind of operator, schedule, time and form of h."""
    f = fitted(task, tiny_prior(convention, 3 if task == "colourise" else 1), **options)
    about = deft.export(f, tmp_path / "g.pt2", with_prior=True)
    assert about["largest_difference"] < 1e-4 and about["compared_at"]["rows"] == [1, 2, 5]
    assert (about["inputs"].keys() >= {f.task.drawn}) == bool(f.task.drawn) or not f.task.drawn


NOT_WRITTEN = {"mri-coils": "CoilFourier", "compressed": "Compressed", "mri": "MaskedFourier"}


SLOW = {"mri-coils"}


@pytest.mark.parametrize("task", [pytest.param(t, marks=[pytest.mark.slow] * (t in SLOW)) for t in NOT_WRITTEN])
def test_operators_that_cannot_be_written_are_named(task, tmp_path):
    with pytest.raises(InputError, match=rf"^the operator {NOT_WRITTEN[task]} of the task {task} cannot be written"):
        deft.export(fitted(task), tmp_path / "g.pt2")
    assert not list(tmp_path.iterdir())


def test_a_graph_that_differs_is_not_written(tmp_path, monkeypatch):
    """One weight is changed between the comparison and the graph."""
    f = fitted("sr4")
    other = copy.deepcopy(f.h)
    with torch.no_grad():
        other.n1.b.bias += 1e-3
    wrong = exporting.build(exporting.conditioned(FittedH(other, f.prior, f.task), False), "pt2")
    monkeypatch.setattr(exporting, "build", lambda made, kind: wrong)
    with pytest.raises(ContractError, match=r"differs from PyTorch by .* at most 0\.0001 is let pass: not written"):
        deft.export(f, tmp_path / "g.pt2")
    assert not list(tmp_path.glob("g.*"))


def test_what_is_wrong_is_one_line(tmp_path):
    f = fitted("sr4")
    for path, word in (("g.txt", "NAME.onnx or NAME.pt2"), ("g", "NAME.onnx or NAME.pt2")):
        with pytest.raises(InputError, match=word):
            deft.export(f, tmp_path / path)
    with pytest.raises(InputError, match="unknown format"):
        deft.export(f, tmp_path / "g.onnx", format="tflite")
    with pytest.raises(InputError, match="format pt2"):
        deft.export(f, tmp_path / "g.onnx", format="pt2")
    (tmp_path / "g.json").write_text("mine")
    with pytest.raises(InputError, match=r"g\.json is there already"):
        deft.export(f, tmp_path / "g.pt2")
    with pytest.raises(InputError, match="one measurement or to a reward"):
        deft.export(FittedH(f.h, f.prior, f.task, card={"measurement": {}}), tmp_path / "h.pt2")
    assert (tmp_path / "g.json").read_text() == "mine" and not (tmp_path / "g.pt2").exists()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with `run`, fitted to the task inpaint, and what the page's commands write."""
    return tmp_path_factory.mktemp("page")


def commands():
    blocks = re.findall(r"^```bash\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    return [line.split()[1:] for block in blocks for line in block.splitlines()]


def test_the_page(place, capsys, monkeypatch):
    """Its commands, its sampler, and deft's own samples with the same noise; the prior that it writes is the prior."""
    monkeypatch.chdir(place)

    def one_level(self, event_shape, inputs, outputs, width):  # quicker to trace than three
        return UNet(inputs, outputs, (width,), patch=4, time_dim=16)

    monkeypatch.setattr(type(find_domain("image")), "network", one_level)
    torch.manual_seed(0)
    ImagePrior(UNet(1, 1, (16,), patch=4), deft.VPCosine(), SHAPE).save("toy.safetensors", name="toy")
    save_pictures(Path("photos"), pictures(8))
    fit = ["--task", "inpaint", "--steps", "2", "--batch", "2", "--bank", "0", "--width", "8", "--interval-images", "0"]
    assert run(capsys, "fit", "--prior", "toy.safetensors", "--data", "photos", *fit, "--out", "run")[0] == 0
    assert run(capsys, "measure", "--task", "inpaint", "--data", "photos", "--images", 1, "--out", "y.npz")[0] == 0
    for words in commands():
        words = ["toy.safetensors" if w == "fashion" else w for w in words]
        code, out, err = run(capsys, *words)
        assert code == 0, (words, out, err)
        if words[0] == "export":
            assert "the largest difference is" in out and float(out.split("difference is ")[1].split()[0]) < 1e-4
    own, graph = load_prior("toy.safetensors"), load_prior("fashion.onnx")
    x, t = torch.randn(3, *SHAPE), torch.tensor([0.1, 0.5, 0.9])
    assert torch.allclose(graph(x, t).mean, own(x, t).mean, atol=1e-5)
    assert graph.convention()["time"] == "log-sigma" and 0.99 < graph.parameter_count() / own.parameter_count() <= 1

    block = re.search(r"^```python notest\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)[1]
    said: dict = {}
    exec(compile(block, str(PAGE), "exec"), said)
    assert said["x"].shape == (4, *SHAPE) and np.isfinite(said["x"]).all()
    assert len([line for line in block.splitlines() if line.strip()]) <= 32
    for eta in (1.0, 0.0):
        noise = deft.Noise(5, 4)
        draw = lambda n=noise: n.normal(SHAPE).numpy()  # noqa: E731
        found = said["ddim"](said["session"], said["about"], draw, eta, **said["given"])
        f = deft.load("run")
        obs = f.observe("y.npz").repeat(4)
        steps = len(said["about"]["levels"]) - 1
        want = deft.sample(
            deft.condition(f.prior, f.h, obs), deft.Noise(5, 4), sampler=deft.DDIM(eta), steps=steps,
            spacing=said["about"]["spacing"],
        )  # fmt: skip
        assert np.abs(found - want.numpy()).max() < 1e-3
    assert "is there already" in refused(capsys, "export", "run", "--out", "conditioned.onnx")
    assert "no such run" in refused(capsys, "export", "nothing", "--out", "c.onnx")
    assert "NAME.onnx" in refused(capsys, "export", "run", "--out", "folder")
