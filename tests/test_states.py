"""Training states as they come: one reader for every family of priors, which says what it took and what it needs."""

from __future__ import annotations

import argparse
import json
import re
from collections import OrderedDict

import pytest
import torch

from deft.errors import CheckpointError, InputError
from deft.io.files import load_weights, save_weights
from deft.io.states import KNOWN, find_states, kinds_of, survey, weights_of
from deft.prior import load_prior
from deft.prior.load import family_of
from edm_files import filled, song_shapes
from toys import refused, toy_prior

EDM = filled(song_shapes())
RAW = filled(song_shapes(), seed=1)


def prefixed(prefix, state):
    return {prefix + k: v for k, v in state.items()}


STATES = {  # what is in the file, and the place that is taken
    "lucidrains' trainer": (
        lambda s, raw: {
            "step": 9, "model": prefixed("model.", raw) | {"betas": torch.linspace(1e-4, 0.02, 10)},
            "opt": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1e-4}]}, "scaler": None,
            "ema": OrderedDict(
                prefixed("online_model.model.", raw) | prefixed("ema_model.model.", s) | {"step": torch.tensor(9)}
            ),
        },
        "ema/ema_model.model.",
    ),
    "Lightning, with settings that are objects": (
        lambda s, raw: {
            "state_dict": prefixed("model.", raw) | prefixed("model_ema.", s), "pytorch-lightning_version": "2.1.0",
            "hyper_parameters": argparse.Namespace(lr=1e-4, widths=[1, 2]),
        },
        "state_dict/model_ema.",
    ),
    "DataParallel, in a dictionary in a dictionary": (
        lambda s, raw: {"trainer": {"nets": {"g": prefixed("module.", s)}}},
        "trainer/nets/g",
    ),
    "averages without names": (
        lambda s, raw: {
            "model": raw,
            "ema": {"decay": 0.999, "shadow_params": [v for k, v in s.items() if not k.endswith("filter")]},
        },
        "ema/shadow_params",
    ),
    "the raw weights alone": (lambda s, raw: {"net": s, "optimizer": {}}, "net"),
}  # fmt: skip


@pytest.mark.parametrize("name", STATES)
def test_edm_in_training_states(name, tmp_path):
    make, place = STATES[name]
    torch.save(make(EDM, RAW), tmp_path / "x.pt")
    prior = load_prior(tmp_path / "x.pt")
    assert prior.card["family"] == "edm" and prior.card["weights"] == place
    assert all(torch.equal(v, EDM[k]) for k, v in prior.net.net.state_dict().items())
    several = bool(make(EDM, RAW).keys() & {"model", "state_dict"})
    assert several == any(doubt.startswith(f"weights: {place} was taken") for doubt in prior.card["unsure"])


@pytest.mark.parametrize("name", STATES)
def test_models_of_diffusers_in_training_states(name, tmp_path):
    """The network is what config.json says, the weights are the file's; the scheduler lies beside it."""
    diffusers = pytest.importorskip("diffusers")

    def net(seed):
        torch.manual_seed(seed)
        return diffusers.UNet2DModel(
            sample_size=8, in_channels=1, out_channels=1, block_out_channels=(4, 8), layers_per_block=1,
            norm_num_groups=2, down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
            attention_head_dim=4,
        )  # fmt: skip

    model, other = net(0), net(1)
    make, place = STATES[name]
    torch.save(make(model.state_dict(), other.state_dict()), tmp_path / "x.ckpt")
    with pytest.raises(InputError, match=r"a model of diffusers .*it needs its config\.json.*config=FOLDER"):
        load_prior(tmp_path / "x.ckpt")
    other.save_pretrained(tmp_path / "there")
    diffusers.DDPMScheduler(num_train_timesteps=50).save_pretrained(tmp_path / "there")
    prior = load_prior(tmp_path / "x.ckpt", config=str(tmp_path / "there"))
    assert prior.card["weights"] == place and prior.schedule.max_steps == 50
    x, t = torch.randn(2, 1, 8, 8), torch.tensor(20.0)
    torch.testing.assert_close(prior.net(x, t), model.eval()(x, t).sample)
    assert not torch.allclose(prior.net(x, t), other.eval()(x, t).sample)
    config = json.loads((tmp_path / "there/config.json").read_text())
    (tmp_path / "there/config.json").write_text(json.dumps(config | {"block_out_channels": [4, 4]}))
    with pytest.raises(CheckpointError, match=r"does not fit the UNet2DModel of .*of another shape"):
        load_prior(tmp_path / "x.ckpt", config=str(tmp_path / "there"))


def test_ours_from_inside_a_wrapper(tmp_path):
    """A prior of `deft prior train`, saved from within torch.compile in DataParallel."""
    whole = toy_prior(tmp_path / "toy.safetensors")
    tensors, card = load_weights(whole)
    save_weights(tmp_path / "wrapped.safetensors", prefixed("module._orig_mod.", tensors), card)
    assert load_prior(tmp_path / "wrapped.safetensors").fingerprint() == load_prior(whole).fingerprint()
    save_weights(tmp_path / "other.safetensors", prefixed("encoder.", dict(list(tensors.items())[1:])), card)
    with pytest.raises(CheckpointError, match="does not fit the network"):
        load_prior(tmp_path / "other.safetensors")


LUCIDRAINS = {
    "init_conv.weight": torch.ones(8, 3, 7, 7),
    "time_mlp.1.weight": torch.ones(32, 8),
    "final_conv.bias": torch.ones(3),
}
NAMED = {
    "lucidrains": (
        {"step": 1, "model": prefixed("model.", LUCIDRAINS), "ema": prefixed("ema_model.model.", LUCIDRAINS)},
        r"Unet of denoising-diffusion-pytorch \(lucidrains\) \(0\.0 M numbers\) in ema/ema_model\.model\., model; it"
        r" needs its class and settings.*FILE\.py:FUNCTION.*weights_of",
    ),
    "score-sde": (
        {"model": prefixed("module.", {"all_modules.0.weight": torch.ones(2), "all_modules.2.weight": torch.ones(2)})},
        r"a network of score_sde .*FILE\.py:FUNCTION.*score-sde-ve",
    ),
    "dit": (
        {"ema": {"x_embedder.proj.weight": torch.ones(2), "t_embedder.mlp.0.weight": torch.ones(2)}},
        r"a DiT, whose samples are latents .*in ema; it needs its class",
    ),
}


@pytest.mark.parametrize("name", NAMED)
def test_networks_that_are_not_loaded_are_named_with_what_they_need(name, tmp_path, capsys):
    whole, says = NAMED[name]
    torch.save(whole, tmp_path / "x.pt")
    assert kinds_of(whole) == [name]
    line = refused(capsys, "prior", "inspect", tmp_path / "x.pt")
    assert re.search(says, line), line


def test_weights_for_a_function_of_yours(tmp_path):
    whole, _ = NAMED["lucidrains"]
    whole = whole | {"ema": {k: 2 * v for k, v in whole["ema"].items()}}
    torch.save(whole, tmp_path / "x.pt")
    state = weights_of(tmp_path / "x.pt", "init_conv.weight")
    assert state.keys() == LUCIDRAINS.keys() and float(state["final_conv.bias"][0]) == 2
    assert float(weights_of(tmp_path / "x.pt", "init_conv.weight", weights="model")["final_conv.bias"][0]) == 1
    with pytest.raises(CheckpointError, match=r"holds no conv9\.weight: it holds a Unet of denoising"):
        weights_of(tmp_path / "x.pt", "conv9.weight")


def test_kinds_do_not_take_one_another(tmp_path):
    """A network is of one kind, and what is no network of none."""
    for name, state in {"edm": EDM, "lucidrains": LUCIDRAINS}.items():
        assert kinds_of({"a": {"b": prefixed("c.", state)}}) == [name]
    assert kinds_of({"map_layer0.weight": torch.ones(2)}) == [] and survey({"x": 1}) == ""
    assert not find_states(
        {"xmap_layer0.weight": torch.ones(2), "xmap_layer1.weight": torch.ones(2)}, KNOWN["edm"].landmarks
    )
    torch.save({"w": torch.ones(2)}, tmp_path / "x.pt")
    assert family_of(tmp_path / "x.pt") == "adm"  # whose loader says what it is not
