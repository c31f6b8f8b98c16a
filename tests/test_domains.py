"""Kinds of data: nothing below asks for one by its name, another package's works without an edit, and whatever was
saved loads again."""

from __future__ import annotations

import ast
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import deft
from deft import DEFT, Noise, VPCosine, freeze, sample_posterior
from deft.cli.common import domain_for
from deft.core.random import BatchNoise
from deft.domains.image.prior import ImagePrior
from deft.domains.image.tasks import Inpaint
from deft.errors import CheckpointError, InputError
from deft.io.files import load_weights, save_weights
from deft.io.h_files import bundled_h, load_h, save_h
from deft.io.measurements import save_measurement
from deft.io.tasks import TASKS, get_task, make_task
from deft.kinds.domain import Domain, Table, domain_of, domain_of_shape, domains, find_domain
from deft.kinds.records import Task
from deft.learned import LEARNED, Amortised
from deft.learned.factory import Factory
from deft.nn import MLP, UNet
from deft.prior import BUNDLED, FAMILIES, load_prior
from deft.workflow.hub import from_pretrained, save_pretrained
from toys import refused, result, run

SRC, OTHER = Path(deft.__file__).parent, Path(__file__).with_name("data") / "other_domain"

# Nobody names a kind of data.

THEIRS: dict[str, str] = {"cli/protein.py": "the commands of one kind of data"}
"""Files that may still import from a kind of data. It only shrinks."""


def named(path: Path) -> list[str]:
    """The modules of kinds of data that a file imports, early or late, or names in a text."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        texts = (
            [node.module]
            if isinstance(node, ast.ImportFrom) and node.module
            else [a.name for a in node.names]
            if isinstance(node, ast.Import)
            else []
        )
        texts += (
            [node.value]
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and "\n" not in node.value
            else []
        )
        found += [t for text in texts for t in re.findall(r"\bdeft\.domains\.\w+(?:\.\w+)*", text)]
    return found


def test_nobody_outside_its_folder_names_a_kind_of_data():
    files = {str(p.relative_to(SRC)): p for p in SRC.rglob("*.py") if p.relative_to(SRC).parts[0] != "domains"}
    naming = {name: found for name, path in files.items() if (found := named(path))}
    assert not naming.keys() - THEIRS.keys(), {k: v for k, v in naming.items() if k not in THEIRS}
    assert not THEIRS.keys() - naming.keys(), "these have been mended: take them off the list"


# What the bundled ones answer.


@pytest.mark.parametrize("domain", domains().values(), ids=lambda d: d.name)
def test_every_kind_of_data_keeps_the_contract(domain):
    assert domain.name and domain.title and find_domain(domain.name) is domain
    for name, kind in domain.tasks().items():
        task = kind()
        assert (
            kind.name == name
            and isinstance(task, Task)
            and make_task(json.loads(json.dumps(task.config())), domain) == task
        )
    for name, path in domain.bundled_priors().items():
        assert path.is_file() and BUNDLED[name] == path and domain_of(load_prior(name)).name == domain.name
    for task, path in domain.bundled_h().items():
        assert path.is_file() and bundled_h(task) == path
    for row in domain.families().values():
        assert row.about and not row.recognise("nothing/of/that/name")
    assert all(issubclass(kind, deft.HTransform) and kind.__name__ for kind in domain.learned().values())
    for key, metric in domain.metrics().items():
        assert metric.key == key and metric.better in ("high", "low", "")


def test_shapes_tell_kinds_apart():
    assert [d and d.name for d in map(domain_of_shape, ((3, 32, 32), (128, 3), (7,)))] == ["image", "protein", None]
    with pytest.raises(InputError, match=r"unknown kind of data 'imag': did you mean 'image'\?"):
        find_domain("imag")


def test_a_card_says_which_kind_of_data_it_is_of():
    prior = freeze(ImagePrior(UNet(3, 3, (8,), patch=2), VPCosine(), (3, 8, 8)))
    prior.card = {"domain": "protein"}
    assert domain_of(prior) is find_domain("protein")


def test_an_h_for_motifs_loads_as_any_other():
    prior = load_prior("backbone")
    h, task, card = load_h(bundled_h("motif"), prior)
    assert type(h).__name__ == "ChainDEFT" and task.name == "motif" and card["class"] == "chain-deft"
    with pytest.raises(CheckpointError, match="fitted to the prior"):
        load_h(bundled_h("motif"), load_prior("fashion"))
    with pytest.raises(InputError, match="take chain-deft"):
        DEFT.sized(prior, 0.09, 1)


def test_an_h_of_any_kind_of_data_is_shared(tmp_path):
    prior = load_prior("backbone")
    h, task, _ = load_h(bundled_h("motif"), prior)
    save_pretrained(tmp_path / "shared", h, prior, task, prior="backbone", licence="mit")
    text = (tmp_path / "shared" / "README.md").read_text()
    assert (
        "into a sampler of chains given a measurement (scaffold a motif)" in text
        and "pipeline_tag" not in text
        and "in [-1, 1]" not in text
    )
    assert "--measurement measured.npz" in text and "`Motif" not in text and "Motif (single" in text
    assert from_pretrained(tmp_path / "shared")[1] == task


def test_a_motif_is_a_measurement_as_any_other():
    task = get_task("motif", loosest=0.05)
    obs = task.check((40, 3))
    assert obs.y.shape == (1, 40, 3) and bool((obs.likelihood.operator.group > 0).any())
    drawn = task.draw((40, 3), BatchNoise(2, 0))
    assert drawn.shape == (2, 40) and torch.equal(task.build(drawn.float()).group, drawn)
    with pytest.raises(InputError, match="is for chains"):
        task.check((3, 32, 32))


def test_chains_are_read_and_written_as_any_data(tmp_path):
    pytest.importorskip("biotite")
    domain = find_domain("protein")
    bundled = domain.read("chains:validation", (64, 3))
    assert (
        bundled.x.shape[1:] == (64, 3)
        and len(bundled.names) == len(bundled)
        and "longer than the prior's" in bundled.notes[0]
    )
    first = bundled.x[0]
    (path,) = domain.write(tmp_path, "one", first)
    back = domain.read(str(tmp_path), (64, 3))
    assert path.name == "one.pdb" and back.names == ["oneA"] and float((back.x[0] - first).abs().max()) < 1e-3
    with pytest.raises(InputError, match="no chain of 3 residues or more and at most 5"):
        domain.read(str(path), (5, 3))


def test_a_table_of_all_kinds_puts_one_first():
    class Two(Domain):
        name, title = "two", "twos"

        def bundled_priors(self):
            return {"fashion": Path("other"), "more": Path("more")}

    table = Table(lambda d: d.bundled_priors())
    assert table["fashion"] == BUNDLED["fashion"] and "more" not in table and len(table) == len(BUNDLED)
    first = table.of(Two())
    assert (
        first["fashion"] == Path("other")
        and list(first)[:2] == ["fashion", "more"]
        and set(first) == {*BUNDLED, "more"}
    )


# Another package's.


@pytest.fixture
def curves(monkeypatch):
    """The package `curves`, as if it were installed."""
    monkeypatch.syspath_prepend(str(OTHER))
    domains.cache_clear()
    yield find_domain("curve")
    domains.cache_clear()
    for name in [m for m in sys.modules if m.partition(".")[0] == "curves"]:
        sys.modules.pop(name)


@pytest.fixture
def place(curves, tmp_path):
    """A prior of curves as a file, and a folder of curves."""
    torch.manual_seed(0)
    prior = curves.new_prior((2, 16), VPCosine(), "v")
    prior.save(tmp_path / "prior.safetensors", name="rings")
    (tmp_path / "data").mkdir()
    at = torch.linspace(0, 6, 16)
    for i in range(12):
        curves.write(tmp_path / "data", f"{i:02d}", torch.stack([torch.sin(at + i), torch.cos(at + i)]))
    return tmp_path


def test_another_packages_kind_of_data_is_found(curves, place):
    assert [*domains()][-1] == "curve" and "gaps" in TASKS and domain_of_shape((2, 16)) is curves
    prior = load_prior(place / "prior.safetensors")
    assert (
        type(prior).__name__ == "CurvePrior"
        and domain_of(prior) is curves
        and prior.card["name"] == "rings"
        and prior.card["domain"] == "curve"
    )
    assert prior.fingerprint() == load_prior(str(place)).fingerprint() and not any(
        p.requires_grad for p in prior.parameters()
    )


def test_an_h_for_another_kind_of_data(curves, place):
    prior, task = load_prior(place / "prior.safetensors"), get_task("gaps", share=0.5)
    h = DEFT.sized(prior, 20.0, task.feature_channels)
    assert type(h.n1).__name__ == "CurveNet" and type(Amortised.sized(prior, 20.0, 2).net).__name__ == "CurveNet"
    x = curves.read(str(place / "data"), prior.data_shape).x
    recipe = deft.Recipe(steps=4, batch=4, warmup=1, evaluations=1, patience=0, prior_samples=4, cache=8)
    fitted = deft.fit_h(prior, task, str(place / "data"), None, recipe, h=h, folder=place / "run", progress=False)
    save_h(place / "run" / "h.safetensors", fitted.h, prior, task, prior="rings")
    again, back, card = load_h(place / "run", prior)
    assert (
        back == task
        and card["class"] == "deft"
        and all(torch.equal(v, again.state_dict()[k]) for k, v in fitted.h.state_dict().items())
    )
    obs = task.observe(x[:2], Noise(0, 2))
    samples = sample_posterior(prior, again, obs, 3, steps=4).x
    assert samples.shape == (2, 3, 2, 16) and curves.measure(samples, x[:2], obs)["gap"].shape == (2,)


def test_the_commands_know_another_kind_of_data(capsys, place):
    listed = result(capsys, "list")
    assert {"name": "gaps", "of": "curves"}.items() <= next(t for t in listed["tasks"] if t["name"] == "gaps").items()
    assert "tasks of curves" in run(capsys, "list")[1]
    prior, data, out = place / "prior.safetensors", place / "data", place / "run"
    assert "CurveNet" in run(capsys, "info", prior)[1]
    fitted = result(
        capsys,
        "fit",
        "--prior",
        prior,
        "--data",
        data,
        "--out",
        out,
        "--size",
        20,
        "--steps",
        4,
        "--batch",
        4,
        "--prior-samples",
        4,
        "--cache",
        8,
        "--device",
        "cpu",
    )
    assert fitted["card"]["task"]["name"] == "gaps" and "curves)" in fitted["card"]["data"]
    measured = place / "y.npz"
    result(capsys, "measure", "--task", "gaps", "--data", data, "--images", 2, "--out", measured)
    drawn = result(
        capsys,
        "sample",
        out,
        "--measurement",
        measured,
        "--row",
        1,
        "-n",
        3,
        "--steps",
        4,
        "--out",
        place / "drawn",
        "--device",
        "cpu",
    )
    assert {"sample-000.csv", "sample-002.csv", "mean.csv", "sheet.png", "samples.npz", "sample.json"} <= {
        p.name for p in (place / "drawn").iterdir()
    }
    with np.load(place / "drawn" / "samples.npz") as kept:
        np.testing.assert_allclose(kept["mean"], np.loadtxt(place / "drawn" / "mean.csv", delimiter=",").T, rtol=1e-5)
        np.testing.assert_allclose(kept["spread"], kept["samples"].std(0, ddof=1), rtol=1e-4, atol=1e-6)
    assert drawn["samples"] == 3 and drawn["residual"] >= 0
    with np.load(measured) as held:
        np.savez(
            place / "pairs.npz", x=held["truth"].repeat(6, 0), y=held["y"].repeat(6, 0), mask=held["mask"].repeat(6, 0)
        )
    paired = result(
        capsys,
        "fit",
        "--prior",
        prior,
        "--pairs",
        place / "pairs.npz",
        "--out",
        place / "paired",
        "--size",
        20,
        "--steps",
        2,
        "--batch",
        4,
        "--device",
        "cpu",
    )
    assert paired["card"]["task"]["name"] == "gaps"
    few = ("--images", 2, "--samples", 2, "--steps", 2, "--methods", "deft", "--device", "cpu")
    code, said, err = run(capsys, "evaluate", out, "--data", data, *few, "--out", place / "report")
    assert code == 0, err
    assert "samples.npz" in said
    assert "samples.png" not in said, "of this kind of data there is no picture of a comparison"
    training_free = result(
        capsys,
        "sample",
        "--prior",
        prior,
        "--measurement",
        measured,
        "--method",
        "pigdm",
        "-n",
        2,
        "--steps",
        4,
        "--out",
        place / "free",
        "--device",
        "cpu",
    )
    assert training_free["task"]["name"] == "gaps"
    trained = result(
        capsys,
        "prior",
        "train",
        "--kind",
        "curve",
        "--data",
        data,
        "--out",
        place / "new",
        "--steps",
        4,
        "--batch",
        4,
        "--evaluations",
        1,
        "--device",
        "cpu",
    )
    assert (
        trained["card"]["network"]["class"] == "CurveNet" and type(load_prior(place / "new")).__name__ == "CurvePrior"
    )


def test_what_a_kind_of_data_has_not_is_one_line(capsys, place):
    prior, data = place / "prior.safetensors", place / "data"
    assert "--resize is not for curves" in refused(
        capsys, "fit", "--prior", prior, "--data", data, "--resize", "--out", place / "a"
    )
    assert "the task inpaint is for images, and the prior makes curves, which have gaps" in refused(
        capsys, "fit", "--prior", prior, "--task", "inpaint", "--data", data, "--out", place / "b"
    )
    (place / "photo.png").write_bytes(b"no")
    assert "a measurement of gaps is an .npz with y" in refused(
        capsys, "sample", "--prior", prior, "--measurement", place / "photo.png", "--out", place / "c"
    )
    assert "--widths is not for curves" in refused(
        capsys, "prior", "train", "--kind", "curve", "--data", data, "--widths", "8", "--out", place / "d"
    )
    flat = freeze(deft.NetworkDenoiser(MLP(5, 5), VPCosine(), (5,), "v"))
    with pytest.raises(
        InputError,
        match=(
            r"samples of shape \(5,\), which no kind of data here owns \(images \(image\); chains \(protein\); .*curves"
            r" \(curve\)\)"
        ),
    ):
        domain_for(flat)


def test_a_kind_of_data_that_cannot_be_had_is_named(monkeypatch, capsys, tmp_path):
    info = tmp_path / "broken-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text("[deft.domains]\nbroken = broken_domain:DOMAIN\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    domains.cache_clear()
    try:
        said = refused(capsys, "list")
        assert "the kind of data 'broken' (broken_domain:DOMAIN) cannot be imported: ModuleNotFoundError" in said
        (tmp_path / "broken_domain.py").write_text("DOMAIN = 3\n")
        with pytest.raises(InputError, match=r"3 is registered as a kind of data, and is no deft.kinds.domain.Domain"):
            domains()
        (tmp_path / "broken_domain.py").write_text(
            "from deft.kinds.domain import Domain\nclass D(Domain):\n    name = 'image'\n    title = 'others'\nDOMAIN ="
            " D()\n"
        )
        sys.modules.pop("broken_domain")
        with pytest.raises(
            InputError, match=r"two kinds of data are named 'image': deft\.domains\.image\.domain and broken_domain"
        ):
            domains()
    finally:
        sys.modules.pop("broken_domain", None)
        domains.cache_clear()


def test_a_file_of_an_unknown_network_says_what_to_install(curves, place):
    tensors, card = load_weights(place / "prior.safetensors")
    save_weights(place / "odd.safetensors", tensors, card | {"network": {"class": "WaveNet"}})
    with pytest.raises(CheckpointError, match=r"network of the class 'WaveNet'.*install the package"):
        load_prior(place / "odd.safetensors")
    assert list(FAMILIES)[:3] == ["remote", "deft", "diffusers"]


# Whatever was saved loads again.

SHAPE = (1, 8, 8)
CODE = '''
from dataclasses import dataclass

from torch import nn

from deft import DEFT
from deft.domains.image.tasks import Inpaint


class Net(nn.Module):
    def __init__(self, inputs, outputs, width, depth=1, note=None):
        super().__init__()
        middle = (nn.Conv2d(width, width, 1) for _ in range(depth))
        layers = [nn.Conv2d(inputs, width, 1), *middle, nn.Conv2d(width, outputs, 1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, features, time):
        return self.layers(features)


class Mine(DEFT):
    """An h with a form of its own."""


@dataclass(frozen=True)
class Corner(Inpaint):
    """A task of one's own."""

    name = "corner"
    times: int = 2


class Forgetful(Inpaint):
    name = "forgetful"

    def config(self):
        return {"name": "forgetful"}


make = lambda inputs, outputs, width: Net(inputs, outputs, width)
'''


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A module of the user's own."""
    (tmp_path / "my_code.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(tmp_path))
    import my_code

    yield my_code
    sys.modules.pop("my_code")


@pytest.fixture(scope="module")
def prior():
    torch.manual_seed(0)
    return freeze(ImagePrior(UNet(1, 1, (8,), patch=2), VPCosine(), SHAPE))


def cases(mine):
    """Name of what a card names -> (h, task)."""
    return {
        "my_code:Net": (DEFT(SHAPE, 2, 4, net=Factory(mine.Net, depth=2)), Inpaint()),
        "my_code:Mine": (mine.Mine(SHAPE, 2, 4), Inpaint()),
        "my_code:Corner": (DEFT(SHAPE, 2, 4), mine.Corner(times=3)),
    }


@pytest.mark.parametrize("name", ["my_code:Net", "my_code:Mine", "my_code:Corner"])
def test_code_of_ones_own_is_named_and_loads_with_trust(mine, prior, tmp_path, name):
    h, task = cases(mine)[name]
    path = tmp_path / "h.safetensors"
    card = save_h(path, h, prior, task)
    assert name in json.dumps(card) and sys.modules.pop("my_code", None) is not None
    with pytest.raises(
        CheckpointError,
        match=(
            rf"names code of its own, the (network|class of h|task) {name}.*--trust-code \(load_h\(\.\.\.,"
            r" trust_code=True\)\)"
        ),
    ) as refusal:
        load_h(path, prior)
    assert "\n" not in str(refusal.value) and "my_code" not in sys.modules, "nothing was imported"
    again, back, _ = load_h(path, prior, trust_code=True)
    assert (
        type(again).__name__ == type(h).__name__
        and type(back).__name__ == type(task).__name__
        and back.config() == task.config()
    )
    assert again.config() == h.config() and all(
        torch.equal(v, h.state_dict()[k]) for k, v in again.state_dict().items()
    )


def test_what_is_known_by_name_needs_no_trust(prior, tmp_path):
    card = save_h(tmp_path / "h.safetensors", DEFT(SHAPE, 2, 4), prior, Inpaint())
    assert card["class"] == "deft" and "task_code" not in card and "net" not in card["h"] and "domain" not in card["h"]
    assert type(load_h(tmp_path / "h.safetensors", prior)[0]) is DEFT
    for kind in LEARNED:
        assert ":" not in kind


def test_a_network_of_ones_own_is_sized(mine, prior):
    small, large = (DEFT.sized(prior, size, 2, net=mine.Net) for size in (0.2, 0.8))
    assert type(small.n1) is mine.Net and small.width < large.width and repr(small.factory) == "Factory(my_code:Net)"
    begun = DEFT.init_like(small, 3)
    assert type(begun.n1) is mine.Net and torch.equal(begun.n1.layers[0].weight[:, :5], small.n1.layers[0].weight)


def test_what_cannot_be_named_is_refused_in_one_line(mine, prior, tmp_path):
    class Local(nn.Module):
        def __init__(self, inputs, outputs, width):
            super().__init__()
            self.layer = nn.Conv2d(inputs, outputs, 1)

        def forward(self, features, time):
            return self.layer(features)

    class LocalDEFT(DEFT):
        pass

    script = type("Script", (DEFT,), {"__module__": "__main__"})
    for h, task, why in (
        (
            DEFT(SHAPE, 2, 4, net=mine.Net(5, 2, 4)),
            Inpaint(),
            r"its N1 is a network \(net=\).*give the class or function that makes it",
        ),
        (
            DEFT(SHAPE, 2, 4, net=mine.make),
            Inpaint(),
            "is a lambda, which no file can name: put it into a module of its own",
        ),
        (DEFT(SHAPE, 2, 4, net=Local), Inpaint(), "Local is defined inside a function"),
        (LocalDEFT(SHAPE, 2, 4), Inpaint(), "LocalDEFT is defined inside a function"),
        (script(SHAPE, 2, 4), Inpaint(), r"Script is defined in the script or notebook that runs \(__main__\)"),
        (
            DEFT(SHAPE, 2, 4, net=Factory(mine.Net, note=object())),
            Inpaint(),
            "text, finite numbers, lists and tables alone",
        ),
        (DEFT(SHAPE, 2, 4), mine.Forgetful(smallest=0.3), "let config\\(\\) return the arguments"),
    ):
        with pytest.raises(InputError, match=why) as refusal:
            save_h(tmp_path / "h.safetensors", h, prior, task)
        assert "\n" not in str(refusal.value) and not (tmp_path / "h.safetensors").exists()


def test_a_name_that_is_gone_is_said(mine, prior, tmp_path):
    save_h(tmp_path / "h.safetensors", mine.Mine(SHAPE, 2, 4), prior, Inpaint())
    tensors, card = load_weights(tmp_path / "h.safetensors")
    for name, says in (
        ("my_code:Other", "my_code has no class or function 'Other'"),
        ("gone_code:Mine", "gone_code:Mine cannot be imported"),
        ("my_code:Net", "no deft.learned.Learned"),
    ):
        save_weights(tmp_path / "odd.safetensors", tensors, card | {"class": name})
        with pytest.raises(CheckpointError, match=says):
            load_h(tmp_path / "odd.safetensors", prior, trust_code=True)


def test_the_command_line_asks_for_trust(capsys, mine, prior, tmp_path):
    prior.save(tmp_path / "prior.safetensors", name="toy")
    (tmp_path / "run").mkdir()
    save_h(
        tmp_path / "run" / "h.safetensors",
        DEFT(SHAPE, 2, 4, net=mine.Net),
        prior,
        Inpaint(),
        prior=str(tmp_path / "prior.safetensors"),
    )
    assert "my_code:Net" in run(capsys, "info", tmp_path / "run")[1]
    picture = torch.zeros(1, *SHAPE)
    obs = Inpaint().observe(picture, Noise(0, 1))
    save_measurement(tmp_path / "y.npz", obs, Inpaint())
    asked = ("sample", tmp_path / "run", "--measurement", tmp_path / "y.npz", "-n", 1, "--steps", 2, "--device", "cpu")
    assert "names code of its own, the network my_code:Net" in refused(capsys, *asked, "--out", tmp_path / "a")
    assert result(capsys, *asked, "--trust-code", "--out", tmp_path / "b")["samples"] == 1
