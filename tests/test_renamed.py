"""Methods, attributes and arguments by their names of 0.1: called, defined in subclasses, and read from cards."""

from __future__ import annotations

import importlib
import inspect

import pytest
import torch

import deft
import old_names
from deft._renamed import ARGUMENTS, MEMBERS, VALUES, new_settings
from deft.cli.fit import fit
from deft.errors import InputError
from deft.learned.deft import DEFT
from deft.runtime.messages import log
from deft.testing import check_operator


def class_of(name):
    module, _, kind = name.rpartition(".")
    return getattr(importlib.import_module(f"deft.{module}"), kind)


@pytest.mark.parametrize(
    ("kind", "old", "new"), [(k, old, new) for k, row in MEMBERS.items() for old, new in row.items()]
)
def test_no_library_class_defines_an_old_name(kind, old, new):
    """The old one is an alias, in the class and in all that come from it."""
    kinds = [class_of(kind)]
    for one in kinds:
        kinds += one.__subclasses__()
        found = vars(one).get(old)
        assert found is None or type(found).__module__ == "deft._renamed" or not one.__module__.startswith("deft."), (
            one,
            old,
        )
    assert any(new in vars(one) or new in inspect.get_annotations(one) for one in kinds)


class Old(deft.LinearOperator):
    """y = x without its first channel, written for 0.1."""

    lift_channels = 2

    def __call__(self, x):
        return x * self.seen(x)

    def adjoint(self, y):
        return self(y)

    def seen(self, x):
        return torch.tensor([0.0, 1.0]).to(x).reshape(1, 2, *[1] * (x.ndim - 2))

    def lift(self, y):
        return torch.cat([super().lift(y), self.seen(y).expand_as(y)], 1)

    def restrict(self, y):
        return y * self.seen(y)

    def count(self, y):
        return torch.full((len(y),), float(y[0].numel() // 2), dtype=y.dtype)


def test_an_operator_written_for_0_1_is_used_as_it_says():
    check_operator(Old(), (2, 3, 4))
    obs = deft.Observation(Old()(torch.ones(3, 2, 3, 4)), deft.Gaussian(Old(), 0.1))
    assert obs.features().shape == (3, 4, 3, 4) and obs.likelihood.feature_channels == 2
    assert obs.likelihood.number_of_measurements(obs.y).tolist() == [12, 12, 12]
    assert obs.likelihood.measured_part(torch.ones(1, 2, 3, 4)).sum() == 12


def test_defining_an_old_name_warns_at_the_class():
    with pytest.warns(DeprecationWarning) as found:

        class Mine(Old):
            def restrict(self, y):
                return super().restrict(y)

    (warning,) = [w for w in found if "Mine.restrict is now measured_part" in str(w.message)]
    assert warning.filename == __file__
    # super() is Old's, not itself
    assert torch.equal(Mine().measured_part(torch.ones(1, 2, 2, 2)), Old().measured_part(torch.ones(1, 2, 2, 2)))


def test_calls_by_old_names_warn_and_do_the_same():
    op = deft.Mask(torch.tensor([[1.0, 0.0, 1.0]]))
    y = torch.tensor([[1.0, 2.0, 3.0]])
    like = deft.Gaussian(op, 0.1)
    obs = deft.Observation(op.measured_part(y), like)
    with pytest.warns(DeprecationWarning, match="Mask.lift is now features"):
        assert torch.equal(op.lift(y), op.features(y))
    with pytest.warns(DeprecationWarning, match="count is now number_of_measurements"):
        assert op.count(y).tolist() == [2]
    with pytest.warns(DeprecationWarning, match="lift_channels is now feature_channels"):
        assert (op.lift_channels, like.lift_channels, deft.Mask.lift_channels) == (2, 2, 2)
    with pytest.warns(DeprecationWarning, match="Gaussian.pull is now approx_mean_update"):
        assert torch.equal(like.pull(obs.y, y, torch.ones(1, 1)), like.approx_mean_update(obs.y, y, torch.ones(1, 1)))
    with pytest.warns(DeprecationWarning, match="Observation.lift is now features"):
        assert torch.equal(obs.lift(), obs.features())
    with pytest.warns(DeprecationWarning, match="inside is now to_latent") as found:
        assert deft.MeanDenoiser(lambda x, a, s: x, deft.VPCosine(), (3,)).inside(obs) is obs
    assert {w.filename for w in found} == {__file__}


def test_what_an_object_sets_by_an_old_name_counts():
    class Mine(deft.LinearOperator):
        def __init__(self):
            self.lift_channels = 3

        def __call__(self, x):
            return x

        def adjoint(self, y):
            return y

    with pytest.warns(DeprecationWarning, match="lift_channels"):
        assert deft.Gaussian(Mine(), 0.1).feature_channels == 3


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_learned_h_by_its_old_arguments():
    old, new = DEFT((1, 8, 8), lift_channels=2, width=4, guide="pull"), DEFT((1, 8, 8), feature_channels=2, width=4)
    assert old.config() == new.config() and old.guide == "preconditioned" and old.lift_channels == 2
    assert DEFT.like(old, 3).feature_channels == 3 and old.adopt(new) is old
    assert deft.Clipped(deft.PiGDM(), most=2.0).limit == deft.Clipped(deft.PiGDM(), limit=2.0).most == 2.0


def test_the_command_takes_the_old_guide():
    guide = next(p for p in fit.params if p.name == "guide")
    assert guide.type.convert("pull", guide, None) == "preconditioned"
    assert guide.type.convert("score", guide, None) == "score"
    with pytest.raises(InputError, match="unknown guide"):
        guide.type.convert("push", guide, None)


def test_settings_of_an_old_card():
    old = {"event_shape": [1, 8, 8], "lift_channels": 2, "guide": "pull", "h": {"lift_channels": 1}}
    assert new_settings(old) == {
        "event_shape": [1, 8, 8],
        "feature_channels": 2,
        "guide": "preconditioned",
        "h": {"feature_channels": 1},
    }
    assert new_settings({"guide": "score"}) == {"guide": "score"}

    class Own:
        def __init__(self, lift_channels):
            pass

    assert new_settings({"lift_channels": 2}, Own) == {"lift_channels": 2}  # a class of the user's that still takes it


def test_old_channels_of_messages_are_taken():
    said = []
    prior = deft.load_prior("fashion")
    with pytest.warns(DeprecationWarning, match="the argument log of DEFT.sized goes"):
        DEFT.sized(prior, 0.09, 2, log=said.append)
    assert len(said) == 1 and "parameters" in said[0] and not log.handlers


@pytest.mark.parametrize(("name", "old", "new"), [(k, *v) for k, v in old_names.FUNCTIONS.items()])
def test_functions_take_the_old_argument(name, old, new):
    function = class_of(name)
    function = function.__init__ if inspect.isclass(function) else function
    assert new in inspect.signature(function).parameters and old not in inspect.signature(function).parameters
    with pytest.warns(DeprecationWarning, match=f"the argument {old} of .* is now {new}"), pytest.raises(TypeError):
        function(nothing_takes_this=1, **{old: None})


def test_the_tables_name_what_there_is():
    for name, row in ARGUMENTS.items():
        kinds = [class_of(name)]
        for one in kinds:
            kinds += one.__subclasses__()
        functions = [
            f
            for one in kinds
            for f in (one.__init__, getattr(one, "sized", None), getattr(one, "calibrate", None))
            if f
        ]
        for new in row.values():
            assert any(new in inspect.signature(f).parameters for f in functions), new
    assert all(new in deft.learned.deft.GUIDES for (setting, _), new in VALUES.items() if setting == "guide")
