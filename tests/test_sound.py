"""Sounds: files of every depth, what is refused, tasks, metrics and pictures, and the truth for stationary Gaussian
sounds."""

from __future__ import annotations

import io
import json
import re
import shlex
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import deft
from deft import DPMpp2M, Noise, Observation, VPCosine, sample_posterior
from deft.cli import main
from deft.domains.sound import pictures
from deft.domains.sound.band import Decimation
from deft.domains.sound.classifier import LENGTH, accuracy, digit_classifier, varied
from deft.domains.sound.data import DIGITS, SPLITS, dataset
from deft.domains.sound.domain import WEIGHTS, SoundDomain
from deft.domains.sound.metrics import log_spectral_distance, si_sdr
from deft.domains.sound.prior import Placed, new_prior
from deft.domains.sound.recordings import Recordings, windows
from deft.domains.sound.spectra import mel_bands, power
from deft.domains.sound.tasks import TASKS, Bandwidth, Declip, DenoiseSound, Gap
from deft.domains.sound.wav import BITS, SUBTYPES, read_wav, resampled, write_wav
from deft.errors import CheckpointError, ContractError, InputError
from deft.guidance import MMPS
from deft.guidance.exact import Mixture, dense
from deft.kinds.domain import View, domain_of
from deft.likelihood import Gaussian
from deft.operator import HDR
from deft.recipe.data import hold_out
from deft.testing import MixtureWorld, check_likelihood, check_operator
from toys import refused

F64, SHAPE = torch.float64, (1, 4096)
BOUND = SoundDomain(rate=8000)


def random(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def tone(n=8000, rate=8000, hertz=440.0):
    return torch.sin(2 * torch.pi * hertz * torch.arange(n, dtype=torch.float64) / rate).float()


# Files


@pytest.mark.parametrize("channels", [1, 2], ids=["mono", "stereo"])
@pytest.mark.parametrize("subtype", SUBTYPES)
def test_a_file_of_any_depth_is_read_back(tmp_path, subtype, channels):
    """Within half a step of its numbers, and without a bias; floats to the bit."""
    x = random(channels, 3000).div(3).clamp(-1, 1 - 2**-7)
    write_wav(tmp_path / "a.wav", x, 11025, subtype)
    back = read_wav(tmp_path / "a.wav")
    step = 2.0 ** (1 - BITS[subtype]) if subtype in BITS else 0.0
    assert back.rate == 11025 and back.x.shape == x.shape and back.x.dtype == torch.float32
    assert float((back.x - x).abs().max()) <= step / 2 + 6e-8 * (subtype in BITS)
    assert abs(float((back.x - x).mean())) <= 4 * step / 12**0.5 / x.numel() ** 0.5


def test_what_is_too_loud_is_clipped(tmp_path):
    write_wav(tmp_path / "a.wav", torch.tensor([2.0, -2.0, 0.0]), 8000, "PCM_16")
    assert read_wav(tmp_path / "a.wav").x.tolist() == [[32767 / 32768, -1.0, 0.0]]
    with pytest.raises(InputError, match="keeps its samples as one of PCM_U8"):
        write_wav(tmp_path / "a.wav", torch.zeros(3), 8000, "MP3")


@pytest.mark.parametrize(("rate", "new"), [(8000, 16000), (44100, 8000), (8000, 11025)])
def test_a_tone_at_another_rate_is_that_tone(rate, new):
    found, wanted = resampled(tone(rate, rate), rate, new), tone(new, new)
    middle = slice(new // 10, -new // 10)
    assert found.shape == wanted.shape and float((found - wanted)[middle].abs().max()) < 1e-3
    assert float(resampled(tone(16000, 16000, 5000.0), 16000, 8000)[800:-800].abs().max()) < 1e-2  # above the new limit


# What is refused, one line each


def cases(folder):
    """Name of a file -> what is said of it as data."""
    sound = 0.2 * random(5000)
    write_wav(folder / "stereo.wav", sound.expand(2, -1), 8000)
    write_wav(folder / "surround.wav", sound.expand(6, -1), 8000)
    write_wav(folder / "rate.wav", sound, 44100)
    write_wav(folder / "silent.wav", torch.zeros(5000), 8000)
    write_wav(folder / "nan.wav", torch.where(torch.arange(5000) == 7, torch.nan, sound), 8000)
    write_wav(folder / "infinite.wav", torch.where(torch.arange(5000) == 7, torch.inf, sound), 8000)
    write_wav(folder / "none.wav", torch.zeros(0), 8000)
    (folder / "empty.wav").write_bytes(b"")
    (folder / "text.wav").write_text("no sound at all\n" * 9)
    write_wav(folder / "cut.wav", sound, 8000)
    (folder / "cut.wav").write_bytes((folder / "cut.wav").read_bytes()[:30])
    (folder / "notes.txt").write_text("hello")
    (folder / "folder").mkdir()
    np.savez(folder / "odd.npz", x=np.zeros((3, 4, 5)))
    np.savez(folder / "parts.npz", pcm=np.zeros(9, np.int16), offset=[0, 5, 3, 9], name=list("abc"), rate=8000)
    return {
        "stereo.wav": "stereo, expected one channel: mix it down, or give --convert",
        "surround.wav": "6 channels, expected one channel",
        "rate.wav": r"44,100 samples a second, expected 8,000 \(the prior's\): resample it, or give --resize",
        "silent.wav": "silent: there is nothing in it louder than -100 dB",
        "nan.wav": "1 of 5,000 samples are NaN or infinite",
        "infinite.wav": "1 samples are infinite",
        "none.wav": "the file has no samples",
        "empty.wav": r"the file is empty \(0 bytes\)",
        "text.wav": "no sound file that can be read .*: give a WAV file",
        "cut.wav": "no sound file that can be read .*: give a WAV file",
        "notes.txt": "is none of the files that are read: a sound",
        "folder": "no sounds in .*: give a folder of .wav",
        "odd.npz": r"holds no sounds: expected an array x \[N, n\]",
        "parts.npz": "recordings back to back that do not fit together",
        "gone.wav": "no such file or folder",
    }


def test_files_that_cannot_be_used_are_refused_in_one_line(tmp_path):
    for name, said in cases(tmp_path).items():
        with pytest.raises(InputError, match=said) as refusal:
            BOUND.read(str(tmp_path / name), SHAPE)
        assert "\n" not in str(refusal.value) and name in str(refusal.value)


def test_what_can_be_mended_is(tmp_path):
    cases(tmp_path)
    for name, option in (("stereo.wav", "convert"), ("rate.wav", "resize")):
        assert BOUND.read(str(tmp_path / name), SHAPE, **{option: True}).x.shape[1:] == SHAPE
    data = BOUND.read(str(tmp_path), SHAPE, convert=True, resize=True, skip_bad=True)
    assert {n.partition("[")[0] for n in data.names} == {"stereo.wav", "surround.wav", "rate.wav"}
    assert "left out 7 of 10" in " ".join(data.notes)
    with pytest.raises(InputError, match=r"7 of 10 recordings cannot be used: .* or leave them out with --skip-bad"):
        BOUND.read(str(tmp_path), SHAPE, convert=True, resize=True)
    with pytest.raises(InputError, match="there is none here"):
        SoundDomain().read(str(tmp_path), resize=True)


def test_a_missing_library_is_named(monkeypatch, tmp_path):
    import sys

    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(InputError, match=r"pip install 'deft-diffusion\[sound\]'"):
        write_wav(tmp_path / "a.wav", torch.zeros(3), 8000)


# Recordings and windows


def test_recordings_become_windows_of_one_loudness(tmp_path):
    """Short ones in the middle of silence, long ones in pieces that cover them; whole recordings are held out."""
    for i in range(20):
        write_wav(tmp_path / f"{i % 10}_me_{i // 10}.wav", 0.01 * (i + 1) * random(900 + 400 * i, seed=i), 8000)
    data = BOUND.read(str(tmp_path), (1, 2048))
    found = {n.partition("[")[0] for n in data.names}
    assert len(found) == 20 and data.x.shape[1:] == (1, 2048) and data.card == {"rate": 8000}
    assert [int(n[0]) for n in data.names] == data.labels.tolist()
    short = data.x[data.names.index("0_me_0.wav"), 0]
    assert short[: (2048 - 900) // 2].abs().max() == 0 and abs(float(short.square().sum()) / 900 - 1) < 1e-4
    held, rest = (
        {data.names[i] for i in data.last},
        {n for i, n in enumerate(data.names) if i not in set(data.last.tolist())},
    )
    assert held and not {n.partition("[")[0] for n in held} & {n.partition("[")[0] for n in rest}


@pytest.mark.parametrize("lengths", [(3000,), (7000, 900, 5000), (1900,)])
def test_what_is_held_out_of_few_recordings_is_no_part_of_the_others(tmp_path, lengths):
    for i, n in enumerate(lengths):
        at = torch.arange(float(n)) + 10000 * (i + 1)
        write_wav(tmp_path / f"{i}.wav", at / 1e5, 8000)
    data = BOUND.read(str(tmp_path), (1, 1000))
    if lengths == (1900,):
        assert data.last is None and "too short to hold a window out" in data.notes[-1]
        return
    rows, rest = hold_out(len(data), 0, data.x, data.last)
    if len(lengths) == 1:  # it rises from its first sample to its last
        assert len(rows) == 1 and float(data.x[rows].max()) < float(data.x[rest].min())
    else:
        held, others = ({data.names[i].partition("[")[0] for i in part} for part in (rest, rows))
        assert held == {"2.wav"} and others == {"0.wav", "1.wav"}


def test_windows_cover_a_recording():
    x = torch.arange(1.0, 1001.0)
    rows, names, of = windows(Recordings([x, x[:300]], ["long", "short"], 8000), 400)
    assert names == ["long[0]", "long[1]", "long[2]", "short"] and of == [0, 0, 0, 1]
    assert set(rows[:3].flatten().tolist()) == set(x.tolist()) and float(rows[3].sum()) == float(x[:300].sum())


def test_arrays_of_recordings(tmp_path):
    x = (3000 * random(4, 500)).short().numpy()
    np.savez(tmp_path / "x.npz", x=x, rate=8000)
    np.savez(
        tmp_path / "parts.npz",
        pcm=x.ravel(),
        offset=500 * np.arange(5),
        name=[f"{i}_a.wav" for i in range(4)],
        rate=8000,
    )
    a, b = (BOUND.read(str(tmp_path / f"{n}.npz"), (1, 512)) for n in ("x", "parts"))
    torch.testing.assert_close(a.x, b.x)
    assert b.labels.tolist() == [0, 1, 2, 3] and abs(float(a.x.square().sum(2).mean()) / 500 - 1) < 1e-5


@pytest.mark.parametrize("split", SPLITS)
def test_bundled_digits(split):
    found = dataset("espeak", split)
    data = BOUND.read(f"espeak:{split}", SHAPE)
    assert data.x.shape == found.x.shape and sorted(set(found.labels.tolist())) == list(range(len(DIGITS)))
    spoken = data.x[:, 0][data.x[:, 0] != 0]
    assert 0.7 < float(spoken.square().mean()) < 1.4  # power 1 where there is sound
    with pytest.raises(InputError, match="the bundled sounds espeak have 4096 samples at 8000 a second"):
        BOUND.read("espeak", (1, 2048))


def test_a_training_window_has_the_whole_word_or_is_full_of_it():
    sounds = [torch.ones(100), torch.ones(900)]
    batch = Placed(sounds, 256).draw(64, 0, 0, torch.device("cpu")).x[:, 0]
    lengths = (batch != 0).sum(1)
    assert (
        set(lengths.tolist()) == {100, 256}
        and 0.49 < float(batch.abs().amax(1).min()) < float(batch.abs().max()) < 2.01
    )
    again = Placed(sounds, 256).draw(64, 0, 0, torch.device("cpu"), rows=range(5, 9)).x[:, 0]
    assert torch.equal(again, batch[5:9]), "a part of a batch is what it is in the whole"
    held = Placed(sounds, 256).draw(2, 0, -1, torch.device("cpu")).x[:, 0]
    assert held[0, 78:178].eq(1).all() and held[0].sum() == 100 and held[1].eq(1).all()


# Tasks


@pytest.mark.parametrize("dtype", [F64, torch.float32], ids=["64", "32"])
@pytest.mark.parametrize("factor", [2, 3, 4])
def test_decimation(factor, dtype):
    check_operator(Decimation(factor), (1, 4 * factor), dtype=dtype)
    check_operator(Decimation(factor), (2, 6 * factor), dtype=dtype)


def test_decimation_is_that_of_scipy():
    """But for the Nyquist frequency, which is divided by sqrt(2)."""
    signal = pytest.importorskip("scipy.signal")
    x = random(2, 1, 64, dtype=F64)
    mine, theirs = (np.fft.rfft(v) for v in (Decimation(4)(x).numpy(), signal.resample(x.numpy(), 16, axis=-1)))
    np.testing.assert_allclose(mine[..., :-1], theirs[..., :-1], atol=1e-12)
    np.testing.assert_allclose(mine[..., -1], theirs[..., -1] / 2**0.5, atol=1e-12)
    with pytest.raises(ContractError, match="no multiple of twice the factor 4"):
        Decimation(4)(x[..., :60])
    with pytest.raises(InputError, match="at least 2"):
        Decimation(1)


def test_spectrum_of_decimation():
    op, x = Decimation(4), random(3, 2, 32, dtype=F64)
    values, analyse, synthesise, measured = op.spectrum((2, 32), x)
    c, y = analyse(x), op(x)
    torch.testing.assert_close(synthesise(c), x)
    torch.testing.assert_close(c.square().sum(), x.square().sum())
    torch.testing.assert_close((values * c).square().sum(), y.square().sum())
    torch.testing.assert_close(measured(y), torch.where(values > 0, c, 0.0))
    exact = torch.linalg.svdvals(dense(op, (2, 32), F64)[0])
    torch.testing.assert_close(values.flatten().sort(descending=True).values[:16], exact)


@pytest.mark.parametrize("name", TASKS)
def test_every_task_measures(name):
    task = TASKS[name]()
    x = dataset("espeak", "test").x[:3] / 0.1
    obs = task.observe(x, Noise(0, 3))
    assert obs.features().shape == (3, task.feature_channels, 4096) and TASKS[name](**_settings(task)) == task
    assert name in TASKS and task.noise_text() and task.check(SHAPE).y.shape[0] == 1
    assert torch.equal(task.observe(x, Noise(0, 3)).y, obs.y)
    # the noise is what the task says it is
    rest = obs.likelihood.residual(obs.y, x)
    heard = obs.likelihood.operator.measured_part(torch.ones_like(obs.y)) > 0
    assert abs(float(rest[heard].std()) - task.sigma_y) <= 0.05 * task.sigma_y


def _settings(task):
    return {k: v for k, v in task.config().items() if k != "name"}


def test_gaps_are_as_long_as_they_should_be():
    mask = Gap().observe(torch.ones(40, 1, 4096), Noise(0, 40)).likelihood.operator.mask[:, 0]
    edges = torch.nn.functional.pad(1 - mask, (1, 1)).diff(dim=1)
    for row in edges:
        sizes = (row == -1).nonzero()[:, 0] - (row == 1).nonzero()[:, 0]
        assert len(sizes) == 3 and int(sizes.min()) >= 160 and int(sizes.max()) <= 640
    assert len({int(m.sum()) for m in mask}) > 30, "each sound has gaps of its own"
    with pytest.raises(InputError, match="3 gaps of up to 80 ms do not fit into 128 ms"):
        Gap().check((1, 1024))
    with pytest.raises(InputError, match="shortest <= longest"):
        Gap(shortest=90)


def test_clipping_is_undone_where_it_can_be():
    """The likelihood's own checks on sounds: y is what clipping leaves, and its guidance map leads towards it."""
    check_likelihood(Gaussian(HDR(0.5), 0.1), (1, 24), surrogate=True)
    obs = Declip(level=0.5).observe(torch.tensor([[[0.1, 0.4, -2.0, 3.0]]]), Noise(0, 1))
    torch.testing.assert_close(obs.y, torch.tensor([[[0.2, 0.8, -1.0, 1.0]]]))
    torch.testing.assert_close(obs.features()[0, 1], torch.tensor([0.0, 0.0, -1.0, 1.0]))
    beyond, below = torch.tensor([[[0.1, 0.4, -9.0, 9.0]]]), torch.tensor([[[0.1, 0.4, -0.1, 0.1]]])
    rho2, noise = torch.ones(1, 1, 1), torch.full((1, 1, 1), 1e-4)

    def moved(x):
        return x + obs.likelihood.operator.approx_mean_update(x, obs.y - obs.likelihood.operator(x), noise, rho2)

    torch.testing.assert_close(moved(beyond), beyond, atol=1e-3, rtol=0)  # as loud as you like
    torch.testing.assert_close(
        moved(below)[0, 0, 2:], torch.tensor([-0.5, 0.5]), atol=1e-3, rtol=0
    )  # at least the level


# Metrics and spectra


def test_power_of_white_noise_is_one_in_every_frequency():
    p = power(random(200, 1, 4096))[..., 2:-2]
    assert p.shape[1] == 129 and abs(float(p.mean()) - 1) < 0.01 and float((p.mean((0, 2)) - 1).abs().max()) < 0.1
    peak = power(tone(4096, hertz=1000.0)[None, None]).mean((0, 2)).argmax()
    assert int(peak) == 1000 * 256 // 8000


def test_mel_bands_cover_all_frequencies_once():
    bands = mel_bands(40, 256, 8000, torch.zeros(1))
    middle = bands.sum(0)[6:-8]
    assert bands.shape == (40, 129) and bool((bands >= 0).all()) and float((middle - 1).abs().max()) < 1e-5


def test_log_spectral_distance_in_closed_form():
    """A gain of g has 20 log10 g in every frame and frequency, whatever the sound; a filter the root mean square of its
    response in dB; and phases count nothing."""
    x = random(2, 1, 4096)
    torch.testing.assert_close(
        log_spectral_distance(0.5 * x, x, quiet=0.0), torch.full((2,), 20 * np.log10(2.0)).float()
    )
    assert bool((log_spectral_distance(x, x) == 0).all()) and bool((log_spectral_distance(-x, x) == 0).all())
    where = torch.zeros(1, 1, 4096)
    where[..., :2048] = 1
    half = torch.where(where > 0, 2 * x, x)
    inside = log_spectral_distance(half[..., :4096], x, (where > 0) & (torch.arange(4096) < 1900), quiet=0.0)
    torch.testing.assert_close(inside, torch.full((2,), 20 * np.log10(2.0)).float(), atol=1e-3, rtol=0)
    outside = log_spectral_distance(half, x, torch.arange(4096)[None, None] > 2200, quiet=0.0)
    torch.testing.assert_close(outside, torch.zeros(2), atol=1e-3, rtol=0)
    silent = torch.zeros(1, 1, 4096)
    assert float(log_spectral_distance(silent + 1e-4, silent)) < 0.1, "what is far below the floor is silence"


def test_si_sdr_in_closed_form():
    """x = a s + n with n orthogonal to s: 10 log10 (a^2 |s|^2 / |n|^2), for every a."""
    s, n = random(3, 1, 500, dtype=F64), random(3, 1, 500, seed=1, dtype=F64)
    n = n - (n * s).sum(2, keepdim=True) / s.square().sum(2, keepdim=True) * s
    n = n * s.norm(dim=2, keepdim=True) / n.norm(dim=2, keepdim=True)
    for gain in (0.1, 1.0, 30.0):
        torch.testing.assert_close(si_sdr(gain * (s + 0.1 * n), s), torch.full((3,), 20.0, dtype=F64))
    assert float(si_sdr(s, s).min()) == 100.0 and float(si_sdr(n, s).max()) <= -99.9
    where = torch.arange(500)[None, None] < 250
    torch.testing.assert_close(si_sdr(torch.where(where, s, n), s, where), torch.full((3,), 100.0, dtype=F64))
    assert float(si_sdr(s[:1], 0 * s[:1])) == -100.0


def test_the_bundled_classifier_knows_voices_it_never_heard():
    """29 of 30 synthetic digits of voices that are in no training file; 10 dB of noise costs little, gain nothing."""
    net = digit_classifier()
    parts = [dataset("espeak", s) for s in ("validation", "test")]
    x, labels = torch.cat([p.x for p in parts]), torch.cat([p.labels for p in parts])
    assert accuracy(net, x, labels) >= 0.9
    torch.testing.assert_close(net(x), net(50 * x), rtol=1e-3, atol=1e-3)
    assert accuracy(net, x + 0.03 * random(*x.shape), labels) > 0.6
    assert accuracy(net, random(30, 1, 4096), labels) < 0.3
    assert net.card["licence"].startswith("CC BY-SA 4.0")


def test_varied_sounds_keep_their_place():
    g = torch.Generator().manual_seed(0)
    x = varied([torch.ones(100), random(9000)], g)
    assert x.shape == (2, 1, LENGTH) and bool(x.isfinite().all())


# Pictures


def test_pictures_show_gaps_and_tones(monkeypatch):
    x = dataset("espeak", "test").x[:3] / 0.1
    obs = Gap().observe(x, Noise(0, 3))
    image = np.asarray(Image.open(io.BytesIO(BOUND.measurement_picture(x, obs, "gaps"))))
    shaded = (image == (205, 224, 232)).all(2)
    share = 1 - float(obs.likelihood.operator.mask.mean())
    assert 0.8 * share < shaded[len(image) // 2 + 30 :].any(0).mean() < 1.2 * share + 0.1
    sheet = BOUND.draw_pictures(x, x.std(0), obs[:1], "three")["sheet.png"]
    assert Image.open(io.BytesIO(sheet)).size[0] > 1000
    for shape in ((1, 1, 64), (12, 1, 300)):
        assert BOUND.picture(random(*shape))
    said = {}
    monkeypatch.setattr(
        pictures, "_laid_out", lambda p, titles, title, footer, across=5: said.update(t=titles, f=footer)
    )
    BOUND.wall([View("truth", x[:2]), View("ΠGDM", x[:2])], rows=["one", "two"])
    assert said["t"] == ["truth: one", "ΠGDM", "two", ""] and said["f"] == "0.512 s across; 0 to 4 kHz up"
    from deft.domains.sound.pictures import SPECTRUM, spectrogram

    light = np.asarray(spectrogram(tone(4096, hertz=1000.0))).astype(int).sum(2)
    assert abs((SPECTRUM - light[:, 130].argmax()) / SPECTRUM - 0.25) < 0.03  # 1 of 4 kHz


# Truth: stationary Gaussian sounds, whose posterior is the Wiener solution

BINS = torch.arange(64)
HERTZ = torch.minimum(BINS, 64 - BINS) / 64 * 8000.0
SPECTRUM = 1 / (1 + ((HERTZ - 500) / 300) ** 2) + 0.3 / (1 + ((HERTZ - 1500) / 200) ** 2) + 1e-3
SPECTRUM = (SPECTRUM / SPECTRUM.mean()).double()
"""Of a sound of power 1 with two resonances: the variance of each frequency, in a window taken for a circle."""
TRUTHS = {
    "gap": Gap(gaps=2, shortest=1, longest=2, sigma_y=0.1),
    "bandwidth": Bandwidth(sigma_y=0.1),
    "denoise": DenoiseSound(),
}


def stationary():
    row = torch.fft.ifft(SPECTRUM).real
    covariance = row[(BINS[:, None] - BINS) % 64]
    mixture = Mixture(torch.ones(1, dtype=F64), torch.zeros(1, 64, dtype=F64), covariance[None])
    return MixtureWorld(mixture, (1, 64))


def seen(name):
    obs = TRUTHS[name].observe(stationary().sample(1, seed=3), Noise(0, 1))
    return Observation(obs.y.double(), obs.likelihood)


def wiener(name, y):
    """S / (S + noise) for each frequency that was measured: no matrix, so an independent way to the same mean."""
    low = Decimation(4).pinv(y) if name == "bandwidth" else y
    f = torch.fft.fft(low[0, 0])
    noise = torch.full((64,), TRUTHS[name].sigma_y ** 2 * (4 if name == "bandwidth" else 1), dtype=F64)
    if name == "bandwidth":
        noise[HERTZ > 1000] = torch.inf
    return torch.fft.ifft(f * SPECTRUM / (SPECTRUM + noise)).real


@pytest.mark.parametrize("name", ["bandwidth", "denoise"])
def test_the_posterior_is_the_wiener_solution(name):
    obs = seen(name)
    torch.testing.assert_close(stationary().posterior(obs).mean, wiener(name, obs.y))


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize(
    ("name", "h", "far"), [*((name, "exact", 1.5) for name in TRUTHS), ("gap", "mmps", 3.0), ("denoise", "mmps", 3.0)]
)
def test_samples_reach_the_wiener_solution(name, h, far):
    """400 samples: their mean lies as far from the exact one as their number says (mmps: 3 times), their deviation is
    that of the posterior within 3 %."""
    world, obs, n = stationary(), seen(name), 400
    exact = world.posterior(obs)
    chosen = world.h if h == "exact" else MMPS()
    x = sample_posterior(world.prior(VPCosine()), chosen, obs, n, sampler=DPMpp2M(), steps=30).x[0, :, 0].double()
    error = (x.mean(0) - exact.mean).square().mean().sqrt()
    assert float(error) < far * float(exact.std.square().mean().sqrt()) / n**0.5
    assert abs(float((x.std(0).square().mean() / exact.std.square().mean()).sqrt()) - 1) < 0.03


# The record


def test_a_card_says_the_rate():
    assert SoundDomain().with_card({"rate": 16000}).rate == 16000 and SoundDomain().with_card({}) == SoundDomain()
    for rate in (True, 0, -1, "8000", 8000.5):
        with pytest.raises(CheckpointError, match=r"rate is .*, expected samples a second"):
            SoundDomain().with_card({"rate": rate})
    assert SoundDomain().owns((1, 4096)) and not SoundDomain().owns((2, 4096)) and not SoundDomain().owns((1, 96))


def test_a_prior_of_sounds_is_small_and_saved(tmp_path):
    torch.manual_seed(0)
    prior = new_prior((1, 256), VPCosine(), widths=(8, 12), patch=4)
    prior.save(tmp_path / "prior.safetensors", name="toy", rate=16000)
    again = deft.load_prior(tmp_path / "prior.safetensors")
    x = random(2, 1, 256)
    assert torch.equal(again(x, torch.tensor([0.3, 0.5])).mean, prior(x, torch.tensor([0.3, 0.5])).mean)
    for bad in ((2, 256), (256,)):
        with pytest.raises(InputError, match=r"sounds have the shape \(1, L\)"):
            new_prior(bad, VPCosine())
    with pytest.raises(InputError, match="must be at least 1"):
        new_prior((1, 256), VPCosine(), widths=(0,))


def test_the_bundled_prior_is_what_its_card_says():
    """Beside it lies its card as a page. At equal signal and noise it has half of the error of the Wiener filter with
    these sounds' own spectrum."""
    prior = deft.load_prior("digits")
    page = (WEIGHTS / "digits.md").read_text()
    assert (
        prior.card["licence"] in page and prior.fingerprint() == prior.card["sha256"] and prior.card["sha256"] in page
    )
    assert domain_of(prior) == BOUND and prior.event_shape == SHAPE
    x = BOUND.read("espeak:test", SHAPE).x[::3]
    power_of = torch.fft.fft(x, norm="ortho").abs().square().mean(0)
    t = prior.schedule.time_of(torch.zeros(1, dtype=F64))
    _, alpha, sigma = prior.coefficients(t.expand(len(x)), x)
    x_t = alpha * x + sigma * random(*x.shape)
    wiener_mean = torch.fft.ifft(torch.fft.fft(x_t) * (alpha * power_of / (alpha**2 * power_of + sigma**2))).real
    mine, yardstick = ((m - x).square().mean() for m in (prior(x_t, t.expand(len(x))).mean, wiener_mean))
    assert 0.3 < float(mine / yardstick) < 0.6


# The page's commands, as a newcomer types them

PAGE = Path(__file__).parents[1] / "docs" / "sound.md"
SMALL = {
    r"--seconds \d+": "--steps 3 --batch 4",
    r"^(deft prior train .*)$": r"\1 --widths 8,12 --evaluations 1",
    r"^(deft fit .*)$": r"\1 --size 5 --prior-samples 4 --cache 8",
    r"^(deft sample .*)$": r"\1 --steps 3",
    r"^(deft evaluate .*)$": r"\1 --steps 3",
    r"-n \d+": "-n 2",
    r"--images 20 --samples 4": "--images 3 --samples 2",
}


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The folder that is left when the page's program and its commands have run, small, and what each printed."""
    folder = tmp_path_factory.mktemp("page")
    text = PAGE.read_text(encoding="utf-8")
    said = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for code in re.findall(r"^```python\n(.*?)^```", text, re.M | re.S):
            exec(compile(code, str(PAGE), "exec"), {})
        blocks = re.findall(r"^```bash\n(.*?)^```", text, re.M | re.S)
        for line in "".join(blocks).splitlines():
            for usual, small in SMALL.items():
                line = re.sub(usual, small, line)
            out = io.StringIO()
            with redirect_stdout(out), redirect_stderr(out):
                code = main([*shlex.split(line)[1:], *([] if " measure " in line else ["--device", "cpu"])])
            assert code == 0, f"{line}\n{out.getvalue()}"
            said[line] = out.getvalue()
    return folder, said


def test_the_commands_of_the_page_write_sounds(page):
    folder, said = page
    assert len(said) == 9
    with np.load(folder / "filled" / "samples.npz") as kept:
        samples, mask, mean = kept["samples"], kept["mask"], kept["mean"]
    broken = read_wav(folder / "broken.wav").x[0]
    gain = float(broken[broken != 0].square().mean().sqrt()) / (1 + 0.02**2) ** 0.5
    for name, x in (("sample-001", samples[1]), ("mean", mean)):
        found = read_wav(folder / "filled" / f"{name}.wav")
        assert found.rate == 8000
        np.testing.assert_allclose(found.x[0], gain * x[0], rtol=1e-4, atol=1e-6)
    assert np.flatnonzero(mask[0] == 0)[[0, -1]].tolist() == [1500, 1899]
    assert Image.open(folder / "filled" / "sheet.png").size[0] > 1000
    card = json.loads((folder / "prior" / "log.json").read_text())["card"]
    assert card["rate"] == 8000 and card["domain"] == "sound" and card["event_shape"] == [1, 4096]


def test_the_commands_of_the_page_say_what_they_took(page):
    folder, said = page
    named, later = (next(v for k, v in said.items() if k.endswith(f"--out {n} --steps 3")) for n in ("named", "later"))
    assert "long.wav is 2.05 s long: the window from 0 to 0.512 s was taken; --array 0.5s takes another" in named
    assert "gaps: 0.210 to 0.262 s, 0.300 to 0.330 s of the window" in named
    assert "the window from 0.1 to 0.612 s was taken" in later and "gaps: 0.110 to 0.162 s, 0.200 to 0.230 s" in later
    report = (folder / "report" / "report.md").read_text()
    assert all(m in report for m in ("LSD (dB)", "SI-SDR of the mean (dB)", "digit", "energy score"))
    assert (folder / "report" / "samples.png").is_file() and (folder / "y.png").is_file()


def test_bad_measurements_are_one_line(page, capsys, monkeypatch):
    """What a newcomer tries first and cannot have."""
    folder, _ = page
    monkeypatch.chdir(folder)
    x = dataset("espeak", "test").x[0, 0]
    write_wav("stereo.wav", x.expand(2, -1), 8000)
    write_wav("fast.wav", x, 44100)
    write_wav("silence.wav", torch.zeros(4096), 8000)
    Path("nothing.wav").write_bytes(b"")
    Path("bad.txt").write_text("0.2\n")
    Path("late.txt").write_text("5.0 5.1\n")
    for task, more, said in (
        ("gap", ["stereo.wav"], "stereo, expected one channel: mix it down, or give --convert"),
        ("gap", ["fast.wav"], "44,100 samples a second, expected 8,000 (the prior's)"),
        ("bandwidth", ["broken.wav"], "8,000 samples a second, expected 2,000 (of bandwidth)"),
        ("declip", ["silence.wav"], "the window is silent"),
        ("declip", ["nothing.wav"], "nothing.wav: the file is empty (0 bytes)"),
        ("gap", ["voices/1_1.wav", "--mask", "bad.txt"], "bad.txt, line 1: '0.2' is no gap"),
        ("gap", ["voices/1_1.wav", "--mask", "late.txt"], "none of its 1 gap lies in the 0.512 s"),
        ("denoise-sound", ["broken.wav", "--mask", "gaps.txt"], "leave --mask out"),
        ("denoise-sound", ["broken.wav", "--array", "0.1s"], "fits into the prior's 0.512 s: leave it out"),
        ("denoise-sound", ["long.wav", "--array", "half"], "expected where the window starts, as 0.5s"),
        ("denoise-sound", ["voices"], "voices is a folder: a measurement of denoise-sound is a WAV file"),
        ("gap", ["long.wav", "--range", "0,1"], "--range is not for sounds"),
        ("inpaint", ["broken.wav"], "the task inpaint is for images, and the prior makes sounds"),
    ):
        asked = ("sample", "--prior", "prior", "--task", task, "--method", "pigdm", "--measurement", *more)
        assert said in refused(capsys, *asked, "--out", "x")
