"""A fitted h as a folder for others: round trip, refusals with their texts, the README, the hub (by stand-ins: none is
reached)."""

from __future__ import annotations

import builtins
import json
import re
import shlex
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import deft
from deft import DEFT, NetworkDenoiser, VPCosine, VPLinear, VPTable, freeze
from deft.cli import main
from deft.denoiser import MeanDenoiser
from deft.domains.image.tasks import Inpaint, SuperResolution
from deft.errors import CheckpointError, InputError
from deft.io.files import load_weights, save_weights
from deft.io.h_files import load_h, save_h
from deft.nn import UNet
from deft.prior import load_prior
from deft.runtime.messages import show
from deft.samplers import sample_posterior
from deft.workflow.hub import FILES, from_pretrained, public_text, push_to_hub, save_pretrained
from deft.workflow.model_card import front_matter
from toys import pictures, refused, result, run, save_pictures, toy_prior

ROOT = Path(__file__).parents[1]
SHAPE = (1, 16, 16)


def network_prior(seed=0, schedule=None, output="eps", **options):
    torch.manual_seed(seed)
    net = UNet(1, 1, (8, 12), patch=4)
    torch.nn.init.normal_(net.outlet.weight, std=0.05)
    return freeze(NetworkDenoiser(net, schedule or VPLinear(), SHAPE, output, time="log-sigma", **options))


def some_h(seed=1):
    torch.manual_seed(seed)
    h = DEFT(SHAPE, 2, width=4)
    for p in h.parameters():
        torch.nn.init.normal_(p, std=0.1)
    return h.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def prior():
    return network_prior()


@pytest.fixture
def shared(prior, tmp_path):
    """A folder to share, with all that can be in it."""
    report = {
        "rows": [
            {
                "task": "inpaint",
                "method": "deft",
                "metric": "psnr_mean",
                "value": 21.345,
                "low": 20.9,
                "high": 21.8,
                "n": 64,
            },
            {
                "task": "inpaint",
                "method": "dps",
                "metric": "psnr_mean",
                "value": 19.0,
                "low": 18.5,
                "high": 19.5,
                "n": 64,
            },
            {"task": "inpaint", "method": "deft", "metric": "calls", "value": 100, "low": None, "high": None, "n": 64},
            {
                "task": "inpaint",
                "method": "dps",
                "metric": "psnr_mean",
                "versus": "deft",
                "value": -2.3,
                "low": -3.0,
                "high": -2.0,
                "n": 64,
            },
        ],
        "settings": {"task": Inpaint().config()},
    }
    (tmp_path / "report.json").write_text(json.dumps(report))
    Image.fromarray(pictures(1)[0]).save(tmp_path / "picture.png")
    save_pretrained(
        tmp_path / "shared",
        some_h(),
        prior,
        Inpaint(),
        report=tmp_path / "report.json",
        picture=tmp_path / "picture.png",
        prior="toy",
        data="/home/ann/photos (24 images)",
        licence="Apache-2.0 (weights)",
        recipe={"steps": 4, "lr": 1e-3},
        note="a | toy <b>",
    )
    return tmp_path / "shared"


# Round trip


def test_round_trip_is_exact(prior, shared):
    h, task, card = from_pretrained(shared, prior)
    written = some_h().state_dict()
    assert task == Inpaint() and not h.training and not any(p.requires_grad for p in h.parameters())
    assert all(torch.equal(v, written[k]) for k, v in h.state_dict().items()) and len(written) == len(h.state_dict())
    assert card == json.loads((shared / "card.json").read_text()) == load_weights(shared / "h.safetensors")[1]
    assert sorted(p.name for p in shared.iterdir()) == sorted(FILES)
    assert card["prior_convention"] == {
        "event_shape": [1, 16, 16],
        "value_range": [-1.0, 1.0],
        "schedule": "vp-linear",
        "settings": {"beta_0": 0.1, "beta_1": 20.0},
        "output": "eps",
        "time": "log-sigma",
        "scale_input": False,
        "sigma_data": 1.0,
        "learned_variance": False,
    }
    assert len(card["metrics"]) == 3 and not any("versus" in r for r in card["metrics"])


def test_the_same_folder_twice(prior, shared, tmp_path):
    h, task, card = from_pretrained(shared, prior)
    again = save_pretrained(tmp_path / "again", h, prior, task, **card)
    assert again == card and (tmp_path / "again" / "card.json").read_bytes() == (shared / "card.json").read_bytes()
    with pytest.raises(InputError, match="exists and is not empty"):
        save_pretrained(shared, h, prior, task)
    save_pretrained(shared, h, prior, task, overwrite=True)
    assert not (shared / "sample.png").exists()


def test_the_bundled_h_still_loads():
    """Its card is of a time before conventions were kept."""
    path = Path(deft.__file__).parent / "domains" / "image" / "weights" / "h-inpaint.safetensors"
    h, task, card = load_h(path, load_prior("fashion"))
    assert h.event_shape == (1, 32, 32) and task == Inpaint() and "prior_convention" not in card


# Refusals, with the difference shown


def test_another_convention_is_shown_field_by_field(prior, shared):
    given = network_prior(output="v", schedule=VPCosine(), value_range=(0, 1))
    with pytest.raises(CheckpointError) as error:
        from_pretrained(shared, given)
    text = str(error.value)
    assert "output: fitted 'eps', given 'v'" in text and "value_range: fitted [-1.0, 1.0], given [0.0, 1.0]" in text
    assert "schedule: fitted vp-linear(beta_0=0.1, beta_1=20.0), given vp-cosine(bound=10.0)" in text
    assert "fitted to the prior 'toy' (sha256" in text and text.endswith("give the prior it was fitted to with --prior")


def test_one_setting_of_the_schedule(shared):
    with pytest.raises(
        CheckpointError, match=r"in another convention: schedule.settings.beta_1: fitted 20.0, given 10.0: give"
    ):
        from_pretrained(shared, network_prior(schedule=VPLinear(beta_1=10.0)))


def test_long_lists_are_summed_up(tmp_path):
    table = VPTable.linear(20)
    save_h(tmp_path / "h.safetensors", some_h(), network_prior(schedule=table), Inpaint())
    changed = [*table.betas.tolist()[:3], 0.5, *table.betas.tolist()[4:]]
    with pytest.raises(CheckpointError, match=r"schedule.settings.betas\[3\]: fitted 0.0032\d*, given 0.5: give"):
        load_h(tmp_path, network_prior(schedule=VPTable(changed)))
    with pytest.raises(
        CheckpointError, match=r"betas: fitted 20 values from 0.0001 to 0.02, given 30 values from 0.0001 to 0.02: give"
    ):
        load_h(tmp_path, network_prior(schedule=VPTable.linear(30)))


def test_other_weights_of_the_same_convention(shared):
    with pytest.raises(
        CheckpointError, match=r"prior 'toy' \(sha256 .*this prior is .*of the same convention and other weights"
    ):
        from_pretrained(shared, network_prior(seed=3))


def test_another_size_of_image(tmp_path):
    """The same weights make images of any size, and so does h: a line warns of it. Other channels are refused."""
    small = network_prior()
    large, colour = (
        freeze(NetworkDenoiser(small.net, VPLinear(), shape, "eps", time="log-sigma"))
        for shape in ((1, 32, 24), (3, 16, 16))
    )
    save_h(tmp_path / "h.safetensors", some_h(), small, Inpaint())
    assert colour.fingerprint() == large.fingerprint() == small.fingerprint()
    said: list[str] = []
    with show(said.append):
        h, _, _ = load_h(tmp_path, large)
    assert h.event_shape == (1, 32, 24) and "was fitted to 16x16 grey and is asked for 32x24 grey" in said[0]
    with pytest.raises(CheckpointError, match=r"event_shape: fitted \[1, 16, 16\], given \[3, 16, 16\]"):
        load_h(tmp_path, colour)
    tensors, card = load_weights(tmp_path / "h.safetensors")
    del card["prior_convention"]
    save_weights(tmp_path / "h.safetensors", tensors, card)
    with pytest.raises(CheckpointError, match=r"holds an h for samples \(1, 16, 16\).*the prior makes \(3, 16, 16\)"):
        load_h(tmp_path, colour)


def test_another_task(prior, shared):
    with pytest.raises(
        CheckpointError, match=r"another task: sigma_y: fitted 0.05, given 0.2; largest: fitted 0.5, given 0.6; fit one"
    ):
        from_pretrained(shared, prior, task=Inpaint(sigma_y=0.2, largest=0.6))
    with pytest.raises(CheckpointError, match=r"name: fitted 'inpaint', given 'sr4'"):
        from_pretrained(shared, prior, task=SuperResolution())
    assert from_pretrained(shared, prior, task=Inpaint())[1] == Inpaint()


def test_no_prior_given(shared):
    with pytest.raises(InputError, match=r"fitted to the prior 'toy' \(sha256 .*not bundled: give it as prior="):
        from_pretrained(shared)


def test_a_prior_that_says_less_of_itself(prior, shared):
    """As one behind a service: the same fingerprint, and no word about time and scaling."""

    class Quiet(MeanDenoiser):
        def fingerprint(self):
            return prior.fingerprint()

        def describe(self):
            return prior.describe()

    quiet = Quiet(lambda x, a, s: x, VPLinear(), SHAPE)
    assert from_pretrained(shared, quiet)[1] == Inpaint()
    quiet.event_shape = (3, 16, 16)
    with pytest.raises(CheckpointError, match=r"event_shape: fitted \[1, 16, 16\]"):
        from_pretrained(shared, quiet)


# Tampering


def tamper(shared, change, files=("h.safetensors", "card.json")):
    tensors, card = load_weights(shared / "h.safetensors")
    change(card)
    if "h.safetensors" in files:
        save_weights(shared / "h.safetensors", tensors, card)
    if "card.json" in files:
        (shared / "card.json").write_text(json.dumps(card))


def test_card_and_header_disagree(prior, shared):
    tamper(shared, lambda c: c["task"].update(sigma_y=0.3), files=["card.json"])
    with pytest.raises(
        CheckpointError, match=r"disagree.*: task.sigma_y: in h.safetensors 0.05, in card.json 0.3; take the folder"
    ):
        from_pretrained(shared, prior)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda c: c.update(prior_sha256="0" * 64), r"fitted to the prior 'toy' \(sha256 000000000000…"),
        (lambda c: c["prior_convention"].update(output="v"), r"output: fitted 'v', given 'eps'"),
        (lambda c: c["h"].update(width=6), r"does not fit the h-transform its card describes"),
        (lambda c: c["h"].update(width=10**9), r"does not fit the h-transform its card describes"),
        (lambda c: c["h"].update(code="import os"), r"does not fit the h-transform its card describes: .*code"),
        (lambda c: c["h"].update(event_shape="abc"), r"does not fit the h-transform its card describes"),
        (lambda c: c.update(task={"name": "sr4"}), r"the task sr4 shows 1: the card does not belong"),
        (lambda c: c.update(task={"name": "inpaint", "speed": 3}), r"no task of this version .*speed"),
        (lambda c: c.update(task={"name": "inpant"}), r"unknown task 'inpant'"),
        (lambda c: c.update(kind="prior"), r"'prior', not an h-transform"),
        (lambda c: c.pop("h"), r"lacks 'h'"),
        (lambda c: c.update(prior_sha256=3), r"lacks 'prior_sha256'"),
    ],
)  # fmt: skip
def test_a_changed_card(prior, shared, change, text):
    tamper(shared, change)
    with pytest.raises((CheckpointError, InputError), match=text):
        from_pretrained(shared, prior)


def test_a_card_field_is_no_path(shared, tmp_path, monkeypatch):
    """Names in a card that look like paths, functions or URLs are neither opened nor called."""
    trap = tmp_path / "trap.py"
    trap.write_text("raise SystemExit('a card ran code')")
    for name in (
        f"{trap}:make",
        str(tmp_path / "prior.safetensors"),
        "../../prior.safetensors",
        "http://localhost:1/x",
        "owner/name",
    ):
        tamper(shared, lambda c, name=name: c.update(prior=name))
        with pytest.raises(InputError, match="not bundled: give it as prior="):
            from_pretrained(shared)


def test_writing_stays_in_the_folder(prior, tmp_path):
    before = set(tmp_path.rglob("*"))
    card = save_pretrained(
        tmp_path / "out",
        some_h(),
        prior,
        Inpaint(),
        name="../../escaped",
        prior="/abs/../x/my-prior",
        kind="prior",
        h={"width": 1},
    )
    assert set(tmp_path.rglob("*")) - before == {tmp_path / "out", *(tmp_path / "out" / f for f in FILES[:3])}
    assert card["kind"] == "h-transform" and card["h"]["width"] == 4 and card["prior"] == "my-prior"
    assert from_pretrained(tmp_path / "out", prior)


def test_nan_in_the_weights(prior, shared):
    tensors, card = load_weights(shared / "h.safetensors")
    tensors["n2.last.bias"] = tensors["n2.last.bias"] * float("nan")
    save_weights(shared / "h.safetensors", tensors, card)
    with pytest.raises(CheckpointError, match=r"NaN or infinite weights, first in n2.last.bias"):
        from_pretrained(shared, prior)


# Files


@pytest.mark.parametrize("name", ["h.safetensors", "card.json"])
def test_a_link_out_of_the_folder(prior, shared, tmp_path, name):
    shutil.move(shared / name, tmp_path / name)
    (shared / name).symlink_to(tmp_path / name)
    with pytest.raises(CheckpointError, match=rf"{re.escape(name)} is a link to .*outside its folder"):
        from_pretrained(shared, prior)


def test_links_of_a_hubs_cache(prior, shared, tmp_path):
    """models--owner--name/snapshots/REVISION/file -> ../../blobs/HASH is how a hub's cache looks, and is inside."""
    home = tmp_path / "models--ann--h"
    (home / "blobs").mkdir(parents=True)
    (home / "snapshots" / "abc").mkdir(parents=True)
    for name in ("h.safetensors", "card.json"):
        shutil.copy(shared / name, home / "blobs" / name[::-1])
        (home / "snapshots" / "abc" / name).symlink_to(f"../../blobs/{name[::-1]}")
    assert from_pretrained(home / "snapshots" / "abc", prior)[1] == Inpaint()
    (home / "snapshots" / "abc" / "card.json").unlink()
    (home / "snapshots" / "abc" / "card.json").symlink_to(shared / "card.json")
    with pytest.raises(CheckpointError, match="outside its folder"):
        from_pretrained(home / "snapshots" / "abc", prior)


def test_truncated_and_missing_files(prior, shared):
    whole = (shared / "h.safetensors").read_bytes()
    for n in (0, 4, 100, len(whole) // 2):
        (shared / "h.safetensors").write_bytes(whole[:n])
        with pytest.raises(CheckpointError, match="truncated or not a safetensors file"):
            from_pretrained(shared, prior)
    (shared / "h.safetensors").write_bytes(whole)
    text = (shared / "card.json").read_text()
    for bad in (
        "",
        text[:50],
        "[1, 2",
        '{"a": NaN}',
        '{"a": 1, "a": 2}',
        "[" * 100_000,
        "\ud800".encode("utf-8", "surrogatepass").decode("latin1"),
    ):
        (shared / "card.json").write_text(bad, encoding="utf-8")
        with pytest.raises(CheckpointError, match="truncated or no plain JSON"):
            from_pretrained(shared, prior)
    (shared / "card.json").write_text("[1]")
    with pytest.raises(CheckpointError, match="no card: expected a table"):
        from_pretrained(shared, prior)
    (shared / "h.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"holds no h.safetensors: give a folder made by"):
        from_pretrained(shared, prior)


def test_cards_that_are_too_large(prior, shared, monkeypatch):
    import deft.workflow.hub as module

    monkeypatch.setattr(module, "LARGEST_CARD", 400)
    with pytest.raises(CheckpointError, match=r"header of .* has [\d,]+ bytes, at most 400"):
        from_pretrained(shared, prior)
    monkeypatch.undo()
    with (shared / "card.json").open("wb") as f:
        f.truncate(16 * 2**20 + 1)
    with pytest.raises(CheckpointError, match=r"card.json is larger than the 16,777,216 bytes"):
        from_pretrained(shared, prior)


def test_a_header_card_that_is_no_json(prior, shared):
    save_file({"a": torch.zeros(2)}, shared / "h.safetensors", metadata={"deft": "{half"})
    with pytest.raises(CheckpointError, match=r"damaged card|is no JSON"):
        from_pretrained(shared, prior)


def test_names_that_are_no_folder(tmp_path):
    for name in (
        "../../etc/passwd",
        "/nowhere/at/all",
        "owner/name/file",
        "owner\\name",
        "owner/..",
        "..",
        "owner/na me",
        "-a/b",
        "",
    ):
        with pytest.raises(
            (InputError, CheckpointError), match=r"no such folder|OWNER/NAME|holds no h.safetensors|is a file"
        ):
            from_pretrained(name if name else tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file: give the folder"):
        from_pretrained(tmp_path / "file")
    with pytest.raises(InputError, match="a revision is a branch"):
        from_pretrained("owner/name", revision="../../x")


# The README


def test_readme(shared):
    text = (shared / "README.md").read_text()
    assert "sigma_y 0.05 for images in [-1, 1], that is 6.4 grey levels of 255" in text
    assert "| psnr_mean" not in text and re.search(r"\| PSNR[^|]*↑ \| 21.\d+ \[20.9\d*, 21.8\d*\] \| 19.0", text), text
    assert "Mask (smallest 0.25, largest 0.5): A rectangular hole" in text and "`toy`, sha256 `" in text
    assert "vp-linear(beta_0=0.1, beta_1=20.0)" in text and "output eps" in text and "![samples](sample.png)" in text
    assert "/home/ann" not in text and "photos (24 images)" in text and "a \\| toy &lt;b>" in text
    assert "% of the prior's" in text and "| lr | 0.001 |" in text


def test_front_matter_parses(shared):
    yaml = pytest.importorskip("yaml")
    hub = pytest.importorskip("huggingface_hub")
    data = yaml.safe_load((shared / "README.md").read_text().split("---\n")[1])
    assert (
        data["library_name"] == "deft-diffusion"
        and data["license"] == "apache-2.0"
        and "h-transform" in data["tags"]
        and "base_model" not in data
    )
    loaded = hub.ModelCard.load(shared / "README.md")
    assert (
        loaded.data.library_name == "deft-diffusion"
        and loaded.data.tags == data["tags"]
        and loaded.text.lstrip().startswith("# Fill a hole")
    )
    odd = {"task": {"name": "sr4"}, "licence": 'mine: "all" # rights\n- x', "base_model": "google/ddpm-celebahq-256"}
    data = yaml.safe_load("\n".join(front_matter(odd)).split("---")[1])
    assert (
        data["license"] == "other"
        and data["license_name"] == 'mine: "all" # rights - x'
        and data["base_model"] == odd["base_model"]
    )
    for given, known in (
        ("MIT (data)", "mit"),
        ("CC-BY-4.0", "cc-by-4.0"),
        ("mitigated", "other"),
        ("GPL-3.0-only", "other"),
    ):
        assert f"license: {known}" in front_matter({"task": {"name": "sr4"}, "licence": given})


def test_the_readmes_python_runs(prior, shared, monkeypatch):
    monkeypatch.chdir(shared)
    code = re.search(r"```python\n(.*?)```", (shared / "README.md").read_text(), re.S)[1]
    monkeypatch.setattr("deft.prior.load_prior", lambda name: {"PRIOR": prior}[name])
    monkeypatch.setattr(deft, "sample_posterior", lambda *a, **k: sample_posterior(*a, **k, steps=2))
    space = {}
    exec(compile(code, "README.md", "exec"), space)
    assert (
        space["draws"].x.shape == (1, 4, *SHAPE)
        and len([line for line in code.splitlines() if line and "import" not in line]) == 5
    )


def test_what_may_not_leave_this_machine(prior, tmp_path):
    named = network_prior()
    named.card = {"name": "google/ddpm-cat-256"}
    card = save_pretrained(
        tmp_path / "out",
        some_h(),
        named,
        Inpaint(),
        prior="/home/ann/models/cat",
        prior_options=["token=hf_secret", "output=eps"],
        command="deft fit --data /home/ann/cats --out ../runs/one",
    )
    assert card["prior"] == card["base_model"] == "google/ddpm-cat-256" and card["prior_options"] == ["output=eps"]
    text = "".join(
        (tmp_path / "out" / f).read_text(errors="ignore") for f in ("card.json", "README.md", "h.safetensors")
    )
    assert "/home" not in text and "/ann" not in text and "hf_secret" not in text and "--data cats --out one" in text
    for given, kept in (
        ("C:\\Users\\ann\\x.npz", "x.npz"),
        ("~/a/b.npz (3)", "b.npz (3)"),
        ("train/test split", "train/test split"),
        ("https://example.org/a/b", "https://example.org/a/b"),
        ("see /a/b/c and /d/e", "see c and e"),
        ("1 / 2", "1 / 2"),
    ):
        assert public_text(given) == kept
    card = save_pretrained(tmp_path / "remote", some_h(), prior, Inpaint(), prior="https://user:key@host/prior")
    assert card["prior"] == "remote"


def test_save_refusals(prior, tmp_path):
    def save(**options):
        return save_pretrained(tmp_path / "out", some_h(), prior, Inpaint(), **options)

    (tmp_path / "r.json").write_text('{"rows": [{"task": "inpaint"}]}')
    with pytest.raises(InputError, match=r"no report of `deft evaluate`: expected rows with task, method"):
        save(report=tmp_path / "r.json")
    row = {"task": "sr4", "method": "deft", "metric": "psnr_mean", "value": 1, "low": 0, "high": 2, "n": 3}
    (tmp_path / "r.json").write_text(json.dumps({"rows": [row]}))
    with pytest.raises(InputError, match=r"is of the task sr4, h was fitted to .*inpaint"):
        save(report=tmp_path / "r.json")
    settings = {"task": replace(Inpaint(), sigma_y=0.5).config()}
    (tmp_path / "r.json").write_text(json.dumps({"rows": [row | {"task": "inpaint"}], "settings": settings}))
    with pytest.raises(InputError, match=r"'sigma_y': 0.5.*h was fitted to .*'sigma_y': 0.05"):
        save(report=tmp_path / "r.json")
    with pytest.raises(InputError, match="no such file"):
        save(report=tmp_path / "nowhere.json")
    (tmp_path / "p.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match="no picture that can be read"):
        save(picture=tmp_path / "p.png")
    with pytest.raises(InputError, match="text, finite numbers, lists and tables alone"):
        save(note=object())
    with pytest.raises(InputError, match=r"a repository is OWNER/NAME"):
        save(push="../x")
    assert not (tmp_path / "out").exists()


# The hub: what is sent to it and what comes back, by stand-ins


class StubApi:
    calls: list = []  # noqa: RUF012
    error: Exception | None = None

    def __init__(self, token=None):
        self.calls.append(("token", token))

    def create_repo(self, repo_id, **options):
        if self.error is not None:
            raise self.error
        self.calls.append(("create", repo_id, options))
        return f"https://hub.example/{repo_id}"

    def upload_folder(self, **options):
        self.calls.append(("upload", options))


@pytest.fixture
def api(monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(hub, "HfApi", StubApi)
    StubApi.calls, StubApi.error = [], None
    return StubApi


def test_push(prior, shared, api):
    (shared / "state.pt").write_text("not for others")
    assert push_to_hub(shared, "ann/inpaint-toy", token="hf_x", private=True) == "https://hub.example/ann/inpaint-toy"
    (_, token), (_, repo, made), (_, sent) = api.calls
    assert (
        token == "hf_x"
        and repo == "ann/inpaint-toy"
        and made["private"]
        and made["exist_ok"]
        and made["repo_type"] == "model"
    )
    assert (
        sorted(sent["allow_patterns"]) == sorted(FILES)
        and sent["folder_path"] == str(shared)
        and sent["repo_id"] == repo
    )
    save_pretrained(shared.parent / "two", some_h(), prior, Inpaint(), push="ann/two", token="hf_y")
    assert api.calls[3] == ("token", "hf_y") and api.calls[-1][1]["allow_patterns"] == list(FILES[:3])


def test_push_checks_first(prior, shared, api, tmp_path):
    (tmp_path / "secret").write_text("private")
    (shared / "sample.png").unlink()
    (shared / "sample.png").symlink_to(tmp_path / "secret")
    with pytest.raises(CheckpointError, match="outside its folder"):
        push_to_hub(shared, "ann/x")
    (shared / "sample.png").unlink()
    tamper(shared, lambda c: c.update(licence="mit"), files=["card.json"])
    with pytest.raises(
        CheckpointError, match=r"disagree.*licence: in h.safetensors 'Apache-2.0 \(weights\)', in card.json 'mit'"
    ):
        push_to_hub(shared, "ann/x")
    save_h(tmp_path / "run" / "h.safetensors", some_h(), prior, Inpaint())
    with pytest.raises(InputError, match=r"no card.json: make a folder to share with `deft hub export"):
        push_to_hub(tmp_path / "run", "ann/x")
    for name in ("name", "a/b/c", "../x", "a/..", "a/b..c", "a b/c", "a/" + "b" * 99):
        with pytest.raises(InputError, match="a repository is OWNER/NAME"):
            push_to_hub(shared, name)
    assert api.calls == []


def test_hub_errors_are_one_line_and_keep_the_token(shared, api):
    api.error = ConnectionError("no route to host\nwith token hf_secret")
    with pytest.raises(InputError) as error:
        push_to_hub(shared, "ann/x", token="hf_secret")
    assert str(error.value).startswith(
        "cannot push to ann/x: no route to host with token ***; check the name"
    ) and "\n" not in str(error.value)
    api.error = ZeroDivisionError("a bug")
    with pytest.raises(ZeroDivisionError):
        push_to_hub(shared, "ann/x")


def test_download(prior, shared, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    asked = []

    def snapshot_download(repo_id, **options):
        asked.append((repo_id, options))
        return str(shared)

    monkeypatch.setattr(hub, "snapshot_download", snapshot_download)
    h, task, _ = from_pretrained("ann/inpaint-toy", prior, revision="v1.0", token="hf_x")
    assert task == Inpaint() and torch.equal(h.n2.last.bias, some_h().n2.last.bias)
    ((name, options),) = asked
    assert name == "ann/inpaint-toy" and options["revision"] == "v1.0" and options["token"] == "hf_x"
    assert sorted(options["allow_patterns"]) == ["README.md", "card.json", "h.safetensors"]

    def fails(repo_id, **options):
        raise hub.errors.LocalEntryNotFoundError("cannot find hf_x there")

    monkeypatch.setattr(hub, "snapshot_download", fails)
    with pytest.raises(InputError, match=r"cannot fetch ann/h from the hub: cannot find \*\*\* there; check"):
        from_pretrained("ann/h", prior, token="hf_x")


def test_without_huggingface_hub(prior, shared, monkeypatch):
    honest = builtins.__import__

    def missing(name, *arguments, **options):
        if name.partition(".")[0] == "huggingface_hub":
            raise ImportError(name)
        return honest(name, *arguments, **options)

    monkeypatch.delitem(sys.modules, "huggingface_hub", raising=False)
    monkeypatch.setattr(builtins, "__import__", missing)
    for call in (lambda: push_to_hub(shared, "ann/x"), lambda: from_pretrained("ann/x", prior)):
        with pytest.raises(InputError, match=r"pip install 'deft-diffusion\[hub\]'"):
            call()
    assert from_pretrained(shared, prior)  # a folder needs no hub


# The command line


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop")
    toy_prior(folder / "my-prior.safetensors")
    toy_prior(folder / "other.safetensors", seed=1)
    save_pictures(folder / "photos", pictures(24))
    Image.fromarray(pictures(1)[0]).save(folder / "photo.png")
    mask = np.full((16, 16), 255, np.uint8)
    mask[4:10, 4:10] = 0
    Image.fromarray(mask).save(folder / "mask.png")
    line = (
        "fit",
        "--prior",
        folder / "my-prior.safetensors",
        "--size",
        0.4,
        "--data",
        folder / "photos",
        "--out",
        folder / "run",
        "--steps",
        2,
        "--batch",
        4,
        "--bank",
        0,
    )
    assert main([*map(str, line)]) == 0
    line = (
        "evaluate",
        folder / "run",
        "--data",
        folder / "photos",
        "--images",
        2,
        "--samples",
        2,
        "--steps",
        2,
        "--methods",
        "deft",
        "--out",
        folder / "report",
    )
    assert main([*map(str, line)]) == 0
    return folder


def test_export_and_sample(shop, tmp_path, capsys):
    found = result(
        capsys,
        "hub",
        "export",
        shop / "run",
        "--out",
        tmp_path / "shared",
        "--report",
        shop / "report" / "report.json",
        "--picture",
        shop / "report" / "samples.png",
        "--license",
        "mit",
        "--note",
        "a toy",
    )
    assert (
        found["files"] == list(FILES)
        and found["card"]["licence"] == "mit"
        and found["card"]["metrics"][0]["method"] == "deft"
    )
    assert (
        found["card"]["prior"] == "my-prior"
        and found["card"]["data"] == "photos (22 images)"
        and found["card"]["recipe"]["steps"] == 2
    )
    text = "".join((tmp_path / "shared" / f).read_text(errors="ignore") for f in FILES[:3])
    assert str(shop) not in text and str(tmp_path) not in text
    one, two = (load_weights(p / "h.safetensors")[0] for p in (shop / "run", tmp_path / "shared"))
    assert all(torch.equal(one[k], two[k]) for k in one)
    line = (
        "sample",
        tmp_path / "shared",
        "--prior",
        shop / "my-prior.safetensors",
        "--measurement",
        shop / "photo.png",
        "--mask",
        shop / "mask.png",
        "-n",
        2,
        "--steps",
        2,
        "--out",
        tmp_path / "out",
    )
    assert run(capsys, *line)[0] == 0 and (tmp_path / "out" / "sample-001.png").exists()
    assert "h-transform" in run(capsys, "info", tmp_path / "shared")[1]


def test_cli_refusals(shop, tmp_path, capsys, api):
    line = refused(
        capsys, "hub", "export", shop / "run", "--prior", shop / "other.safetensors", "--out", tmp_path / "out"
    )
    assert "of the same convention and other weights" in line and not (tmp_path / "out").exists()
    assert "no such run" in refused(capsys, "hub", "export", tmp_path / "nowhere", "--out", tmp_path / "out")
    assert "did you mean 'export'" in refused(capsys, "hub", "exprt")
    assert "make a folder to share with `deft hub export" in refused(capsys, "hub", "push", shop / "run", "ann/x")
    assert run(capsys, "hub", "export", shop / "run", "--out", tmp_path / "out")[0] == 0
    assert "a repository is OWNER/NAME" in refused(capsys, "hub", "push", tmp_path / "out", "x")
    assert result(capsys, "hub", "push", tmp_path / "out", "ann/x", "--private")["url"] == "https://hub.example/ann/x"
    for command in ((), ("export",), ("push",)):
        code, out, _ = run(capsys, "hub", *command, "--help")
        assert code == 0 and "Usage: deft" in out


def test_the_commands_of_the_page_run(shop, tmp_path, capsys, monkeypatch, api):
    """docs/travel.md, its lines in order, beside a folder of photos, a photo and a mask; the prior's name is the
    toy's."""
    monkeypatch.chdir(tmp_path)
    for name in ("photos", "photo.png", "mask.png", "my-prior.safetensors"):
        (shutil.copytree if (shop / name).is_dir() else shutil.copy)(shop / name, tmp_path / name)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *a, **k: "shared", raising=True)
    text = (ROOT / "docs" / "travel.md").read_text(encoding="utf-8")
    lines = [
        line
        for block in re.findall(r"```bash\n(.*?)```", text, re.S)
        for line in block.replace("\\\n", " ").splitlines()
        if line.strip()
    ]
    seen = 0
    for line in lines:
        words = shlex.split(line, comments=True)
        if words[0] != "deft":
            assert words[0] in ("pip", "hf"), line
            continue
        small = {
            "fit": ["--size", "0.4", "--steps", "2", "--batch", "4", "--bank", "0"],
            "evaluate": ["--images", "2", "--samples", "2", "--steps", "2", "--methods", "deft"],
            "sample": ["--steps", "2", "-n", "2"],
        }
        code, _, err = run(capsys, *words[1:], *small.get(words[1], []))
        assert code == 0, (line, err)
        seen += 1
    assert seen >= 5
