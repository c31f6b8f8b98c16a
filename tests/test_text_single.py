"""Stable Diffusion in one file, in the original code's names: the prior that the folder is."""

from __future__ import annotations

import re
import shutil

import pytest
import torch
from safetensors.torch import save_file

from deft.errors import CheckpointError, InputError
from deft.prior import load_prior

diffusers = pytest.importorskip("diffusers")
pytest.importorskip("transformers")

import text_models as models  # noqa: E402
from text_models import PROMPT  # noqa: E402
from toys import refused  # noqa: E402

GUIDED = {"prompt": PROMPT, "guidance_scale": 3.0}
RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
    "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
TOP = {
    "conv_in": "input_blocks.0.0", "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "conv_norm_out": "out.0", "conv_out": "out.2",
}  # fmt: skip


def network_name(name, layers=1, blocks=2):
    """What the original code calls a tensor of the network, written down here from its layout: the inverse of what is
    tested."""
    for new, old in TOP.items():
        if name.startswith(f"{new}."):
            return name.replace(new, old, 1)
    part = re.fullmatch(r"(down_blocks|up_blocks|mid_block)\.(?:(\d+)\.)?(\w+)\.(\d+)\.(.*)", name)
    where, block, kind, index, rest = part[1], int(part[2] or 0), part[3], int(part[4]), part[5]
    if kind == "resnets":
        first, _, end = rest.partition(".")
        rest = f"{RESNET[first]}.{end}"
    if where == "mid_block":
        return f"middle_block.{1 if kind == 'attentions' else 2 * index}.{rest}"
    place = {"resnets": 0, "attentions": 1}.get(kind)
    if where == "down_blocks":
        if kind == "downsamplers":
            return f"input_blocks.{(block + 1) * (layers + 1)}.0.op.{rest.removeprefix('conv.')}"
        return f"input_blocks.{1 + block * (layers + 1) + index}.{place}.{rest}"
    if kind == "upsamplers":  # after the attention, where the block has one
        return f"output_blocks.{block * (layers + 1) + layers}.{1 if block == 0 else 2}.{rest}"
    return f"output_blocks.{block * (layers + 1) + index}.{place}.{rest}"


def autoencoder_name(name, blocks=2):
    name = re.sub(r"decoder\.up_blocks\.(\d+)", lambda m: f"decoder.up.{blocks - 1 - int(m[1])}", name)
    name = re.sub(r"encoder\.down_blocks\.(\d+)", r"encoder.down.\1", name)
    name = re.sub(r"\b(down|up)\.(\d+)\.resnets\.(\d+)", r"\1.\2.block.\3", name)
    name = re.sub(r"mid_block\.resnets\.(\d+)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    name = name.replace("downsamplers.0.conv", "downsample.conv").replace("upsamplers.0.conv", "upsample.conv")
    return name.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")


def in_one_file(pipe):
    """A pipeline's tensors by the names of the original code."""
    whole = {f"model.diffusion_model.{network_name(k)}": v for k, v in pipe.unet.state_dict().items()}
    whole |= {f"first_stage_model.{autoencoder_name(k)}": v for k, v in pipe.vae.state_dict().items()}
    words = {k.removeprefix("text_model."): v for k, v in pipe.text_encoder.state_dict().items()}
    whole |= {f"cond_stage_model.transformer.text_model.{k}": v for k, v in words.items()}
    whole["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(12)[None]
    return {k: v.contiguous() for k, v in whole.items()}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """sd/, the same weights in one file, and config/: the folder without weights."""
    home = tmp_path_factory.mktemp("single")
    pipe = models.stable_diffusion(home / "sd")
    whole = in_one_file(pipe)
    save_file(whole, home / "one.safetensors")
    torch.save({"state_dict": whole, "global_step": 7}, home / "one.ckpt")
    ignore = shutil.ignore_patterns("*.safetensors")
    shutil.copytree(home / "sd", home / "config", ignore=ignore)
    return home


@pytest.mark.parametrize("file", ["one.safetensors", "one.ckpt"])
def test_one_file_is_the_folder(place, file):
    """Network, autoencoder and text encoder of the file; configs, scheduler and tokenizer of the folder."""
    folder, single = load_prior(place / "sd", **GUIDED), load_prior(place / file, config=place / "config", **GUIDED)
    assert single.fingerprint() == folder.fingerprint()
    x, t = torch.randn(2, 4, 8, 8), torch.tensor(300.0)
    torch.testing.assert_close(single(x, t).mean, folder(x, t).mean, atol=0, rtol=0)
    torch.testing.assert_close(single.decode(x), folder.decode(x), atol=0, rtol=0)
    assert single.card["file"] == file


def test_what_is_refused(place, tmp_path, capsys):
    one = place / "one.safetensors"
    assert "give --prior-option config=FOLDER" in refused(capsys, "prior", "inspect", one, "--prompt", "a")
    with pytest.raises(InputError, match="is no folder that diffusers wrote"):
        load_prior(one, config=tmp_path)
    models.pixart(tmp_path / "pixart")
    with pytest.raises(InputError, match="holds no UNet2DConditionModel"):
        load_prior(one, config=tmp_path / "pixart")
    shutil.copytree(place / "config", tmp_path / "wide")
    models.unet(block_out_channels=(24, 32)).save_config(tmp_path / "wide/unet")
    with pytest.raises(CheckpointError) as error:
        load_prior(one, config=tmp_path / "wide", **GUIDED)
    assert "\n" not in str(error.value)
    shutil.copytree(place / "config", tmp_path / "words")
    config = models.clip_encoder(24).config
    config.save_pretrained(tmp_path / "words/text_encoder")
    with pytest.raises(CheckpointError, match="is of another text encoder"):
        load_prior(one, config=tmp_path / "words", **GUIDED)


def test_a_pickle_with_code_is_not_run(place, tmp_path):
    class Evil:
        def __reduce__(self):
            return exec, (f"open({str(tmp_path / 'ran')!r}, 'w')",)

    whole = torch.load(place / "one.ckpt", weights_only=True)
    torch.save(whole | {"callbacks": Evil()}, tmp_path / "evil.ckpt")
    with pytest.raises(CheckpointError) as error:
        load_prior(tmp_path / "evil.ckpt", config=place / "config", **GUIDED)
    assert "\n" not in str(error.value) and not (tmp_path / "ran").exists()
