"""Settings of methods and samplers: read by their types, written as they always were."""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Literal, get_type_hints

import pytest

import deft
from deft.errors import InputError
from deft.methods import METHODS, TUNED, Settings, make_sampler, plan, sampler_options, setting
from deft.samplers import DDIM, SAMPLERS, Sampler


@dataclass(frozen=True)
class Every(Settings):
    """One of each type."""

    strength: float = setting(1.0, "of it", key="lambda")
    repeats: int = setting(3, "of a step")
    fresh: bool = setting(True, "each time")
    rule: Literal["one", "two"] = setting("one", "for a step")


@pytest.mark.parametrize("name", METHODS)
def test_settings_are_typed_and_described(name):
    """Flags are bool, counts int; every field has a type that a command line can give, and words for people."""
    kind = type(METHODS[name].settings)
    hints = get_type_hints(kind)
    assert all(hints[f.name] in (bool, int, float) and type(f.default) is hints[f.name] for f in fields(kind))
    assert all(kind.about().values()) and list(METHODS[name].settings) == list(kind.about())


def test_what_commands_and_files_give_is_read():
    texts = Every.read({"lambda": "0.5", "repeats": "4", "fresh": "no", "rule": "two"}, "every")
    assert texts == Every(0.5, 4, False, "two")
    numbers = Every.read({"strength": 2, "repeats": 4.0, "fresh": 0.0}, "every")  # a field's own name serves as well
    assert numbers == Every(2.0, 4, False) and type(numbers.repeats) is int and type(numbers.fresh) is bool
    assert Every.read({"lambda": "inf"}, "every").strength == math.inf


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"repeats": 2.5}, "setting repeats of every is a whole number, got 2.5"),
        ({"repeats": "many"}, "is a whole number, got 'many'"),
        ({"lambda": "much"}, "setting lambda of every is a number, got 'much'"),
        ({"lambda": True}, "is a number, got True"),
        ({"lambda": math.nan}, "is a number"),
        ({"fresh": 2.0}, "is yes or no"),
        ({"fresh": "maybe"}, "is yes or no"),
        ({"rule": "tow"}, "'tow': did you mean 'two'"),
        ({"repeat": 1}, "unknown setting 'repeat' of every: did you mean 'repeats'"),
    ],
)
def test_what_cannot_be_read(values, words):
    with pytest.raises(InputError, match=re.escape(words)):
        Every.read(values, "every")


def test_as_a_mapping_they_are_the_numbers_of_cards():
    """A flag is 1.0 or 0.0 and a number keeps the form it was given in (4 or 4.0), because hashes of results depend on
    the text."""
    assert json.dumps(dict(Every())) == '{"lambda": 1.0, "repeats": 3, "fresh": 1.0, "rule": "one"}'
    given = Every.read({"lambda": 2, "repeats": 4.0, "fresh": 0}, "every")
    assert json.dumps(dict(given)) == '{"lambda": 2, "repeats": 4.0, "fresh": 0, "rule": "one"}'
    assert (
        json.dumps(dict(Every.read({"repeats": "4", "fresh": True}, "every")))
        == '{"lambda": 1.0, "repeats": 4, "fresh": 1.0, "rule": "one"}'
    )


CARDS = "c7fecfdb0750"  # of all that follow, as 0.1.0's table wrote them
NEW = ("deft-mmps", "covariance", "deft-covariance", "ddnm", "mgps", "cpigdm", "flower")
"""Methods that 0.1.0 did not have."""


def test_plans_write_the_cards_that_they_always_wrote():
    """Every method's own settings, and every value that `deft compare` tries."""
    found = []
    for name, method in METHODS.items():
        if name in NEW:
            continue
        found.append(plan(name).config())
        for key, values in method.choices().items():
            found += [
                plan(
                    name, **({key: v} if key in ("sampler", "eta", "steps", "spacing") else {"settings": {key: v}})
                ).config()
                for v in values
            ]
    assert hashlib.sha256(json.dumps(found).encode()).hexdigest()[:12] == CARDS


@pytest.mark.parametrize("task", TUNED)
def test_tuned_settings_are_settings_of_their_methods(task):
    """With a card that is the same plan again."""
    for name in TUNED[task]:
        made = plan(name, task)
        config = made.config()
        assert plan(config.pop("method"), **config) == made


def test_a_card_is_a_plan_again():
    for name in METHODS:
        made = plan(name, "inpaint")
        config = made.config()
        assert plan(config.pop("method"), **config) == made and eval(repr(made)) == made


def test_flags_do_what_they_did():
    assert plan("mcg").settings.fresh is True and plan("mcg", settings={"fresh": 0.0}).settings.fresh is False
    assert plan("repaint", settings={"fresh": "false", "repeats": 2.0}).settings.repeats == 2
    assert plan("deft-smc", settings={"apart": "yes"}).settings.independent is True


# samplers with settings


class Half(DDIM):
    """DDIM with a number to set."""

    def __init__(
        self, eta: float = 0.0, share: float = 1.0, kind: Literal["a", "b"] = "a", start: Sampler | None = None
    ):
        super().__init__(eta)
        self.share, self.kind = share, kind


def test_settings_of_a_sampler(monkeypatch):
    monkeypatch.setitem(SAMPLERS, "half", Half)
    sampler_options.cache_clear()
    assert sampler_options("half") == {"share": float, "kind": Literal["a", "b"]} and sampler_options("ddim") == {}
    made = plan("gradient", sampler="half", settings={"share": "0.5", "data_std": 0.7})
    sampler = made.make_sampler()
    assert (sampler.share, sampler.eta, made.settings.data_std) == (0.5, 1.0, 0.7)
    assert made.config()["settings"] == {"scale": 1.0, "data_std": 0.7, "share": 0.5}
    config = made.config()
    assert plan(config.pop("method"), **config).make_sampler().share == 0.5
    with pytest.raises(InputError, match="setting 'shore' of gradient with half: did you mean 'share'"):
        plan("gradient", sampler="half", settings={"shore": 1.0})
    with pytest.raises(InputError, match="setting share of half is a number"):
        plan("gradient", sampler="half", settings={"share": "x"})
    with pytest.raises(InputError, match=r"unknown setting .* of half"):
        make_sampler("half", settings={"eta": 0.5})
    with pytest.raises(InputError, match=r"setting .* of ddrm"):  # it has steps of its own
        plan("ddrm", sampler="half", settings={"share": 0.5})


def test_the_sampler_of_a_plan_is_a_name_and_that_of_sample_an_object():
    """The other one is an error that says so."""
    prior = deft.MeanDenoiser(lambda x, a, s: a / (a**2 + s**2) * x, deft.VPCosine(), (2,))
    with pytest.raises(InputError, match=r"a name here .*heun.* got DDIM.*deft\.sample_posterior"):
        plan("deft", sampler=DDIM())
    with pytest.raises(InputError, match=r"sampler = 'heun': expected a Sampler, an object"):
        deft.sample(prior, 2, sampler="heun", steps=2)


def test_a_method_may_begin_later():
    """At a sigma/alpha among its settings, with as many steps; even times stay even."""
    prior = deft.MeanDenoiser(lambda x, a, s: a / (a**2 + s**2) * x, deft.RectifiedFlow(), (2,))
    whole = plan("cpigdm", settings={"start": "inf"}, steps=8).grid(prior)
    assert [level.t for level in whole] == [level.t for level in plan("ddrm", steps=8).grid(prior)]
    grid = plan("cpigdm", settings={"start": 1.0}, steps=8).grid(prior)
    assert len(grid) == 9 and grid[-1] == whole[-1] and grid[0].sigma / grid[0].alpha == pytest.approx(1.0)
    assert [a.t - b.t for a, b in pairwise(grid[:-1])] == pytest.approx([1 / 16] * 7, rel=1e-2)
    assert plan("cpigdm", settings={"start": 1e9}, steps=8).grid(prior) == whole


def test_old_names_of_the_table_warn():
    with pytest.warns(DeprecationWarning, match="why_unsupported"):
        assert METHODS["prior"].misfit(None) is None
    with pytest.warns(DeprecationWarning, match="requires"):
        assert METHODS["ddrm"].needs == "linear"
