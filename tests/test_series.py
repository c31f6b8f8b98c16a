"""Series [C, L]: files in people's units, gaps that nobody fills, tasks, and the commands from a CSV to a fan chart."""

from __future__ import annotations

import csv
import re
import shlex
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import torch

import deft
import deft.cli.prior
import deft.domains.series.pictures as pictures
from deft.core.random import BatchNoise
from deft.denoiser import NetworkDenoiser
from deft.domains.series.clock import Clock, clock_of
from deft.domains.series.domain import SeriesDomain
from deft.domains.series.prior import SeriesPrior, new_prior
from deft.domains.series.reading import Reading, from_frame, from_tables, read
from deft.domains.series.tables import Table, read_csv, read_ts
from deft.domains.series.tasks import TASKS
from deft.domains.series.units import Units
from deft.errors import CheckpointError, InputError
from deft.io.prior_files import BUNDLED
from deft.io.tasks import get_task
from deft.kinds.domain import View, domain_of, domain_of_shape, domains, find_domain
from deft.nn import UNet
from deft.nn.unet import HalfUNet, folded, unfolded
from deft.recipe.data import complete, hold_out, training_data
from deft.testing import check_operator
from deft.train.data import Clean
from deft.train.denoising import PriorObjective
from deft.train.protocols import Batch
from toys import refused, result, run

START = datetime(2020, 1, 1)


def write_csv(path, values, names=("warm", "load"), first=0, separator=","):
    """values [T, C], NaN as an empty cell, hour by hour."""
    lines = [separator.join(["time", *names])]
    for i, row in enumerate(values):
        cells = ["" if np.isnan(v) else f"{v:.6g}" for v in row]
        lines.append(separator.join([str(START + timedelta(hours=first + i)), *cells]))
    path.write_text("\n".join(lines) + "\n")
    return path


def waves(hours=240, seed=0):
    """[T, 2]: a wave about 20, and a skewed one that is never below 0."""
    rng, at = np.random.default_rng(seed), np.arange(hours)
    warm = 20 + 5 * np.sin(2 * np.pi * at / 24) + 0.3 * rng.normal(size=hours)
    return np.stack([warm, np.exp(0.8 * np.cos(2 * np.pi * at / 24) + 0.8 * rng.normal(size=hours))], 1)


# One network of one, two or three sides.


@pytest.mark.parametrize(("dims", "sides"), [(1, (13,)), (1, (1,)), (2, (5, 9)), (3, (3, 4, 5))])
def test_a_unet_of_any_number_of_sides_takes_odd_ones(dims, sides):
    torch.manual_seed(0)
    net = UNet(3, 2, (8, 8), attention=(True, False), dims=dims)
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.2)
    x, time = torch.randn(2, 3, *sides), torch.zeros(2)
    out = net(x, time)
    assert out.shape == (2, 2, *sides) and bool(out.any())
    assert ("dims" in net.config) == (dims != 2), "cards of images are what they were"
    torch.testing.assert_close(net(x[:1], time[:1]), out[:1])
    assert HalfUNet(3, 4, (8, 8), dims=dims)(x, time).shape == (2, 4)


def test_folding_is_that_of_images_and_has_a_way_back():
    x = torch.arange(2 * 3 * 4 * 8.0).reshape(2, 3, 4, 8)
    # of images PyTorch's own; a volume of one slice, unfolded along the others, is an image of the same order
    assert torch.equal(folded(x, 2), torch.nn.functional.pixel_unshuffle(x, 2))
    for shape in ((2, 3, 8), (2, 3, 4, 8), (2, 3, 4, 2, 8)):
        y = torch.randn(shape)
        assert folded(y, 2).shape[1] == 3 * 2 ** (len(shape) - 2)
        assert torch.equal(unfolded(folded(y, 2), 2), y)


# Units are of the prior's card.


def bound(count=2):
    units = Units(("warm", "load"), (20.0, 0.5), (5.0, 0.25), ("", "log1p"), 3600.0, "date")
    return find_domain("series").with_card({"domain": "series", **units.card()}), units


def test_units_go_there_and_back():
    _, units = bound()
    v = np.array([[10.0, 20.0, 31.5], [0.0, 0.7, 900.0]])
    np.testing.assert_allclose(units.to_units(units.to_model(v)), v, rtol=1e-5, atol=1e-6)
    assert units.to_model(v)[0].tolist() == pytest.approx([-2.0, 0.0, 2.3])
    assert float(units.to_units(torch.full((2, 1), -50.0))[1]) == 0, "what is seen as a logarithm is never below 0"


def test_a_kind_of_data_is_bound_to_the_card(tmp_path):
    prior = new_prior((2, 24), deft.VPCosine(), widths=(8, 8))
    assert domain_of(prior).units is None and domain_of(prior) is find_domain("series")
    _, units = bound()
    prior.save(tmp_path / "prior.safetensors", **units.card())
    loaded = deft.load_prior(tmp_path / "prior.safetensors")
    assert isinstance(loaded, SeriesPrior) and domain_of(loaded).units == units
    assert domain_of(loaded) == domain_of(loaded) and domain_of(loaded).card()["columns"] == ["warm", "load"]
    files = domain_of(loaded).write(tmp_path, "one", torch.zeros(2, 24))
    with files[0].open() as file:
        row = next(csv.DictReader(file))
    assert float(row["warm"]) == 20 and float(row["load"]) == pytest.approx(np.expm1(0.5), rel=1e-5)


def test_the_kinds_of_other_cards_and_shapes_stay():
    assert domain_of_shape((2, 24)).name == "series" and domain_of_shape((24, 3)).name == "protein"
    three = freeze_net((3, 3))
    assert domain_of(three).name == "protein", "the more particular kind has the shape"
    three.card = {"domain": "series"}
    assert domain_of(three).name == "series", "unless the card says otherwise"
    assert find_domain("image").with_card({"columns": ["a"]}) is find_domain("image")


def freeze_net(shape):
    return deft.freeze(NetworkDenoiser(UNet(shape[0], shape[0], (8,), dims=1, patch=1), deft.VPCosine(), shape, "v"))


@pytest.mark.parametrize(
    "change",
    [{"std": [1.0]}, {"std": [1.0, 0.0]}, {"mean": [0.0, "x"]}, {"columns": "ab"}, {"transform": ["", "exp"]},
     {"columns": ["a", "b\n"]}, {"step": 0}],
)  # fmt: skip
def test_a_card_that_cannot_be_right_is_refused(change):
    _, units = bound()
    with pytest.raises(CheckpointError, match="card of this prior is damaged"):
        find_domain("series").with_card(units.card() | change)


# Files.


def test_a_series_is_cut_into_windows_and_its_end_is_held_out(tmp_path):
    values = waves()
    found = read(str(write_csv(tmp_path / "a.csv", values)), Reading(length=24, split="fit"))
    fitted = len(found) - len(found.last)
    assert found.x.shape[1:] == (2, 24) and fitted == (216 - 24) // 6 + 1 and len(found.last) == 1
    assert found.card["columns"] == ["warm", "load"] and found.card["transform"] == ["", "log1p"]
    assert found.card["step"] == 3600 and found.card["time"] == "date" and found.seen is None
    units = Units.of_card(found.card)
    np.testing.assert_allclose(units.to_units(found.x[0]).numpy(), values[:24].T, rtol=1e-4)
    np.testing.assert_allclose(units.to_units(found.x[-1]).numpy(), values[-24:].T, rtol=1e-4)
    later = read(f"{tmp_path / 'a.csv'}:2020-01-05..", Reading(length=24, split="test"))
    np.testing.assert_allclose(Units.of_card(later.card).to_units(later.x[0]).numpy(), values[96:120].T, rtol=1e-4)
    of_file = training_data(freeze_net((2, 24)), str(tmp_path / "a.csv"), seed=3)
    assert torch.equal(of_file.x_out, found.x[found.last]) and len(of_file.x) == fitted, "a file by its name, too"
    h = training_data(freeze_net((2, 24)), found, seed=3)
    assert len(h.x_out) == 1 and torch.equal(h.x_out, found.x[found.last]), "an h holds out the same"


@pytest.mark.parametrize(
    ("lengths", "gone"),
    [((44,), ()), ((44, 44, 44), ()), ((24, 24, 24), ()), ((240,), range(216, 240)), ((240, 30), range(216, 240, 3))],
)
def test_what_is_held_out_shares_no_time_with_what_is_fitted(lengths, gone):
    """Where no series is two windows long, too, and where the end of one has nothing but gaps."""
    tables = []
    for i, n in enumerate(lengths):
        values = 1000.0 * i + np.arange(n)[:, None]  # each value is the time itself
        values[[g for g in gone if g < n]] = np.nan
        tables.append(Table(("a",), values))
    found = from_tables(tables, "it", Reading(length=24, transform="none"))
    at = Units.of_card(found.card).to_units(found.x)[:, 0].round()
    if lengths == (44,):  # nothing can be held out, and the notes say so
        assert found.last is None and "give --held-out" in found.notes[-1]
        return
    rows, rest = hold_out(len(found), 0, found.x, found.last)
    assert len(rest) and not set(at[rows].flatten().tolist()) & set(at[rest].flatten().tolist())


def test_columns_are_found_by_name_and_other_forms_are_the_same(tmp_path):
    values, (domain, _) = waves(48), bound()
    plain = domain.read(str(write_csv(tmp_path / "a.csv", values)), (2, 24)).x
    swapped = write_csv(tmp_path / "b.csv", values[:, ::-1], ("load", "warm"), separator=";")
    comma = tmp_path / "c.csv"
    comma.write_text(swapped.read_text().replace(".", ","))
    (tmp_path / "folder").mkdir()
    write_csv(tmp_path / "folder" / "one.csv", values)
    np.savez(tmp_path / "d.npz", x=values, columns=np.array(["warm", "load"]))
    for source in (swapped, comma, tmp_path / "folder", tmp_path / "d.npz"):
        torch.testing.assert_close(domain.read(str(source), (2, 24)).x, plain, rtol=1e-4, atol=1e-4)
    extra = write_csv(tmp_path / "e.csv", np.hstack([values, values[:, :1]]), ("warm", "load", "more"))
    chosen = SeriesDomain().read(str(extra), length=24, columns="load")
    assert chosen.card["columns"] == ["load"]


def test_a_ts_file_of_the_archive(tmp_path):
    path = tmp_path / "a.ts"
    path.write_text("#about\n@problemName a\n@classLabel true 1 2\n@data\n1,2,3.5:4,?,6:2\n0,1,2:3,4,5:1\n")
    values, labels = read_ts(path)
    assert values.shape == (2, 2, 3) and np.isnan(values[0, 1, 1]) and labels == ["2", "1"]
    found = read(str(path), Reading(max_missing=0.5, transform="none"))
    assert found.labels.tolist() == [1, 0] and found.x.shape == (2, 2, 3) and not found.seen[0, 1, 1]


def test_a_data_frame(tmp_path):
    pandas = pytest.importorskip("pandas")
    values = waves(48)
    frame = pandas.DataFrame(values, index=pandas.date_range("2020-01-01", periods=48, freq="h"), columns=["a", "b"])
    found = from_frame(frame.drop(frame.index[30]), 24, split="test", max_missing=0.1)
    assert found.card["columns"] == ["a", "b"] and found.card["step"] == 3600 and not found.seen[1, :, 6].any()


BAD = {
    "empty": ("", "is empty"),
    "no rows": ("time,a\n", "has a header and no rows"),
    "no numbers": ("time,a\n2020-01-01,\n2020-01-02,NaN\n", "holds no number: all 2 cells"),
    "times alone": ("time\n2020-01-01\n2020-01-02\n", "a column of times alone"),
    "text": ("time,a\n2020-01-01,1\n2020-01-02,west\n", "line 3, column a, holds 'west', expected a number"),
    "twice": ("time,a\n2020-01-01,1\n2020-01-01,2\n", "rows 1 and 2 have the same time 2020-01-01"),
    "back": ("time,a\n2020-01-02,1\n2020-01-01,2\n", "row 2 .2020-01-01. is before row 1: sort it"),
    "irregular": ("time,a\n2020-01-01,1\n2020-01-02,2\n2020-01-03 07:00,3\n", "steps of time are irregular: row 3"),
    "no time": ("time,a\n2020-01-01,1\nsoon,2\n", "row 2 has the time 'soon', expected a date such as"),
    "decimal comma": ("time,a\n2020-01-01,1,5\n2020-01-02,2,5\n", "a decimal comma in a file that is separated by"),
    "ragged": ("a,b\n1,2\n3\n", "line 3 has 1 cells, the first 2"),
    "same name": ("a,a\n1,2\n3,4\n", "two columns that are called 'a'"),
    "short": ("time,a\n2020-01-01,1\n2020-01-02,2\n", "has 2 times, too few for one window of 4"),
    "constant": ("a\n1\n1\n1\n1\n1\n", "the variable a is constant"),
}


@pytest.mark.parametrize("name", list(BAD))
def test_a_bad_file_is_one_line(name, tmp_path):
    text, says = BAD[name]
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=says) as refusal:
        read(str(path), Reading(length=4, split="test"))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (("warm", "wind"), "has the column wind, and the prior knows warm, load"),
        (("warm",), "lacks the column load: the prior makes 2 variables, warm, load"),
    ],
)
def test_columns_that_do_not_fit_the_prior(names, says, tmp_path):
    path = write_csv(tmp_path / "a.csv", waves(48)[:, : len(names)], names)
    with pytest.raises(InputError, match=says):
        bound()[0].read(str(path), (2, 24))


def test_series_of_several_stations_are_each_cut(tmp_path):
    x = np.random.default_rng(0).normal(size=(3, 2, 100))
    np.savez(tmp_path / "x.npz", x=x, columns=["warm", "load"])
    found = read(str(tmp_path / "x.npz"), Reading(length=20, stride=20, transform="none"))
    assert found.x.shape == (3 * 5, 2, 20) and len(found.last) == 3
    units = Units.of_card(found.card)
    torch.testing.assert_close(found.x[:4], units.to_model(x[0, :, :80].reshape(2, 4, 20).transpose(1, 0, 2)))
    with pytest.raises(InputError, match=r"has series of 100 times .*, too few for one window of 101"):
        read(str(tmp_path / "x.npz"), Reading(length=101))
    np.savez(tmp_path / "x.npz", x=x[:, 0].reshape(3, 50, 2))
    assert any("if it is [N, L, C], turn the axes" in n for n in read(str(tmp_path / "x.npz"), Reading()).notes)


def test_columns_that_the_prior_does_not_know_are_passed_over_where_it_finds_its_own(tmp_path):
    path = tmp_path / "a.csv"
    lines = [f"{START + timedelta(hours=h)};west;{a};3;{b}" for h, (a, b) in enumerate(waves(48))]
    path.write_text("\n".join(["time;place;load;wind;warm", *lines]).replace(".", ","))
    found = bound()[0].read(str(path), (2, 24))
    assert any("passed over: place, wind" in n for n in found.notes)
    plain = write_csv(tmp_path / "b.csv", waves(48)[:, ::-1])
    torch.testing.assert_close(found.x, bound()[0].read(str(plain), (2, 24)).x, rtol=1e-4, atol=1e-4)


def test_dates_with_the_day_first_are_read(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("Datum;a\n31.01.2020 23:00;1,5\n01.02.2020 00:00;2\n1.2.2020 01:00;2\n")
    table = read_csv(path)
    assert table.columns == ("a",) and len(table) == 3
    assert table.clock.texts(3) == ["2020-01-31 23:00:00", "2020-02-01 00:00:00", "2020-02-01 01:00:00"]
    path.write_text("time,a\n01/31/2020,1\n02/01/2020,2\n")
    with pytest.raises(InputError, match=r"expected a number, or a date such as 2016-01-31 13:00"):
        read_csv(path)


def windowed(path, task="forecast", **options):
    return bound()[0].read_measured(path, get_task(task), (2, 24), **options)


def test_a_forecast_begins_where_a_longer_file_ends(tmp_path):
    path = write_csv(tmp_path / "a.csv", waves(100))
    _, units = bound()
    for hours, first in ((100, 82), (24, 6)):
        write_csv(path, waves(hours))
        found = windowed(path)
        whole = units.to_model(waves(hours)[first:].T)
        torch.testing.assert_close(found.obs.y[0, :, :18], whole)
        assert found.arrays["mask"].sum(-1).tolist() == [18, 18] and "are taken" not in str(found.notes)
        assert found.domain.clock.text(0) == str(START + timedelta(hours=first))
        assert any(n.startswith("taken are the times") for n in found.notes)
    values = waves(100)
    values[95:] = np.nan  # hours ahead, with nothing in them
    assert windowed(write_csv(path, values)).domain.clock.text(0) == str(START + timedelta(hours=77))
    assert windowed(write_csv(path, waves(20))).arrays["mask"].sum() == 40, "a file that ends early is taken whole"


def test_the_window_of_a_longer_file_is_said_by_its_first_time(tmp_path):
    path = write_csv(tmp_path / "a.csv", waves(100))
    _, units = bound()
    found = windowed(path, "impute", start="2020-01-02 06:00")
    torch.testing.assert_close(found.obs.y[0], units.to_model(waves(100)[30:54].T))
    assert found.domain.clock.text(0) == "2020-01-02 06:00:00" and "nothing is left to fill" in found.notes[-1]
    assert windowed(path, start="2020-01-02 06:00").arrays["mask"].sum(-1).tolist() == [18, 18]
    assert windowed(path, "impute", start="2020-01-05", columns="load").arrays["mask"].sum(-1).tolist() == [0, 4]
    for start, says in (
        (None, r"give 24 of them at the most, or say where they begin, --data-option start='2020-01-04 04:00:00'"),
        ("soon", "'soon' is no time of this series"),
        ("2021-01-01", "has no such time, it goes from 2020-01-01 00:00:00 to 2020-01-05 03:00:00 in steps of 1 hour"),
        ("2020-01-02 06:30", "has no such time"),
    ):
        with pytest.raises(InputError, match=says):
            windowed(path, "impute", start=start)


def test_where_nobody_gave_names_the_order_counts():
    _, units = bound()
    assert units.pick(("x1", "x2"), "it", all_of=True) == [0, 1]
    assert Units.plain(2).pick(("a", "b"), "it", all_of=True) == [0, 1]
    with pytest.raises(InputError, match="has the columns a, b, c"):
        Units.plain(2).pick(("a", "b", "c"), "it", all_of=True)


def test_what_else_does_not_fit_is_one_line(tmp_path):
    domain, _ = bound()
    daily = tmp_path / "daily.csv"
    daily.write_text("time,warm,load\n" + "".join(f"2020-01-{d:02d},1,{d}\n" for d in range(1, 30)))
    for source, says in (
        (daily, "a step of 1 day, and the prior was trained on steps of 1 hour"),
        (tmp_path / "no.csv", "no such file"),
        (tmp_path, "none of the files|holds no .csv|has a step of 1 day"),
    ):
        with pytest.raises(InputError, match=says):
            domain.read(str(source), (2, 24))
    with pytest.raises(InputError, match="say how long a window is, with --prior, or with --length for a new prior"):
        SeriesDomain().read(str(daily))
    with pytest.raises(InputError, match=r"bad.csv:2021-01-01.. holds no row: the series goes from"):
        (tmp_path / "bad.csv").write_text(daily.read_text())
        SeriesDomain().read(f"{tmp_path / 'bad.csv'}:2021-01-01..", length=4)
    clock, at = clock_of(["2020-01-01", "2020-01-02", "2020-01-05"], "t", "it")
    assert at.tolist() == [0, 1, 4] and clock == Clock("date", 1577836800.0, 86400.0, "t")


# What nobody measured is never learned.


def gappy(hours=240):
    values = waves(hours)
    values[[5, 40, 41, 100], [0, 1, 1, 0]] = np.nan
    return values


def test_windows_keep_their_gaps(tmp_path):
    found = read(str(write_csv(tmp_path / "a.csv", gappy())), Reading(length=24, split="fit", max_missing=0.1))
    seen = np.isfinite(np.stack([gappy()[s : s + 24].T for s in range(0, 216 - 23, 6)]))
    assert np.array_equal(found.seen[: len(seen)].numpy(), seen) and bool(torch.isfinite(found.x).all())
    whole = complete(found)
    assert whole.seen is None and len(whole) == int(found.seen.flatten(1).all(1).sum()) < len(found)
    assert "entries that were not measured, and are left out" in whole.notes[-1]
    ends = complete(replace(found, seen=found.seen & (torch.arange(len(found)) != found.last[0])[:, None, None]))
    assert ends.last.tolist() == list(range(len(ends)))[-len(ends.last) :] and "may overlap" in ends.notes[-1]
    strict = read(str(tmp_path / "a.csv"), Reading(length=24, split="fit", max_missing=0.0))
    assert strict.seen is None and "windows lack more than 0 %" in " ".join(strict.notes)


def test_the_loss_knows_nothing_of_what_was_not_measured():
    torch.manual_seed(0)
    prior = new_prior((2, 24), deft.VPCosine(), widths=(8, 8))
    for p in prior.parameters():
        torch.nn.init.normal_(p, std=0.1)
    x, seen = torch.randn(4, 2, 24), torch.rand(4, 2, 24) > 0.1

    def gradient(target, known):
        """Of the loss by what it is compared with, where the network sees the same."""
        prior.zero_grad()
        value = PriorObjective()(prior, Batch(target, seen=known), BatchNoise(4, 0)).value
        return value, torch.autograd.grad(value, target)[0]

    # a network whose output does not depend on what it sees: all that is left of x is the target
    prior.raw = lambda x_t, t, alpha, sigma: torch.zeros_like(x_t)
    leaf = x.clone().requires_grad_()
    value, slope = gradient(leaf, seen)
    assert not slope[~seen].any() and bool((slope[seen] != 0).all())
    other = torch.where(seen, x, 100.0).requires_grad_()
    assert torch.equal(gradient(other, seen)[0], value), "other values where nobody measured: the same loss"
    assert not torch.equal(gradient(other, None)[0], value)


def test_the_stand_in_is_made_of_what_was_measured(tmp_path):
    values = gappy()[:48]
    one = from_tables([Table(("a", "b"), values)], "it", Reading(length=24, split="test", max_missing=0.5))
    assert float(one.x[0, 0, 5]) == pytest.approx(float(one.x[0, 0, [4, 6]].mean()), abs=1e-5)
    drawn = Clean(one.x, seen=one.seen).draw(2, 0, -1, torch.device("cpu"))
    assert torch.equal(drawn.seen, one.seen)
    with pytest.raises(InputError, match="for data without a task"):
        Clean(one.x, get_task("impute"), seen=one.seen)


# Tasks.

SETTINGS = {
    "impute": [{}, {"pattern": "random", "share": 0.5}, {"pattern": "blocks", "share": 0.25}, {"pattern": "variable"}],
    "forecast": [{}, {"share": 0.9}],
    "cross-channel": [{}, {"channels": 2}],
    "denoise-series": [{}],
    "resolution": [{"factor": 4}, {"factor": 5}],
}


@pytest.mark.parametrize("name", list(TASKS))
@pytest.mark.parametrize("shape", [(3, 16), (3, 17)])
def test_the_operators_of_tasks_keep_their_contract(name, shape):
    for setting in SETTINGS[name]:
        task = get_task(name, **setting)
        obs = task.observe(torch.randn(3, *shape), deft.Noise(0, 3))
        check_operator(obs.likelihood.operator, shape)
        assert get_task(name, **{k: v for k, v in task.config().items() if k != "name"}) == task


def test_a_setting_that_is_a_word_is_no_name_of_a_file():
    """Of every task of every kind of data: a measurement file may name such a word, and no file to be opened."""
    words = [
        (name, key)
        for domain in domains().values()
        for name, kind in domain.tasks().items()
        for key, value in kind().config().items()
        if key != "name" and isinstance(value, str) and value and key not in (*kind.choices, *kind.switches)
    ]
    assert not words


def test_what_tasks_hide():
    x = torch.zeros(4, 3, 20)

    def hidden(name, **setting):
        return 1 - get_task(name, **setting).observe(x, deft.Noise(1, 4)).likelihood.operator.mask

    assert hidden("impute", pattern="random", share=0.5).sum((1, 2)).tolist() == [30] * 4
    block = hidden("impute", pattern="blocks", share=0.25)
    assert block.sum((1, 2)).tolist() == [15] * 4 and torch.equal(block[:, 0], block[:, 1])
    assert hidden("impute", pattern="variable").amin(2).sum(1).tolist() == [1] * 4
    assert hidden("forecast")[:, :, 15:].all() and not hidden("forecast")[:, :, :15].any()
    assert hidden("cross-channel", channels=2).amin(2).sum(1).tolist() == [2] * 4
    shares = get_task("impute").observe(torch.zeros(64, 3, 20), deft.Noise(1, 64)).likelihood.operator.mask
    assert float(shares.flatten(1).mean(1).std()) > 0.1 and bool(shares.flatten(1).any(1).all())
    for name, setting, says in (
        ("impute", {"pattern": "x"}, "pattern of the task impute"),
        ("cross-channel", {"channels": 3}, "hides 3 of 3 variables"),
    ):
        with pytest.raises(InputError, match=says):
            hidden(name, **setting)


# From a CSV to a fan chart.


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A prior as `deft prior train` makes it, of a CSV with gaps, and the CSV."""
    folder = tmp_path_factory.mktemp("series")
    values = gappy(480)
    write_csv(folder / "load.csv", values)
    part = values[200:224].copy()
    part[8:14, 0] = np.nan
    write_csv(folder / "gaps.csv", part[:, ::-1], ("load", "warm"), 200)
    write_csv(folder / "past.csv", values[200:218], first=200)
    return folder


@pytest.fixture(autouse=True)
def few_pictures(monkeypatch):
    """The samples that `deft prior train` draws for its picture: few, in few steps."""
    whole = deft.cli.prior.draw
    monkeypatch.setattr(deft.cli.prior, "draw", lambda prior, n, **given: whole(prior, 4, steps=4, **given))


@pytest.fixture
def trained(place, capsys):
    if not (place / "prior").exists():
        card = result(
            capsys, "prior", "train", "--kind", "series", "--data", place / "load.csv", "--length", 24, "--out",
            place / "prior", "--widths", "8,8", "--steps", 20, "--batch", 8, "--evaluations", 1, "--device", "cpu",
        )["card"]  # fmt: skip
        assert card["columns"] == ["warm", "load"] and card["domain"] == "series" and card["network"]["dims"] == 1
    return place / "prior"


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_gaps_of_a_file_are_filled_in_its_units(place, trained, capsys):
    out = place / "filled"
    done = result(
        capsys, "sample", "--prior", trained, "--task", "impute", "--measurement", place / "gaps.csv", "-n", 6,
        "--steps", 4, "--method", "ddrm", "--out", out, "--device", "cpu", "--overwrite",
    )  # fmt: skip
    assert {"sample-005.csv", "mean.csv", "quantiles.csv", "sheet.png"} <= set(done["files"])
    measured, drawn, bands = rows(place / "gaps.csv"), rows(out / "sample-000.csv"), rows(out / "quantiles.csv")
    assert len(drawn) == 24 and [r["time"] for r in drawn] == [r["time"] for r in measured]
    for a, b, q in zip(measured, drawn, bands, strict=True):
        for name in ("warm", "load"):
            ends = [float(q[f"{name} {p} %"]) for p in (5, 25, 50, 75, 95)]
            assert ends == sorted(ends)
            if a[name]:
                assert float(b[name]) == pytest.approx(float(a[name]), rel=2e-3, abs=2e-3)
    assert len({r["warm"] for r in drawn[8:14]}) == 6, "the gap has values of its own"
    assert (out / "sheet.png").read_bytes()[:4] == b"\x89PNG"
    with np.load(out / "samples.npz") as kept:
        assert kept["mask"].sum() == 48 - 6 and kept["samples"].shape == (6, 2, 24)
    again = result(
        capsys, "sample", "--prior", trained, "--task", "forecast", "--measurement", place / "past.csv", "-n", 2,
        "--steps", 3, "--method", "replacement", "--out", place / "future", "--device", "cpu", "--overwrite",
    )  # fmt: skip
    ahead = rows(place / "future" / "mean.csv")
    assert again["samples"] == 2 and len(ahead) == 24
    one, other = (rows(place / "future" / f"sample-{i:03d}.csv") for i in range(2))
    for name in ("warm", "load"):  # one is a logarithm to the prior: the mean of files is that of their own values
        wanted = [(float(a[name]) + float(b[name])) / 2 for a, b in zip(one, other, strict=True)]
        np.testing.assert_allclose([float(r[name]) for r in ahead], wanted, rtol=1e-4, atol=1e-5)
    for path, task, says in (
        ("load.csv", "impute", "has 480 times, and the prior makes 24: give 24 of them at the most"),
        ("gaps.csv", "denoise-series", "lacks 6 of 48 values"),
    ):
        assert says in refused(
            capsys, "sample", "--prior", trained, "--task", task, "--measurement", place / path, "--out", place / "no"
        )


def test_the_commands_know_series(place, trained, capsys):
    run, cpu = place / "run", ("--device", "cpu")
    data = ("--data", place / "load.csv")
    card = result(
        capsys, "fit", "--prior", trained, "--task", "impute", *data, "--out", run, "--size", 0.9, "--steps", 4,
        "--batch", 4, "--prior-samples", 4, "--cache", 8, "--overwrite", *cpu,
    )["card"]  # fmt: skip
    assert card["task"]["name"] == "impute" and "series)" in card["data"]
    few = ("--images", 3, "--samples", 2, "--steps", 3)
    report = result(capsys, "evaluate", run, *data, *few, "--methods", "deft,ddrm", "--out", place / "report", *cpu)
    found = {r["method"] if "method" in r else r["name"]: r for r in report["rows"]}
    assert len(found) == 2 and "crps" in str(report["rows"][0])
    checked = result(capsys, "calibrate", run, *data, "--images", 8, "--samples", 2, "--steps", 3, *cpu)
    assert checked["intervals"]
    y = place / "y.npz"
    made = result(capsys, "measure", "--prior", trained, "--task", "resolution", "--task-option", "factor=6", *data,
                  "--images", 2, "--out", y)  # fmt: skip
    assert made["shape"] == [2, 4]
    drawn = result(capsys, "sample", "--prior", trained, "--measurement", y, "-n", 2, "--steps", 3, "--method", "ddrm",
                   "--out", place / "fine", *cpu)  # fmt: skip
    assert drawn["task"]["factor"] == 6
    assert "give --prior" in refused(capsys, "measure", "--task", "impute", *data, "--out", place / "no.npz")
    result(capsys, "measure", "--prior", trained, "--task", "impute", *data, "--images", 2, "--out", place / "gaps.npz")
    drawn = result(capsys, "sample", "--prior", trained, "--measurement", place / "gaps.npz", "-n", 2, "--steps", 2,
                   "--method", "ddrm", "--out", place / "of-gaps", *cpu)  # fmt: skip
    assert drawn["task"]["name"] == "impute"
    assert "leave --data-option start out" in refused(
        capsys, "sample", "--prior", trained, "--measurement", y, "--data-option", "start=3", "--out", place / "no"
    )
    assert "--length is not for images" in refused(
        capsys, "prior", "train", "--data", place, "--length", 8, "--out", place / "no"
    )


def test_pictures_say_what_they_show(monkeypatch):
    drawn = {}
    monkeypatch.setattr(pictures, "chart", lambda panels, times, title, footer="": drawn.update(p=panels, f=footer))
    domain = find_domain("series").with_card(
        {"domain": "series", **Units(tuple("abcdefgh"), (0.0,) * 8, (1.0,) * 8, ("",) * 8, 3600.0, "date").card()}
    )
    x = torch.randn(5, 8, 24)
    mask = torch.ones(1, 8, 24)
    mask[0, 7, 3:9] = 0
    obs = deft.Observation(x[:1] * mask, deft.Gaussian(deft.Mask(mask), 0.02))
    domain.draw_pictures(x, x.std(0), obs, "t")
    assert [p.title for p in drawn["p"]] == list("abcdeh"), "the variable with a gap is shown"
    assert "dots: measured" in drawn["f"] and "across: steps of 1 hour" in drawn["f"]
    domain.wall([View("truth", x), View("spread", x[:, None].repeat(1, 3, 1, 1), "DDRM, 3 samples", "spread")])
    assert "truth blue; band: 90 % of DDRM, 3 samples" in drawn["f"]
    means = deft.tasks.Resolution(factor=6).observe(x[:1], deft.Noise(0, 1))
    domain.measurement_picture(x, means, "t")
    assert "dots" not in drawn["f"]


def test_a_mean_of_values_is_none_of_logarithms(place, trained, capsys):
    (place / "coarse.csv").write_text("warm,load\n20,1\n21,2\n")
    assert "the prior sees the logarithm of load" in refused(
        capsys, "sample", "--prior", trained, "--task", "resolution", "--task-option", "factor=12", "--measurement",
        place / "coarse.csv", "--out", place / "no",
    )  # fmt: skip


def test_the_bundled_prior_takes_a_csv_of_some_of_its_variables(tmp_path, capsys):
    prior = deft.load_prior("air")
    units = domain_of(prior).units
    card, page = prior.card, BUNDLED["air"].with_suffix(".md").read_text(encoding="utf-8")
    assert prior.fingerprint() == card["sha256"] and card["sha256"] in page and "CC BY 4.0" in card["licence"]
    rng = np.random.default_rng(0)
    at = [units.columns.index(c) for c in ("TEMP", "PM2.5")]
    values = units.to_units(torch.from_numpy(rng.normal(size=(11, 90)))).numpy()[at].T
    write_csv(tmp_path / "gaps.csv", values, ("TEMP", "PM2.5"))
    done = result(
        capsys, "sample", "--prior", "air", "--task", "impute", "--measurement", tmp_path / "gaps.csv", "-n", 2,
        "--steps", 3, "--method", "ddrm", "--out", tmp_path / "filled", "--device", "cpu",
    )  # fmt: skip
    drawn = rows(tmp_path / "filled" / "sample-001.csv")
    assert done["samples"] == 2 and len(drawn) == 96 and list(drawn[0]) == ["time", *units.columns]
    for row, (warm, dust) in zip(drawn, values, strict=False):
        assert float(row["TEMP"]) == pytest.approx(warm, abs=0.5)
        assert float(row["PM2.5"]) == pytest.approx(dust, rel=0.05, abs=0.1)
        assert all(float(v) >= 0 for k, v in row.items() if k in ("PM10", "NO2", "O3"))


SMALL = {
    "prior train": "--widths 8,8 --steps 3 --batch 4 --evaluations 1",
    "sample": "-n 2 --steps 2",
    "fit": "--size 0.9 --steps 2 --batch 2 --prior-samples 4 --cache 4 --interval-images 0",
    "calibrate": "--images 8 --samples 2 --steps 2",
    "evaluate": "--images 2 --samples 2 --steps 2",
    "measure": "--images 2",
}


def test_the_commands_of_the_page_run(tmp_path, monkeypatch, capsys):
    page = (Path(__file__).parents[1] / "docs" / "series.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    program = re.search(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)[1]
    exec(compile(program, "docs/series.md", "exec"), {"__name__": "page"})
    lines = [
        line
        for block in re.findall(r"^```bash\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
        for line in block.splitlines()
    ]
    assert len(lines) == 11
    for line in lines:
        words = shlex.split(re.sub(r"--seconds \d+", "", line))[1:]
        key = next(k for k in SMALL if words[: len(k.split())] == k.split())
        code, _, err = run(capsys, *words, *SMALL[key].split(), *(() if key == "measure" else ("--device", "cpu")))
        assert code == 0, (line, err)
    assert (tmp_path / "filled" / "quantiles.csv").exists() and (tmp_path / "fine" / "sheet.png").exists()


def test_a_service_tells_the_units(trained):
    pytest.importorskip("starlette")
    from starlette.testclient import TestClient

    from deft.remote.server import make_app

    card = TestClient(make_app(deft.load_prior(trained))).get("/v1/card").json()
    assert card["samples"]["columns"] == ["warm", "load"] and "range" not in card
