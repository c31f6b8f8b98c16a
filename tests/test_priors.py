"""Conventions, the doctor, and whatever else --prior takes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from deft import NetworkDenoiser, VPCosine, freeze
from deft.core.random import Noise
from deft.core.schedule import Rescaled
from deft.denoiser import MeanDenoiser
from deft.denoiser.parametrisation import TIMES, to_output
from deft.domains.image.data import fashion
from deft.domains.image.tasks import TASKS
from deft.errors import DeftError, InputError
from deft.prior import CONVENTIONS, FAMILIES, load_prior, wrap
from deft.prior.check import LEVELS, WORSE, confirm, try_conventions, warning, wiener_error
from deft.prior.measurement_check import warning_from
from deft.schedule import EDM, SCHEDULES, VPLinear, VPTable, make_schedule
from toys import pictures, refused, result, run, save_pictures, toy_prior

BACK = {  # the time a network is told -> t, for each row of TIMES
    "t": lambda s, u: u,
    "index": lambda s, u: u,
    "999t": lambda s, u: u / 999,
    "1000t": lambda s, u: u / 1000,
    "1-t": lambda s, u: 1 - u,
    "sigma": lambda s, u: s.time_of(-2 * u.double().clamp_min(1e-9).log()),
    "log-sigma": lambda s, u: s.time_of(-2 * u.double()),
    "log-sigma/4": lambda s, u: s.time_of(-8 * u.double()),
    "log-snr": lambda s, u: s.time_of(u.double()),
}


class Follows(torch.nn.Module):
    """A trained network that follows a convention: the bundled prior's E[x_0 | x_t], spoken in that convention."""

    def __init__(self, prior, schedule, output, time="t", scale_input=False, value_range=(-1.0, 1.0), sigma_data=1.0):
        super().__init__()
        self.prior, self.schedule, self.output, self.time, self.scale_input = prior, schedule, output, time, scale_input
        self.c, self.b, self.d = (
            (value_range[1] - value_range[0]) / 2,
            (value_range[1] + value_range[0]) / 2,
            sigma_data,
        )

    def forward(self, x_in, time):
        t = BACK[self.time](self.schedule, time).double().clamp(self.schedule.t_min, self.schedule.t_max)
        a, s = (f(t).float().reshape(-1, 1, 1, 1) for f in (self.schedule.alpha, self.schedule.sigma))
        x = x_in * (self.d**2 * a**2 + s**2).sqrt() if self.scale_input else x_in
        at = self.prior.schedule.time_of(-2 * (s / a / self.c).double().log().flatten())
        alpha = self.prior.schedule.alpha(at).float().reshape(-1, 1, 1, 1)
        mean = self.prior((x - a * self.b) / self.c * alpha / a, at.float()).mean * self.c + self.b
        d = self.d if self.output == "edm" else 1.0
        return to_output(self.output, x, mean / d, d * a, s)


@pytest.fixture(scope="module")
def clothes():
    return load_prior("fashion"), fashion("test").x


def network(prior, name):
    return Follows(prior, **CONVENTIONS[name].make())


@pytest.fixture(scope="module")
def exact():
    """The exact E[x_0 | x_t] of 16 pictures of clothes with white noise of deviation 0.1 on them, and such images: what
    a trained network is near to, in a hundredth of the time."""
    pictures, v = fashion("test").x[:16], 0.01

    def mean(x, a, s):
        far = (x[:, None] - a[:, None] * pictures).flatten(2).square().sum(2)
        near = (far / (-2 * (a**2 * v + s**2)).flatten(1)).softmax(1)
        m = torch.einsum("bk,k...->b...", near, pictures)
        return m + a * v / (a**2 * v + s**2) * (x - a * m)

    x = pictures + math.sqrt(v) * Noise(5, 16).normal((1, 32, 32))
    return MeanDenoiser(mean, VPCosine(), (1, 32, 32)), x


def test_every_time_row_is_covered():
    assert set(BACK) == set(TIMES)


@pytest.mark.parametrize("name", CONVENTIONS)
def test_every_convention_is_read_right(name, clothes):
    """A network that follows a convention, wrapped as such, is the prior it was made from."""
    prior, x = clothes
    x = x[:4]
    wrapped = wrap(network(prior, name), (1, 32, 32), name)
    for ratio in (0.2, 1.0, 5.0):
        t, own = (p.schedule.time_of(torch.tensor(-2 * math.log(ratio)).double()) for p in (wrapped, prior))
        _, alpha, sigma = wrapped.coefficients(t, x)
        assert float(sigma / alpha) == pytest.approx(ratio, rel=1e-3)  # on images in [-1, 1], whatever the range
        z = x + ratio * Noise(0, 4).normal((1, 32, 32))
        expected = prior(z * prior.schedule.alpha(own).float(), own).mean
        torch.testing.assert_close(wrapped(z * alpha, t).mean, expected, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize(
    ("name", "kind"),
    [*((name, "exact") for name in CONVENTIONS), *((name, "clothes") for name in ("edm", "ddpm", "rectified-flow"))],
)
def test_the_doctor_finds_the_convention(name, kind, request):
    """Given a wrong reading of any row, the doctor names one that is right, in words `load_prior` understands."""
    prior, x = request.getfixturevalue(kind)
    net = network(prior, name)
    assert confirm(wrap(net, (1, 32, 32), name), x).worst < 0.8
    wrong = wrap(net, (1, 32, 32), "rectified-flow" if not name.startswith(("rectified", "flow")) else "ddpm")
    verdict = try_conventions(wrong, x, images=6, levels=(0.3, 3.0))
    assert not verdict.confirmed and verdict.best is not verdict.taken, verdict.text
    changes = dict(verdict.best.changes)
    base = changes.pop("convention", wrong.card["convention"])
    if "value_range" in changes:
        changes["value_range"] = tuple(float(v) for v in changes["value_range"].split(","))
    mended = wrap(net, (1, 32, 32), base, **changes)
    assert confirm(mended, x).worst < 0.8, verdict.text
    assert all(f"--prior-option {k}={v}" in verdict.text for k, v in verdict.best.changes.items())


@pytest.mark.parametrize(
    "wrong",
    [
        {"output": "eps"},
        {"output": "x0"},
        {"output": "flow"},
        {"value_range": (0, 1)},
        {"time": "log-snr"},
        {"time": "t"},
    ],
)
def test_wrong_readings_are_warned_of(wrong, clothes):
    prior, x = clothes
    assert warning(prior, x) is None and "wrong convention" in warning(prior.reread(**wrong), x)


@pytest.mark.parametrize("name", [k for k in TASKS if k != "colourise"])
def test_a_measurement_is_enough_for_a_warning(name, clothes):
    """Before sampling there is but one rough image: no false alarm in 20, and eps for v is caught in each of 8, unless
    most is hidden."""
    prior, x = clothes
    obs = TASKS[name]().observe(x[:20], Noise(3, 20))
    assert all(warning_from(prior, obs[i]) is None for i in range(20))
    hidden = name in ("inpaint-random", "outpaint")
    wrong = prior.reread(output="eps")
    assert all((warning_from(wrong, obs[i]) is None) == hidden for i in range(8))


def test_wiener_error():
    """White images of deviation d: the scalar formula; the filter itself, applied, has that error."""
    g = torch.Generator().manual_seed(0)
    x = 0.5 * torch.randn(400, 1, 8, 8, generator=g)
    assert wiener_error(x, 0.7) == pytest.approx(0.25 * 0.49 / (0.25 + 0.49), rel=0.02)
    smooth = torch.nn.functional.avg_pool2d(x, 3, 1, 1)
    r = 0.2
    power = torch.fft.fft2(smooth - smooth.mean(0), norm="ortho").abs().square().mean(0)
    noisy = smooth + r * torch.randn(smooth.shape, generator=g)
    filtered = torch.fft.ifft2(torch.fft.fft2(noisy - smooth.mean(0)) * power / (power + r**2)).real + smooth.mean(0)
    assert wiener_error(smooth, r) == pytest.approx(float((filtered - smooth).square().mean()), rel=0.03)
    assert wiener_error(smooth, r) < wiener_error(x * smooth.std() / x.std(), r)  # structure helps


def test_rescaled():
    inner = VPLinear()
    t = torch.linspace(0.1, 1, 5, dtype=torch.float64)
    outer = Rescaled(inner, 2.0)
    torch.testing.assert_close(outer.sigma(t), 2 * inner.sigma(t))
    torch.testing.assert_close(outer.alpha(t), inner.alpha(t))
    back = make_schedule({"name": outer.name, **outer.config()})
    torch.testing.assert_close(back.log_snr(t), outer.log_snr(t))
    for name in SCHEDULES:
        one = VPTable.linear() if name == "vp-table" else SCHEDULES[name]()
        again = make_schedule({"name": name, **one.config()})
        at = torch.tensor([(one.t_min + one.t_max) / 2], dtype=torch.float64)
        torch.testing.assert_close(again.log_snr(at), one.log_snr(at))
    with pytest.raises(InputError, match="unknown schedule"):
        make_schedule({"name": "vp-liner"})


def test_ranges_of_a_gaussian():
    """x_0' = (x_0 + 1)/2 with x_0 ~ N(0, 1): the exact denoiser on [0, 1], read so, is the exact one on [-1, 1]."""
    schedule = EDM()
    net = lambda x, s: 0.5 + 0.25 / (0.25 + s[:, None] ** 2) * (x - 0.5)  # noqa: E731
    prior = NetworkDenoiser(net, schedule, (3,), "x0", time="sigma", value_range=(0, 1))
    x, t = torch.randn(5, 3), torch.tensor(0.8)  # sigma on [0, 1]; 1.6 on [-1, 1]
    pred = prior(x, t)
    torch.testing.assert_close(pred.mean, x / (1 + 1.6**2))
    assert float(pred.sigma) == pytest.approx(1.6)


def test_half_precision_is_the_models_own_business():
    net = torch.nn.Sequential(torch.nn.Linear(4, 4)).to(torch.bfloat16)
    prior = freeze(NetworkDenoiser(lambda x, t: net(x.to(torch.bfloat16)).float(), VPCosine(), (4,)))

    class Time(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = net

        def forward(self, x, t):
            assert x.dtype == torch.bfloat16
            return self.inner(x)

    half = freeze(NetworkDenoiser(Time(), VPCosine(), (4,)))
    x, t = torch.randn(3, 4), torch.tensor(0.5)
    assert half.state_like().dtype == torch.float32 and half(x, t).mean.dtype == torch.float32
    torch.testing.assert_close(half(x, t).mean, prior(x, t).mean)
    assert len(half.fingerprint()) == 64  # bfloat16 weights have bytes, too


# at the command line


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop")
    toy_prior(folder / "toy.safetensors")
    save_pictures(folder / "images", pictures(12))
    (folder / "mine.py").write_text(
        "import torch\nfrom deft import VPCosine\nfrom deft.prior import load_prior, wrap\n\n\n"
        "def make(output='v', wrong=False):\n"
        "    own = load_prior('fashion')\n"
        "    return wrap(own.net, own.event_shape, 'deft', output=output)\n\n\n"
        "def number():\n    return 3\n"
    )
    return folder


def test_inspect(capsys, shop):
    found = result(capsys, "prior", "inspect", "fashion", "--images", "fashion", "-n", 6, "--json")
    assert found["confirmed"] and found["output"] == "v" and found["parameters"] == 1793604
    assert len(found["taken"]["ratios"]) == len(LEVELS) and max(found["taken"]["ratios"]) < WORSE
    code, out, _ = run(
        capsys,
        "prior",
        "inspect",
        f"{shop}/mine.py:make",
        "--prior-option",
        "output=eps",
        "--images",
        "fashion",
        "-n",
        6,
    )
    assert (
        code == 0
        and "not confirmed" in out
        and ("--prior-option output=v" in out or "--prior-option convention=deft" in out)
    )
    code, out, _ = run(capsys, "prior", "inspect", shop / "toy.safetensors")
    assert code == 0 and "parameters: " in out


def test_inspect_an_untrained_prior(capsys, shop):
    """No reading fits, and the verdict says so rather than naming the least bad one."""
    code, out, _ = run(capsys, "prior", "inspect", shop / "toy.safetensors", "--images", shop / "images", "-n", 4)
    assert code == 0 and "not confirmed: under the best of" in out


def test_priors_from_functions(capsys, shop, tmp_path):
    photos = save_pictures(tmp_path / "photos", ((fashion("test").x[:12, 0] + 1) * 127.5).numpy().astype(np.uint8))
    code, out, err = run(
        capsys,
        "fit",
        "--prior",
        f"{shop}/mine.py:make",
        "--data",
        photos,
        "--batch",
        4,
        "--steps",
        2,
        "--bank",
        0,
        "--out",
        tmp_path / "run",
        "--prior-option",
        "output=eps",
    )
    assert code == 0, err
    assert "warning: this prior denoises these images" in out
    says = refused(capsys, "evaluate", tmp_path / "run", "--data", "fashion", "--images", 2, "--out", tmp_path / "r")
    assert "a card alone is not trusted to load" in says and "--prior" in says
    arguments = [
        "evaluate",
        tmp_path / "run",
        "--prior",
        f"{shop}/mine.py:make",
        "--data",
        "fashion",
        "--images",
        2,
        "--samples",
        1,
        "--steps",
        2,
        "--methods",
        "deft",
        "--out",
        tmp_path / "r",
    ]
    assert "was fitted to the prior" in refused(capsys, *arguments)  # read as v: another prior
    assert run(capsys, *arguments, "--prior-option", "output=eps")[0] == 0


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("{shop}/nothing.py:make", (), "no such file"),
        ("{shop}/mine.py:other", (), "has no function 'other'"),
        ("{shop}/mine.py:number", (), "returned a value of the type int, expected a deft.Denoiser"),
        ("{shop}/mine.py:make", ("colour=3",), "unexpected keyword argument 'colour'"),
        ("no_such_module:make", (), "cannot import no_such_module"),
        ("{shop}/images", (), "holds no prior that is known here"),
        ("{shop}/mine.py", (), "is no prior that is known here"),
        ("{shop}/toy.safetensors", ("output=eps",), "unknown option 'output' of a prior of the family deft"),
        ("fashon", (), "did you mean 'fashion'"),
        ("./no/such/folder", (), "no such prior"),
        ("fashion", ("output",), "takes KEY=VALUE"),
    ],
)  # fmt: skip
def test_bad_names(capsys, shop, name, options, says):
    extra = [a for o in options for a in ("--prior-option", o)]
    assert says in refused(capsys, "prior", "inspect", name.format(shop=shop), *extra)


def test_families_have_a_line_each():
    assert list(FAMILIES) == [
        "remote", "deft", "diffusers", "exported", "genie", "csdi", "edm", "single", "state", "adm", "python", "hub",
    ]  # fmt: skip
    assert all(row.about for row in FAMILIES.values())


def test_a_card_decides_nothing_dangerous():
    from deft.recipe.fitted import recorded_options

    assert recorded_options({"prior_options": ["output=v", "trust_pickle=true", "token=x", "label=3"]}) == [
        "output=v",
        "label=3",
    ]
    with pytest.raises(DeftError):
        load_prior("fashion", colour=3)
