"""Starting a fit from another h: what is copied, what is refused, and that it is worth something."""

from __future__ import annotations

import pytest
import torch

import deft
from deft.bench.jobs import fit_job
from deft.bench.studies import make_study
from deft.core.random import BatchNoise, Noise
from deft.domains.image.data import fashion
from deft.domains.image.tasks import get_task
from deft.errors import InputError
from deft.io.h_files import bundled_h, load_h, start_from
from deft.learned import DEFT
from deft.prior import load_prior
from deft.train.data import Clean
from toys import pictures, refused, result, save_pictures

SHAPE = (1, 32, 32)


def fitted(lift, width=4, seed=0):
    torch.manual_seed(seed)
    h = DEFT(SHAPE, lift, width)
    with torch.no_grad():
        for p in h.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return h


def ask(h, task):
    prior = load_prior("fashion")
    x = fashion("validation").x[:3]
    obs = task.observe(x, Noise(0, 3))
    t = torch.full((3,), 0.4)
    return h(prior(x, t), obs)


def test_of_the_same_task_it_is_the_same_h():
    task, other = get_task("inpaint"), fitted(2)
    torch.testing.assert_close(ask(DEFT.init_like(other, 2), task), ask(other, task))


def test_fewer_and_more_views_of_y():
    """Weights of views that are not there any more are dropped, those of new ones start at 0."""
    two = fitted(2)
    one = DEFT.init_like(two, 1)
    three = DEFT.init_like(two, 3)
    first = lambda h: dict(h.named_parameters())["n1.inlet.weight"]  # noqa: E731
    per = 4  # a view's channels after folding 2x2
    assert first(one).shape[1] == 4 * per and first(three).shape[1] == 6 * per
    assert torch.equal(first(one), first(two)[:, : 4 * per]) and torch.equal(first(three)[:, : 5 * per], first(two))
    assert not first(three)[:, 5 * per :].any()
    for name, p in two.named_parameters():
        if name != "n1.inlet.weight":
            assert torch.equal(dict(one.named_parameters())[name], p), name


def test_another_form_is_refused():
    with pytest.raises(InputError, match="width 4 there, 6 here"):
        DEFT(SHAPE, 2, 6).initialise_from(fitted(2))
    with pytest.raises(InputError, match="units v there, eps here"):
        DEFT(SHAPE, 2, 4, units="eps").initialise_from(fitted(2))
    with pytest.raises(InputError, match=r"no h for mri is bundled, only for .*inpaint"):
        bundled_h("mri")


def test_the_bundled_h_is_a_better_start_than_none():
    """Before a single step, and though it was fitted to another task: brush strokes instead of a box."""
    prior, task = load_prior("fashion"), get_task("inpaint-freeform")
    objective = deft.DenoisingObjective(prior)
    batch = Clean(fashion("validation").x[:48], task).draw(48, 0, 0, torch.device("cpu"))
    warm, cold = start_from("inpaint", prior, 2), DEFT.sized(prior, 0.09, 2).calibrate(prior, fashion("fit").x[:32])
    with torch.no_grad():
        losses = [float(objective(h, batch, BatchNoise(48, 1)).value) for h in (warm, cold)]
    assert losses[0] < 0.7 * losses[1], losses


def test_command_line(capsys, tmp_path):
    photos = save_pictures(tmp_path / "photos", pictures(8, side=32))
    first = (
        "fit",
        "--data",
        photos,
        "--task",
        "inpaint",
        "--width",
        "4",
        "--steps",
        "1",
        "--batch",
        "2",
        "--bank",
        "0",
        "--out",
        tmp_path / "a",
    )
    result(capsys, *first)
    found = result(
        capsys,
        "fit",
        "--data",
        photos,
        "--task",
        "sr4",
        "--start-from",
        tmp_path / "a",
        "--steps",
        "1",
        "--batch",
        "2",
        "--bank",
        "0",
        "--out",
        tmp_path / "b",
    )
    assert (
        found["card"]["started_from"] == str(tmp_path / "a")
        and found["card"]["h"]["width"] == 4
        and found["card"]["h"]["feature_channels"] == 1
    )
    load_h(tmp_path / "b", load_prior("fashion"))
    again = ("fit", "--data", photos, "--steps", "1", "--out", tmp_path / "c", "--start-from")
    assert "no h for nothing is bundled" in refused(capsys, *again, "nothing")
    assert "leave --method and --width out" in refused(capsys, *again, tmp_path / "a", "--width", "8")


def test_a_comparison_names_the_start_only_if_there_is_one():
    """So that the pieces of older comparisons are kept."""
    table = {
        "on": [{"prior": "fashion", "tasks": ["inpaint"], "arms": ["deft", "warm"]}],
        "arms": {"warm": {"method": "deft", "fit": {"start_from": "inpaint"}}},
    }
    study = make_study(table)
    cold, warm = (
        fit_job(study.on[0], get_task("inpaint").config(), study.entries[a], 0).settings["fit"]
        for a in ("deft", "warm")
    )
    assert "start_from" not in cold and warm["start_from"] == "inpaint"
