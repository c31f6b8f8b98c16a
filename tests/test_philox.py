"""Random numbers of samples: Philox's own words, the same on every way, and what their distribution is."""

from __future__ import annotations

import importlib.util
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

import deft
from deft.core.random import BatchNoise, Noise, RowNoise, generator, seed_for
from deft.likelihood.task import measuring
from deft.philox import Streams, by_torch, layout, streams
from deft.philox.by_numpy import Generators

CUDA = pytest.mark.gpu
PINNED = [0.32521093, -0.82761467]
"""The first numbers of a measurement with seed 0, of sample 0, as version 0.1.0 drew them."""
SIZES = (1, 7, 8, 9, 16, 17, 32, 33, 100, 1001)


def numpy_words(key, blocks, *, start=0):
    return np.random.Philox(key=np.array(key, np.uint64), counter=start).random_raw(4 * blocks)


def as_int64(keys):
    return torch.from_numpy(np.array(keys, np.uint64).view(np.int64))


# The words

KNOWN = (  # kat_vectors of Random123: counter, key, words of philox4x64 in 10 rounds
    ([0] * 4, [0] * 2, "16554d9eca36314c db20fe9d672d0fdc d7e772cee186176b 7e68b68aec7ba23b"),
    ([2**64 - 1] * 4, [2**64 - 1] * 2, "87b092c3013fe90b 438c3c67be8d0224 9cc7d7c69cd777b6 a09caebf594f0ba0"),
    (
        [0x243F6A8885A308D3, 0x13198A2E03707344, 0xA4093822299F31D0, 0x082EFA98EC4E6C89],
        [0x452821E638D01377, 0xBE5466CF34E90C6C],
        "a528f45403e61d95 38c72dbd566e9788 a5a1610e72fd18b5 57bd43b5e52b7fe6",
    ),
)


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN, ids=("zeros", "ones", "pi"))
def test_known_answers_of_random123(counter, key, words):
    found = by_torch.philox(tuple(as_int64(counter)), tuple(as_int64(key)))
    assert " ".join(f"{int(word) % 2**64:016x}" for word in found) == words


def test_words_are_those_of_numpy():
    keys = [(0, 0), (5, 2**63 + 7), (2**64 - 1, 3)]
    found = by_torch.words(as_int64(keys), 11, 5)
    for key, row in zip(keys, found, strict=True):
        assert row.tolist() == numpy_words(key, 5, start=11).view(np.uint32).tolist()


@pytest.mark.parametrize("n", SIZES)
def test_the_formula(n):
    """uniform and normal numbers of NumPy's words in float64, as the module's text has them."""
    noise, blocks, units = Noise(3, [5]), math.ceil(n / 8), math.ceil(n / 32)
    words = numpy_words((3, 5), blocks + 3 * units).view(np.uint32)
    first, words = np.split(words, [8 * blocks])
    assert noise.uniform((n,)).double().numpy()[0] == pytest.approx((first[:n] >> 8) / 2**24, abs=0)
    u = (words[: 16 * units].astype(float) + 0.5) / 2**32
    r, a = np.sqrt(-2 * np.log(u)), 2 * np.pi * (words[16 * units :].view(np.int16) + u) / 2**16
    expected = np.concatenate((r * np.cos(a), r * np.sin(a)))[:n]
    # u has 24 bits below 1, and a as many of pi
    assert noise.normal((n,)).double().numpy()[0] == pytest.approx(expected, abs=1e-5)


def ways(keys, block, n, monkeypatch, piece):
    for module in (layout, by_torch):
        monkeypatch.setattr(module, "PIECE", piece)
    monkeypatch.setattr("deft.philox.by_numpy.PIECE", piece)
    own = np.array(keys, np.uint64)
    generators = Generators(own)
    fast = [torch.from_numpy(getattr(generators.at(block), kind)(n)) for kind in ("uniform", "normal")]
    return fast, [f(as_int64(keys), block, n) for f in (by_torch.uniform, by_torch.normal)]


@pytest.mark.parametrize("piece", [3, 2048])
def test_two_ways_are_the_same(monkeypatch, piece):
    """NumPy's generators and operations of torch: uniforms bit for bit, normals to rounding, in rows of any length."""
    for n in (*SIZES, *([140_001] if piece == 2048 else [])):
        fast, other = ways([(0, 0), (9, 1)], 6, n, monkeypatch, piece)
        assert torch.equal(fast[0], other[0])
        torch.testing.assert_close(fast[1], other[1], rtol=0, atol=2e-6)


@pytest.mark.parametrize("piece", [3, 2048])
def test_the_kernel_on_the_cpu(monkeypatch, piece):
    """Triton's interpreter runs the kernel's own lines; in another process, for it is asked for when kernels are
    made."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("needs Triton: pip install triton")
    script = f"""
import contextlib, numpy as np, torch
from deft.philox import by_torch, layout
layout.PIECE = by_torch.PIECE = {piece}
from deft.philox import by_triton
torch.cuda.device_of = lambda keys: contextlib.nullcontext()
keys = torch.tensor([[0, 0], [9, -1]])
for n in {(*SIZES, 5001)}:
    assert torch.equal(by_triton.uniform(keys, 6, n), by_torch.uniform(keys, 6, n)), n
    torch.testing.assert_close(by_triton.normal(keys, 6, n), by_torch.normal(keys, 6, n), rtol=0, atol=2e-6)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


# Streams


@pytest.mark.parametrize("shape", [(), (5,), (3, 7, 9), (2, 70_000)], ids=str)
@pytest.mark.parametrize("kind", ["normal", "uniform"])
def test_a_row_is_the_same_alone_in_any_batch_and_order(kind, shape):
    def draws(indices):
        noise = Noise(4, indices)
        return [getattr(noise, kind)(shape) for _ in range(2)]

    for whole, alone, turned in zip(draws(6), draws([4]), draws([5, 4, 1]), strict=True):
        assert whole.shape == (6, *shape) and whole.dtype == torch.float32
        assert torch.equal(whole[4:5], alone) and torch.equal(whole[[5, 4, 1]], turned)


def test_draws_of_a_stream_do_not_overlap():
    """Whatever the shapes, each draw has blocks of its own: the uniforms that follow come from the block after."""
    noise, block = Noise(1, [2]), 0
    for n in (1, 3, 8, 15, 16, 17, 1000, 33_000, 70_001):
        noise.normal((n,))
        block += 3 * math.ceil(n / 32)
        expected = numpy_words((1, 2), 1, start=block).view(np.uint32)[:3] >> 8
        assert (noise.uniform((3,))[0].double() * 2**24).long().tolist() == expected.tolist()
        block += 1


def test_nothing_is_drawn_for_no_rows_or_no_numbers():
    assert Noise(0, 0).normal((3, 2)).shape == (0, 3, 2) and Noise(0, 0).uniform((3,)).shape == (0, 3)
    noise = Noise(0, 2)
    assert noise.normal((0, 4)).shape == (2, 0, 4) and noise.uniform((0,)).shape == (2, 0)
    assert torch.equal(noise.normal((4,)), Noise(0, 2).normal((4,)))


def test_keys_of_any_whole_number():
    """Negative seeds and large ones are read modulo 2^64, and uses of a seed have keys of their own."""
    assert torch.equal(Streams([(-1, 0)]).normal((4,), "cpu"), Streams([(2**64 - 1, 0)]).normal((4,), "cpu"))
    found = [Noise(seed_for(use, 3), 1).normal((4,)) for use in ("measurements", "samples", "probing")]
    assert len({tuple(row[0].tolist()) for row in found}) == 3


# Distribution; standard errors of n numbers are 1/sqrt(n) and the like

N = 1_000_000


@pytest.fixture(scope="module")
def numbers():
    return Noise(11, 4).normal((N // 4,)).double()


def test_moments(numbers):
    z = numbers.flatten()
    for power, mean, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96), (6, 15, 10395 - 225)):
        assert abs(float((z**power).mean()) - mean) < 4 * math.sqrt(variance / N)


def test_tails(numbers):
    """How many are beyond c, both signs alike."""
    for c in (0.5, 2.0, 3.0, 4.0, 4.5):
        p = math.erfc(c / math.sqrt(2)) / 2
        for sign in (1, -1):
            count = int((sign * numbers > c).sum())
            assert abs(count - N * p) < 4 * math.sqrt(N * p) + 1


def test_the_distribution_function(numbers):
    """Kolmogorov and Smirnov: sqrt(n) D is below 1.95 in 999 of 1000 cases."""
    z = numbers.flatten().sort().values
    distance = (torch.special.ndtr(z) - (torch.arange(N) + 0.5) / N).abs().max()
    assert float(distance) * math.sqrt(N) < 1.95


def test_the_smallest_word_is_finite():
    """w = 0 gives the longest r, and w = 2^32 - 1 gives 0; both on both ways."""
    w = torch.tensor([0, 2**32 - 1])
    r = w.float().mul_(layout.RADIUS).add_(layout.RADIUS / 2).log_().mul_(-2.0).sqrt_()
    assert r.tolist() == pytest.approx([math.sqrt(66 * math.log(2)), 0.0], rel=1e-6)
    assert float(r[0]) < 6.77


def test_uniforms():
    """In [0, 1), chi-square over 256 bins (mean 255, deviation 22.6), and never 1 though all bits are set."""
    u = Noise(2, 4).uniform((N // 4,))
    assert 0 <= float(u.min()) < 1e-5 and 1 - 1e-5 < float(u.max()) < 1
    counts = torch.histc(u, 256, 0, 1).double()
    assert abs(float(((counts - N / 256) ** 2 / (N / 256)).sum()) - 255) < 4 * 22.6
    assert float(torch.tensor(2**32 - 1 >> 8).float() * layout.UNIFORM) < 1


def test_neighbours_are_independent():
    """Indices, seeds, uses of a seed, draws of a stream, and both numbers of a pair: correlations of z and of z^2."""
    n = 200_000
    noise = Noise(0, 2)
    one, more = noise.normal((n,)).double(), noise.normal((n,)).double()
    others = {
        "index": one[1],
        "seed": Noise(1, 1).normal((n,))[0].double(),
        "use": Noise(seed_for("samples", 0), 1).normal((n,))[0].double(),
        "measurement": Noise(0, 1).for_measurements.normal((n,))[0].double(),
        "next draw": more[0],
        "next number": one[0].roll(1),
        "pair": one[0].roll(n // 2),
    }
    for name, other in others.items():
        for power in (1, 2):
            pair = torch.stack((one[0] ** power, other**power))
            assert abs(float(torch.corrcoef(pair)[0, 1])) < 4 / math.sqrt(n), name


# Measurements


def test_measurements_of_a_seed_are_those_of_0_1():
    """A task draws from one CPU generator a sample: archived comparisons are paired by these numbers."""
    x = torch.zeros(2, 1, 8, 8)
    task = deft.tasks.Denoise(sigma_y=0.5)
    old = torch.stack([torch.randn(1, 8, 8, generator=generator(7, i)) for i in (0, 1)])
    noise = Noise(7, 2)
    torch.testing.assert_close(task.observe(x, noise).y, 0.5 * old)
    # it goes on from there, and apart from what is drawn otherwise
    assert not torch.equal(task.observe(x, noise).y, 0.5 * old)
    assert torch.equal(noise.normal((3,)), Noise(7, 2).normal((3,)))
    assert Noise(0, 1).for_measurements.normal((16,))[0, :2].tolist() == pytest.approx(PINNED, abs=1e-6)


def test_noise_of_training_is_its_own():
    batch = BatchNoise(2, 0)
    assert measuring(batch) is batch and isinstance(measuring(Noise(0, 2)), RowNoise)


# On a GPU


@CUDA
@pytest.mark.parametrize("way", ["as used", "operations"])
def test_cpu_and_cuda_agree(way, monkeypatch):
    if way == "operations":
        monkeypatch.setattr(streams, "for_cuda", lambda device: by_torch)
    for rows, shape in ((3, ()), (2, (17,)), (8, (3, 64, 64)), (1, (140_001,)), (70_000, (2,))):
        cpu, gpu = Noise(5, rows), Noise(5, rows)
        for _ in range(2):
            assert torch.equal(cpu.uniform(shape), gpu.uniform(shape, device="cuda").cpu())
            torch.testing.assert_close(cpu.normal(shape), gpu.normal(shape, device="cuda").cpu(), rtol=1e-5, atol=5e-6)


@CUDA
def test_a_gpu_with_triton_has_the_kernel():
    if importlib.util.find_spec("triton") is not None:
        assert streams.for_cuda(torch.device("cuda")).__name__ == "deft.philox.by_triton"


@CUDA
@pytest.mark.parametrize("way", ["as used", "operations"])
def test_the_host_does_not_wait(way, monkeypatch):
    if way == "operations":
        monkeypatch.setattr(streams, "for_cuda", lambda device: by_torch)
    Noise(0, 2).normal((3, 64), device="cuda")  # built once
    torch.cuda.set_sync_debug_mode("error")
    try:
        noise = Noise(0, [3, 5, 7])
        for _ in range(3):
            noise.normal((3, 64), device="cuda")
            noise.uniform((4,), device="cuda")
    finally:
        torch.cuda.set_sync_debug_mode("default")


@CUDA
def test_streams_go_on_from_one_device_to_another():
    whole, parts = Noise(0, 2), Noise(0, 2)
    expected = [whole.normal((5,)) for _ in range(4)]
    for one, device in zip(expected, ("cuda", "cpu", "cuda", "cpu"), strict=True):
        torch.testing.assert_close(parts.normal((5,), device=device).cpu(), one, rtol=1e-5, atol=5e-6)


@CUDA
def test_one_kernel_a_draw():
    if importlib.util.find_spec("triton") is None:
        pytest.skip("needs Triton")
    from torch.profiler import ProfilerActivity, profile

    noise = Noise(0, 8)
    noise.normal((3, 64, 64), device="cuda")
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        noise.normal((3, 64, 64), device="cuda")
        torch.cuda.synchronize()
    kernels = [e for e in seen.events() if e.device_type == torch.autograd.DeviceType.CUDA]
    assert len(kernels) == 1
