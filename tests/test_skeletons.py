"""How many files one touches to add a thing: the skeletons of the pages, written into a copy of the package, run."""

from __future__ import annotations

import re

import pytest

import skeletons
from skeletons import add, parts, runs


@pytest.fixture
def package(tmp_path):
    return skeletons.package(tmp_path)


WORLD = """
from deft.methods import METHODS, plan

world, obs = half_seen(2)
prior = world.prior(deft.VPCosine())
"""

SMALL_PRIOR = '''
import deft

def prior():
    """Pixels of variance 1/4, independent."""
    return deft.MeanDenoiser(lambda x, a, s: a * x / (a**2 + 4 * s**2), deft.VPCosine(), (1, 8, 8))
'''
BRIEF = "--steps 2 --batch 2 --warmup 1 --device cpu"


@pytest.fixture
def small_prior(tmp_path):
    """A file with a prior of pictures that costs nothing, beside the copied package."""
    (tmp_path / "small.py").write_text(SMALL_PRIOR)
    return "small.py:prior"


def test_a_method(package):
    touched = add(
        package,
        "add-a-method.md",
        {
            "with the imports": "from dataclasses import dataclass\n",
            "with the settings": "# settings\n\n\n",
            "in METHODS": "    for m in (\n",
        },
    )
    assert touched == {"guidance/damped.py", "methods/table.py"}
    said = runs(
        package,
        WORLD
        + """
made = plan("damped", steps=4, settings={"strength": "0.5"})
print(made, made.draw(prior, obs, 2).x.shape)
check_htransform(made.make(prior)[0], prior, obs.repeat(4))
command("list --json")
""",
    )
    assert "plan('damped', settings={'strength': 0.5}" in said and "torch.Size([1, 2, 4])" in said
    assert '"damped"' in said  # the command line offers it


def test_a_sampler_with_a_setting(package):
    touched = add(
        package,
        "add-a-sampler.md",
        {
            "with the imports": "from deft.core.sampler import ManyDraws, Sampler\n",
            "in SAMPLERS": "SAMPLERS: dict[str, type[Sampler]] = {\n",
        },
    )
    assert touched == {"samplers/adams.py", "samplers/__init__.py"}
    said = runs(
        package,
        WORLD
        + """
made = plan("gradient", sampler="ab2", steps=4, settings={"share": "0.5"})
print(made.make_sampler(), made.draw(prior, obs, 2).x.shape)
check_sampler(made.make_sampler(), [deft.VPCosine()])
""",
    )
    assert "AdamsBashforth(share=0.5) torch.Size([1, 2, 4])" in said


def test_an_operator_with_its_task(package, small_prior):
    touched = add(
        package,
        "add-an-operator.md",
        {"with the imports": "from deft.domains.image.tasks.base import ImageTask\n"},
    )
    assert touched == {"operator/mirror.py", "domains/image/tasks/mirror.py"}
    said = runs(
        package,
        f"""
from deft.io.tasks import get_task
command("list")
task = get_task("mirror", sigma_y=0.1)
obs = task.observe(torch.rand(2, 1, 4, 6), deft.Noise(0, 2))
print(task, tuple(obs.y.shape))
check_operator(obs.likelihood.operator, (1, 4, 6))
check_likelihood(obs.likelihood, (1, 4, 6), batch=2, draws=1000)
command("fit --prior {small_prior} --task mirror --width 4 --prior-samples 16 --cache 16 --out run {BRIEF}")
""",
    )
    assert re.search(r"^  mirror +half of the mean of an image and its mirror image", said, re.M)
    assert "Mirror(sigma_y=0.1) (2, 1, 4, 3)" in said
    assert "wrote run/h.safetensors" in said


def test_a_family_of_priors(package):
    touched = add(
        package,
        "add-a-prior.md",
        {
            "with the imports": "from deft.prior.conventions import CONVENTIONS\n",
            "in OTHERS": "OTHERS: dict[str, Family] = {\n",
        },
    )
    assert touched == {"prior/mixture.py", "prior/load.py"}
    said = runs(
        package,
        f"""
import numpy as np
from deft.prior import load_prior
from deft.prior.load import family_of
from deft.testing import MixtureWorld
from deft.guidance.exact import Mixture

weights, means, variances = torch.tensor([0.3, 0.7]), torch.randn(2, 1, 8, 8), torch.tensor([0.2, 0.5])
np.savez("clusters.npz", weights_=weights, means_=means, covariances_=variances)
prior = load_prior("clusters.npz")
print(family_of("clusters.npz"), prior.card["name"], prior.event_shape)

parts = Mixture(weights, means.flatten(1), variances[:, None, None] * torch.eye(64))
exact = MixtureWorld(parts, (1, 8, 8)).prior(deft.VPCosine())
x_t, t = torch.randn(4, 1, 8, 8), torch.tensor([0.1, 0.4, 0.7, 0.95])
torch.testing.assert_close(prior(x_t, t).mean, exact(x_t, t).mean, rtol=1e-3, atol=1e-3)
obs = deft.Observation(torch.randn(4, 1, 8, 8), deft.Gaussian(deft.Identity(), 0.5))
check_htransform(deft.ReconstructionGuidance(), prior, obs)
command("list")
command("fit --prior clusters.npz --task denoise --width 4 --prior-samples 16 --cache 16 --out run {BRIEF}")
""",
    )
    assert "mixture clusters (1, 8, 8)" in said
    assert re.search(r"^  mixture +a round Gaussian mixture of scikit-learn, as .npz", said, re.M)
    assert "wrote run/h.safetensors" in said


def test_an_objective_on_paths(package, small_prior):
    touched = add(
        package,
        "add-an-objective.md",
        {
            "with the imports": "from __future__ import annotations\n\n",
            "in OBJECTIVES": "OBJECTIVES: dict[str, type[PathObjective]] = {\n",
        },
    )
    assert touched == {"train/cross_entropy.py", "train/objectives.py"}
    said = runs(
        package,
        WORLD
        + f"""
import numpy as np
from deft.core.random import BatchNoise
from deft.train.objectives import OBJECTIVES

@torch.no_grad()
def loss(h):
    objective = OBJECTIVES["cross"](prior, 100)
    return objective.loss(h, obs.repeat(64), BatchNoise(64, 0)).value.item()

check_htransform(world.h, prior, obs.repeat(4))
print("exact is better:", loss(world.h) < 0.5 * loss(deft.DEFT((4,), 2, width=8)))
np.savez("y.npz", y=torch.linspace(-1, 1, 64).reshape(1, 1, 8, 8).numpy())
command("fit --objective cross --measurement y.npz --task denoise --prior {small_prior} --width 4 --chain 4"
        " --out run {BRIEF}")
""",
    )
    assert "exact is better: True" in said
    assert "wrote run/h.safetensors, for this measurement alone" in said


def test_a_learned_h(package, small_prior):
    touched = add(
        package,
        "add-a-learned-h.md",
        {
            "with the imports": "from deft.learned.deft import DEFT, LOWEST, build_network, domain_name\n",
            "in LEARNED": "LEARNED: dict[str, type[Learned]] = {\n",
        },
    )
    assert touched == {"learned/strength.py", "learned/baselines.py"}
    said = runs(
        package,
        WORLD
        + f"""
import numpy as np
from deft.learned import LEARNED

check_htransform(LEARNED["strength"].sized(prior, 0.1, 2).double(), prior, obs.repeat(4))
command("list")
command("fit --prior {small_prior} --task denoise --method strength --prior-samples 16 --cache 16 --out run {BRIEF}")
np.savez("y.npz", y=torch.linspace(-1, 1, 64).reshape(1, 1, 8, 8).numpy())
command("sample run --prior {small_prior} --measurement y.npz -n 2 --steps 3 --out samples")
print(deft.load("run", deft.load_prior("{small_prior}")).h)
""",
    )
    assert re.search(r"^  strength +guidance at the denoised mean, with a learned strength", said, re.M)
    assert "Strength(" in said.splitlines()[-1]
    assert (package.parent / "samples/mean.png").exists()


@pytest.mark.parametrize(
    "page",
    [
        "add-a-learned-h.md",
        "add-a-method.md",
        "add-a-prior.md",
        "add-a-sampler.md",
        "add-an-objective.md",
        "add-an-operator.md",
    ],
)
def test_a_page_promises_two_files_and_fills_two(page):
    assert len({where.partition(", ")[0] for where in parts(page)}) == 2
    assert "Two files: " in (skeletons.DOCS / page).read_text(encoding="utf-8")


def test_nothing_is_written_into_the_library(package):
    """A copy's files that `add` writes are its own, and so are the folders that they are in."""
    before = {path: path.read_bytes() for path in (skeletons.LIBRARY / "learned").glob("*.py")}
    place = {"with the imports": "import copy\n", "in LEARNED": "LEARNED: dict[str, type[Learned]] = {\n"}
    add(package, "add-a-learned-h.md", place)
    assert {path: path.read_bytes() for path in (skeletons.LIBRARY / "learned").glob("*.py")} == before
    with pytest.raises(AssertionError, match="is there already"):
        add(package, "add-a-learned-h.md", place)
    assert not (package / "learned").is_symlink() and (package / "nn").is_symlink()
