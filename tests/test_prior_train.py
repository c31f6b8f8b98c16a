"""Training a prior: flips, compiled blocks, beginning with another prior's weights, half precision."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from deft import FitConfig, VPCosine, fit
from deft.cli.prior import round_to_half, start_weights
from deft.core.random import RowNoise
from deft.domains.image.prior import ImagePrior
from deft.errors import InputError
from deft.io.files import load_weights
from deft.likelihood import Gaussian, Observation
from deft.nn import UNet
from deft.operator import Identity
from deft.prior import load_prior
from deft.runtime.messages import show
from deft.train.augment import Flipped, symmetry
from deft.train.compiled import compiled
from deft.train.data import Clean
from deft.train.denoising import PriorObjective
from deft.train.protocols import Batch, Batches
from toys import pictures, refused, result, run, toy_prior

CPU = torch.device("cpu")


def tiny(seed=0, side=8):
    torch.manual_seed(seed)
    net = UNet(1, 1, (8, 16), patch=2)
    for p in net.parameters():
        if not p.detach().any():
            torch.nn.init.normal_(p, std=0.05)
    return ImagePrior(net, VPCosine(), (1, side, side))


def test_the_eight_codes_are_the_symmetries_of_a_square():
    x = torch.randn(1, 2, 5, 5)
    found = [symmetry(x, torch.tensor([code])) for code in range(8)]
    turns = [torch.rot90(x, k, (-2, -1)) for k in range(4)]
    expected = turns + [z.flip(-1) for z in turns]
    where = [[i for i, z in enumerate(expected) if torch.equal(z, y)] for y in found]
    assert sorted(where) == [[i] for i in range(8)]
    assert torch.equal(found[0], x)


def test_each_image_has_its_own_code():
    x = torch.randn(3, 1, 4, 4)
    codes = torch.tensor([0, 6, 3])
    assert torch.equal(symmetry(x, codes), torch.cat([symmetry(x[i : i + 1], codes[i : i + 1]) for i in range(3)]))


def test_flips_are_a_function_of_seed_and_step():
    x = torch.randn(6, 1, 4, 4)
    draw = lambda seed, step, **k: Flipped(Clean(x)).draw(64, seed, step, CPU, **k).x  # noqa: E731
    assert torch.equal(draw(0, 3), draw(0, 3))
    assert torch.equal(draw(0, 3)[20:40], draw(0, 3, rows=range(20, 40)))
    rows = draw(0, 3, source=RowNoise)
    assert torch.equal(rows[20:40], draw(0, 3, rows=range(20, 40), source=RowNoise))
    same = Clean(x).draw(64, 0, 3, CPU).x  # the same rows, as they are
    codes = [
        [c for c in range(8) if torch.equal(symmetry(a[None], torch.tensor([c]))[0], b)]
        for a, b in zip(same, draw(0, 3), strict=True)
    ]
    assert all(len(c) == 1 for c in codes)
    assert {c[0] for c in codes} == set(range(8))  # 64 rows miss a code with a chance of 0.0016
    again = [
        [c for c in range(8) if torch.equal(symmetry(a[None], torch.tensor([c]))[0], b)]
        for a, b in zip(Clean(x).draw(64, 0, 4, CPU).x, draw(0, 4), strict=True)
    ]
    assert again != codes


def test_held_out_looks_are_not_flipped():
    x = torch.randn(6, 1, 4, 4)
    assert torch.equal(Flipped(Clean(x)).draw(6, 0, -1, CPU).x, x)


def test_rectangles_have_four():
    x = torch.randn(2, 1, 4, 6)
    moved = Flipped(Clean(x)).draw(64, 0, 0, CPU).x
    assert moved.shape == (64, 1, 4, 6)
    same = Clean(x).draw(64, 0, 0, CPU).x
    codes = {
        c
        for a, b in zip(same, moved, strict=True)
        for c in range(4)
        if torch.equal(symmetry(a[None], torch.tensor([c]))[0], b)
    }
    assert codes == {0, 1, 2, 3}
    with pytest.raises(InputError, match="four flips"):
        symmetry(x, torch.tensor([1, 4]))
    with pytest.raises(InputError, match="one code for each"):
        symmetry(x, torch.tensor([1]))


class Measured(Batches):
    def draw(self, size, seed, step, device, **options):
        x = torch.randn(size, 1, 4, 4)
        return Batch(x, Observation(x, Gaussian(Identity(), 0.1)))


def test_flips_of_measured_images_are_refused():
    with pytest.raises(InputError, match="unflipped"):
        Flipped(Measured()).draw(4, 0, 0, CPU)
    with pytest.raises(InputError, match="shape"):
        Flipped(Clean(torch.randn(4, 3))).draw(4, 0, 0, CPU)


CONFIG = FitConfig(steps=4, batch=6, lr=1e-3, warmup=1, evaluations=2)


def test_compiled_blocks_train_the_same_weights_under_the_same_names():
    """backend "eager" runs the traced graph as it is: the weights after a fit are those without compilation."""
    x = torch.randn(20, 1, 8, 8)
    plain, lines = tiny(), []
    with show(lines.append):
        fast = compiled(tiny(), PriorObjective(), Clean(x), config=CONFIG, device="cpu", backend="eager")
    assert list(fast.state_dict()) == list(plain.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(fast.state_dict().values(), plain.state_dict().values(), strict=True))
    blocks = [m for m in fast.modules() if m._compiled_call_impl is not None]
    assert {type(b).__name__ for b in blocks} == {"Block"} and len(blocks) == 5
    assert len(lines) == 1 and lines[0].startswith("compiled in")
    assert all(p.grad is None for p in fast.parameters())
    results = [
        fit(m, PriorObjective(), Clean(x), Clean(x[:6]), config=CONFIG, device="cpu", progress=False)
        for m in (plain, fast)
    ]
    for (name, a), (other, b) in zip(plain.state_dict().items(), fast.state_dict().items(), strict=True):
        assert name == other
        torch.testing.assert_close(a, b, atol=2e-6, rtol=1e-5)
    assert results[0].held_out == pytest.approx(results[1].held_out, rel=1e-5)


def test_a_width_is_compiled_once():
    """Five blocks of two widths, in training and in evaluation: four graphs; the fit that follows needs no others."""
    graphs = []

    def counting(graph, inputs):
        graphs.append(graph)
        return graph

    x = torch.randn(20, 1, 8, 8)
    torch._dynamo.reset()
    made = compiled(tiny(), PriorObjective(), Clean(x), config=CONFIG, device="cpu", backend=counting)
    assert len(graphs) == 4
    fit(made, PriorObjective(), Clean(x), Clean(x[:6]), config=CONFIG, device="cpu", progress=False)
    assert len(graphs) == 4


def test_without_a_compiler_the_prior_itself_is_trained():
    def broken(graph, inputs):
        raise RuntimeError("no compiler here")

    prior, lines = tiny(), []
    with show(lines.append):
        found = compiled(
            prior, PriorObjective(), Clean(torch.randn(9, 1, 8, 8)), config=CONFIG, device="cpu", backend=broken
        )
    assert found is prior and not any(m._compiled_call_impl for m in found.modules())
    assert len(lines) == 1 and "failed" in lines[0] and "no compiler here" in lines[0] and "without it" in lines[0]


def test_start_weights_are_copied_or_refused(tmp_path):
    first = tiny(0)
    first.save(tmp_path / "first.safetensors")
    second = tiny(1)
    start_weights(second, str(tmp_path / "first.safetensors"))
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )
    assert all(p.requires_grad for p in second.parameters())
    other = ImagePrior(UNet(1, 1, (8, 24)), VPCosine(), (1, 8, 8))
    with pytest.raises(InputError, match=r"widths \[8, 16\] there, \[8, 24\] here"):
        start_weights(other, str(tmp_path / "first.safetensors"))
    with pytest.raises(InputError, match="images"):
        start_weights(tiny(side=16), str(tmp_path / "first.safetensors"))
    eps = ImagePrior(UNet(1, 1, (8, 16)), VPCosine(), (1, 8, 8), "eps")
    with pytest.raises(InputError, match="output v there, eps here"):
        start_weights(eps, str(tmp_path / "first.safetensors"))


def test_half_precision_that_does_not_fit_is_refused():
    prior = tiny()
    with torch.no_grad():
        prior.net.outlet.weight[0, 0, 0, 0] = 1e6
    with pytest.raises(InputError, match="too large for half precision"):
        round_to_half(prior)


@pytest.fixture
def photos(tmp_path):
    np.savez(tmp_path / "photos.npz", x=pictures(24))
    return tmp_path / "photos.npz"


def line(photos, out, *more):
    return (
        "prior",
        "train",
        "--data",
        photos,
        "--out",
        out,
        "--widths",
        "24,32",
        "--patch",
        4,
        "--batch",
        4,
        "--warmup",
        1,
        "--evaluations",
        1,
        *more,
    )


def test_half_is_what_is_measured_and_what_is_loaded(photos, tmp_path, capsys):
    card = result(capsys, *line(photos, tmp_path / "half", "--steps", 3, "--half", "--flip"))["card"]
    tensors, _ = load_weights(tmp_path / "half" / "prior.safetensors")
    assert {t.dtype for t in tensors.values()} == {torch.float16}
    prior = load_prior(tmp_path / "half")
    assert {p.dtype for p in prior.parameters()} == {torch.float32}
    assert prior.fingerprint() == card["sha256"] and card["precision"] == "float16" and card["recipe"]["flip"] is True
    assert 0 < card["rounding"] < 1e-3
    whole = result(capsys, *line(photos, tmp_path / "whole", "--steps", 3, "--flip"))["card"]
    assert "rounding" not in whole and load_prior(tmp_path / "whole").fingerprint() == whole["sha256"] != card["sha256"]
    sizes = [(tmp_path / k / "prior.safetensors").stat().st_size for k in ("half", "whole")]
    assert sizes[0] < 0.6 * sizes[1]


def test_flips_resume_bit_for_bit(photos, tmp_path, capsys):
    """A training stopped after its third step (by its time) goes on as an unbroken one."""
    from deft.train.fit import fit as fit_function

    x = torch.as_tensor(pictures(24))[:, None].float() / 127.5 - 1
    config = FitConfig(steps=6, batch=4, warmup=1, saves=6)

    class Stops(PriorObjective):
        left = 3

        def __call__(self, module, batch, noise):
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
            return super().__call__(module, batch, noise)

    def one(objective, folder, resume=False):
        torch.manual_seed(0)
        module = ImagePrior(UNet(1, 1, (8, 16), patch=4), VPCosine(), (1, 16, 16))
        return fit_function(
            module,
            objective,
            Flipped(Clean(x)),
            config=config,
            folder=folder,
            resume=resume,
            device="cpu",
            progress=False,
        ).module

    whole = one(PriorObjective(), tmp_path / "a")
    with pytest.raises(KeyboardInterrupt):
        one(Stops(), tmp_path / "b")
    resumed = one(PriorObjective(), tmp_path / "b", resume=True)
    assert all(
        torch.equal(p, q) for p, q in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True)
    )


def test_start_from_on_the_command_line(photos, tmp_path, capsys):
    """With a learning rate of nearly 0 what comes out is what went in."""
    start = toy_prior(tmp_path / "start.safetensors")
    card = result(capsys, *line(photos, tmp_path / "next", "--steps", 1, "--lr", 1e-12, "--start-from", start))["card"]
    assert card["recipe"]["start_from"] == str(start)
    mine, theirs = load_prior(tmp_path / "next"), load_prior(start)
    assert all(
        torch.allclose(a, b, atol=1e-9, rtol=0)
        for a, b in zip(mine.state_dict().values(), theirs.state_dict().values(), strict=True)
    )
    assert "another kind" in refused(
        capsys, *line(photos, tmp_path / "other", "--steps", 1, "--output", "eps", "--start-from", start)
    )
    assert not (tmp_path / "other").exists()


def test_compile_on_the_command_line(photos, tmp_path, capsys, monkeypatch):
    from deft.train import compiled as module

    monkeypatch.setattr(
        module.Block, "compile", lambda self, **options: (_ for _ in ()).throw(RuntimeError("none installed"))
    )
    code, out, err = run(capsys, *line(photos, tmp_path / "out", "--steps", 1, "--compile"))
    assert code == 0 and "note: torch.compile failed (RuntimeError: none installed)" in out + err
    assert len(json.loads((tmp_path / "out" / "log.json").read_text())["history"]) == 1


def test_flip_changes_the_weights_that_come_out(photos, tmp_path, capsys):
    """On the command line: one step with and without flips differs, by the pictures alone."""
    sums = [
        result(capsys, *line(photos, tmp_path / f"out{i}", "--steps", 1, *more))["card"]["sha256"]
        for i, more in enumerate([(), ("--flip",), ("--flip",)])
    ]
    assert sums[0] != sums[1] == sums[2]
