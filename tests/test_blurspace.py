"""The published blur network: its layout, strict loading, and the operator made of it."""

from __future__ import annotations

import functools
import re

import pytest
import torch
from safetensors.torch import save_file

from deft.domains.image.tasks import get_task
from deft.errors import CheckpointError, ContractError, InputError
from deft.nn.blurspace import BlurSpaceNet
from deft.operator import BlurSpace
from deft.operator.blurspace import load_blurspace
from deft.testing import check_operator

SMALL = {"channels": 3, "width": 2, "front": 1, "back": 2, "blocks": 1}


@functools.cache
def net() -> BlurSpaceNet:
    """A small one, its adapter loud enough that the code can be heard through random weights."""
    torch.manual_seed(0)
    made = BlurSpaceNet(**SMALL)
    with torch.no_grad():
        for p in made.adapter.parameters():
            p.mul_(5)
    return made


@pytest.fixture
def file(tmp_path):
    torch.save(net().state_dict(), tmp_path / "small.pth")
    return tmp_path / "small.pth"


def test_the_layout_is_the_published_one():
    """Names and shapes at the published size, and the number of parameters they add up to by hand."""
    with torch.device("meta"):
        state = BlurSpaceNet().state_dict()
    inner = "adapter.model.submodule.submodule.submodule.submodule."
    want = {
        "feature_extractor.0.weight": (64, 3, 3, 3),
        "feature_extractor.4.bias": (64,),
        "feature_extractor.15.conv2.weight": (64, 64, 3, 3),
        "kernel_extractor.model.1.weight": (64, 128, 7, 7),
        "kernel_extractor.model.16.weight": (1024, 1024, 3, 3),
        "kernel_extractor.model.22.conv_block.5.weight": (1024, 1024, 3, 3),
        "adapter.model.down.0.weight": (64, 64, 4, 4),
        "adapter.model.submodule.down.1.weight": (128, 64, 4, 4),
        inner + "down.1.weight": (512, 512, 4, 4),
        inner + "up.1.weight": (1024, 512, 4, 4),
        "adapter.model.up.1.weight": (128, 64, 4, 4),
        "adapter.model.up.1.bias": (64,),
        "recon_trunk.19.conv1.weight": (64, 64, 3, 3),
        "recon_trunk.23.weight": (256, 64, 3, 3),
        "recon_trunk.28.weight": (3, 64, 3, 3),
    }
    assert {k: tuple(state[k].shape) for k in want} == want
    assert not [k for k in state if "kernel_extractor" in k and k.endswith("bias")]
    conv = lambda i, o, k, bias=1: o * i * k * k + bias * o  # noqa: E731
    adapter = 64 + sum(
        conv(i, o, 4, 0) + conv(2 * o, i, 4, 0) for i, o in ((64, 64), (64, 128), (128, 256), (256, 512), (512, 512))
    )
    trunk = 40 * conv(64, 64, 3) + 2 * conv(64, 256, 3) + conv(64, 64, 3) + conv(64, 3, 3)
    assert sum(v.numel() for k, v in state.items() if k.startswith("adapter")) == adapter
    assert sum(v.numel() for k, v in state.items() if k.startswith("recon")) == trunk
    assert len(state) == 159 and sum(v.numel() for v in state.values()) == 115_265_475


def test_every_weight_arrives(file, tmp_path):
    found = load_blurspace(str(file))
    assert all(torch.equal(a, b) for a, b in zip(found.parameters(), net().parameters(), strict=True))
    assert not any(p.requires_grad for p in found.parameters())
    torch.save({"params": net().state_dict()}, tmp_path / "wrapped.pth")  # what defeats a lenient load
    save_file(net().state_dict(), tmp_path / "small.safetensors")
    torch.save({"module." + k: v for k, v in net().state_dict().items()}, tmp_path / "parallel.pth")
    x = torch.rand(1, 3, 128, 128) * 2 - 1
    want = BlurSpace(net())(x)
    for name in ("wrapped.pth", "small.safetensors", "parallel.pth"):
        torch.testing.assert_close(BlurSpace.load(tmp_path / name)(x), want)


def _without(state, name):
    return {k: v for k, v in state.items() if k != name}


BROKEN = {
    "missing": (lambda s: _without(s, "adapter.model.down.0.weight"), "adapter.model.down.0.weight is missing"),
    "too many": (lambda s: s | {"more": torch.zeros(1)}, "more is not one of its weights"),
    "another shape": (
        lambda s: s | {"recon_trunk.0.conv1.bias": torch.zeros(7)},
        "recon_trunk.0.conv1.bias is (7,), expected (2,)",
    ),
    "another network": (lambda s: {"w": torch.zeros(2)}, "feature_extractor.0.weight is missing"),
    "no tensors": (lambda s: {"a": 1}, "no state dict"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_strict_load(name, tmp_path):
    change, words = BROKEN[name]
    torch.save(change(net().state_dict()), tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=re.escape(words)):
        load_blurspace(str(tmp_path / "x.pth"))


def test_files_that_are_none(tmp_path, file):
    with pytest.raises(CheckpointError, match="no such file"):
        load_blurspace(str(tmp_path / "none.pth"))
    (tmp_path / "cut.pth").write_bytes(file.read_bytes()[:2000])
    (tmp_path / "cut.safetensors").write_bytes(b"123")
    torch.save({"x": print}, tmp_path / "code.pth")
    for name in ("cut.pth", "cut.safetensors", "code.pth"):
        with pytest.raises(CheckpointError) as error:
            load_blurspace(str(tmp_path / name))
        assert "\n" not in str(error.value)


def test_operator():
    op = BlurSpace(net().double())
    try:
        check_operator(op, (3, 128, 128), batch=2)
    finally:
        net().float()


def test_the_blur_is_frozen_and_named_by_its_seed():
    x = torch.rand(2, 3, 128, 256) * 1.6 - 0.8
    a, b = BlurSpace(net(), seed=1), BlurSpace(net(), seed=2)
    assert torch.equal(a(x), a(x)) and float((a(x) - b(x)).abs().max()) > 1e-3
    torch.testing.assert_close(a(x)[1:], a(x[1:]))
    assert a.features(a(x)).shape == (2, 6, 128, 256)
    z = torch.rand(1, 3, 256, 256) * 2 - 1
    mean, log_variance = net().encode((z + 1) / 2, (a(z) + 1) / 2)  # the code of a real blur
    assert mean.shape == log_variance.shape == (1, 16, 2, 2)
    assert BlurSpace(net(), code=mean)(z).shape == z.shape


def test_what_does_not_fit():
    op = BlurSpace(net())
    for shape in ((1, 1, 128, 128), (1, 3, 64, 128), (3, 128, 128)):
        with pytest.raises(ContractError, match=r"multiples of 128|4 axes"):
            op(torch.zeros(shape))
    with pytest.raises(ContractError, match="the code is"):
        BlurSpace(net(), code=torch.zeros(1, 16, 2, 2))(torch.zeros(1, 3, 128, 128))


def test_task(file):
    task = get_task("deblur-nonlinear", weights=str(file))
    obs = task.check((3, 128, 128))
    assert isinstance(obs.likelihood.operator, BlurSpace) and task.config()["weights"] == str(file)
    assert "weights" not in get_task("deblur-nonlinear").config()
    with pytest.raises(InputError, match="multiples of 128"):
        task.check((1, 32, 32))
