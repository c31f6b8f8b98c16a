"""What a user says of a text-conditional prior: prompt, guidance, files of embeddings, LoRA; and what is refused, each
in one line with exit code 2."""

from __future__ import annotations

import copy
import json
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import deft
from deft.errors import CheckpointError, DeftError, InputError
from deft.prior import load_prior
from deft.prior.embed import embed_to_file

diffusers = pytest.importorskip("diffusers")
pytest.importorskip("transformers")

import text_models as models  # noqa: E402
from text_models import NEGATIVE, PROMPT  # noqa: E402
from toys import refused, run  # noqa: E402

GUIDED = {"prompt": PROMPT, "negative_prompt": NEGATIVE, "guidance_scale": 3.0}


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """Folders of pipelines, written once; tests that change one take a copy."""
    home = tmp_path_factory.mktemp("pipelines")
    for kind in ("stable_diffusion", "stable_diffusion_xl", "stable_diffusion_3", "dit"):
        getattr(models, kind)(home / kind)
    return home


@pytest.fixture
def sd(kept):
    return kept / "stable_diffusion"


@pytest.fixture
def own(sd, tmp_path):
    """A copy that may be changed."""
    shutil.copytree(sd, tmp_path / "sd")
    return tmp_path / "sd"


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# The prompt is part of the prior


def test_prompt_and_guidance_are_part_of_the_fingerprint(sd):
    plain = load_prior(sd)
    ways = [{}, {"prompt": PROMPT}, {"prompt": "a dog"}, GUIDED, GUIDED | {"guidance_scale": 4.0}]
    ways += [GUIDED | {"negative_prompt": "noise"}, {"prompt": PROMPT, "guidance_scale": 3.0}]
    found = {load_prior(sd, **way).fingerprint() for way in ways}
    assert len(found) == len(ways) and plain.fingerprint() in found
    assert load_prior(sd, **GUIDED).fingerprint() == load_prior(sd, **GUIDED).fingerprint()
    about = load_prior(sd, **GUIDED).describe()
    assert (about["prompt"], about["negative_prompt"], about["guidance_scale"]) == (PROMPT, NEGATIVE, 3.0)
    assert len(about["prompt_sha256"]) == 64


def test_guidance_is_two_rows_of_the_network_and_is_said_so(sd, capsys):
    """Counted at the network; shown by inspect."""
    rows = []
    for way, factor in (({"prompt": PROMPT}, 1), (GUIDED, 2)):
        prior = load_prior(sd, **way)
        net = prior.prior.net.model
        handle = net.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
        prior(torch.randn(3, 4, 8, 8), torch.tensor(500.0))
        handle.remove()
        assert rows.pop() == 3 * factor == 3 * prior.rows_per_call
    _, shown, _ = run(capsys, "prior", "inspect", sd, "--prompt", PROMPT, "--guidance-scale", "3", "--json")
    about = json.loads(shown)
    assert about["prompt"] == PROMPT and about["guidance_scale"] == 3 and "two rows of the network" in about["guidance"]
    assert "guidance" not in load_prior(sd, prompt=PROMPT).card


def test_a_row_of_a_batch_is_as_alone(sd):
    prior = load_prior(sd, **GUIDED)
    x, t = torch.randn(3, 4, 8, 8), torch.tensor([100.0, 500.0, 900.0])
    whole = prior(x, t).mean
    alone = torch.cat([prior(x[i : i + 1], t[i : i + 1]).mean for i in range(3)])
    torch.testing.assert_close(whole, alone, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(copy.deepcopy(prior)(x, t).mean, whole)


# Files of embeddings


def test_a_file_of_embeddings_is_the_prompt(kept, tmp_path):
    """With the file, no text encoder is there; the prior is the same to the bit, and so is its fingerprint."""
    for kind, out in (("stable_diffusion", "a"), ("stable_diffusion_xl", "b"), ("stable_diffusion_3", "c")):
        where, file = kept / kind, tmp_path / f"{out}.safetensors"
        embed_to_file(where, file, PROMPT, NEGATIVE)
        bare = tmp_path / out
        shutil.copytree(where, bare, ignore=shutil.ignore_patterns("text_encoder*", "tokenizer*"))
        with pytest.raises(InputError, match=r"no tokenizer/: .*--embeddings FILE"):
            load_prior(bare, **GUIDED)
        mine, theirs = load_prior(bare, embeddings=file, guidance_scale=3.0), load_prior(where, **GUIDED)
        x, t = torch.randn(2, *mine.event_shape), torch.tensor(0.5 * mine.schedule.t_max)
        torch.testing.assert_close(mine(x, t).mean, theirs(x, t).mean, atol=0, rtol=0)
        assert mine.fingerprint() == theirs.fingerprint()
        assert load_prior(bare, embeddings=file).fingerprint() == load_prior(where, prompt=PROMPT).fingerprint()


def test_the_network_alone_with_its_text_encoders_beside_it(sd):
    """A bare model folder: its latents are the data, and the text is that of the pipeline around it."""
    prior = load_prior(sd / "unet", prompt=PROMPT)
    x, t = torch.randn(1, 4, 8, 8), torch.tensor(300.0)
    torch.testing.assert_close(prior(x, t).mean, load_prior(sd, prompt=PROMPT)(x, t).mean)
    assert prior.data_shape == (4, 8, 8)


def test_embeddings_made_with_diffusers(sd, tmp_path):
    """A file without our metadata: the tensors alone, under diffusers' names."""
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(sd)
    given, against = pipe.encode_prompt(PROMPT, "cpu", 1, True, NEGATIVE)
    file = tmp_path / "theirs.safetensors"
    save_file({"prompt_embeds": given, "negative_prompt_embeds": against.contiguous()}, file)
    x, t = torch.randn(2, 4, 8, 8), torch.tensor(500.0)
    mine = load_prior(sd, embeddings=file, guidance_scale=3.0)
    torch.testing.assert_close(mine(x, t).mean, load_prior(sd, **GUIDED)(x, t).mean)
    assert mine.describe()["prompt"] is None
    with pytest.raises(InputError, match="does not say of which text it is"):
        load_prior(sd, embeddings=file, prompt=PROMPT)


def test_the_command_embed(sd, tmp_path, capsys):
    out = tmp_path / "cat.safetensors"
    code, made, _ = run(capsys, "prior", "embed", sd, "--prompt", PROMPT, "--out", out)
    assert code == 0 and "12 tokens" in made and str(out) in made
    assert set(load_file(out)) == {"prompt_embeds", "negative_prompt_embeds"}
    assert "--overwrite" in refused(capsys, "prior", "embed", sd, "--prompt", PROMPT, "--out", out)
    assert "NAME.safetensors" in refused(capsys, "prior", "embed", sd, "--out", tmp_path / "cat.pt")
    shown = json.loads(run(capsys, "prior", "inspect", sd, "--embeddings", out, "--json")[1])
    assert shown["prompt"] == PROMPT
    long = "a cat " * 9
    _, cut, _ = run(capsys, "prior", "embed", sd, "--prompt", long, "--out", tmp_path / "long.safetensors")
    assert "takes 12 tokens; left out: 'a cat a cat a cat a cat'" in cut
    assert any("left out" in doubt for doubt in load_prior(sd, prompt=long).card["unsure"])


def test_an_own_text_encoder_makes_another_prompt(own):
    """The hash that stands for the prompt is of the tokens and the encoder, so that another encoder is another."""
    before = load_prior(own, prompt=PROMPT).describe()
    models.clip_encoder(seed=77).save_pretrained(own / "text_encoder")
    after = load_prior(own, prompt=PROMPT).describe()
    assert before["prompt"] == after["prompt"] and before["prompt_sha256"] != after["prompt_sha256"]


# LoRA

TO_Q = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
TEXT_Q = "text_model.encoder.layers.0.self_attn.q_proj"
PROJECTION = "down_blocks.0.attentions.0.proj_in"


def lora_tensors(network=TO_Q, rank=2, width=16, seed=0):
    r = torch.Generator().manual_seed(seed)
    return torch.randn(rank, width, generator=r), torch.randn(width, rank, generator=r)


LAYOUTS = {
    "diffusers": (f"unet.{TO_Q}.lora_A.weight", f"unet.{TO_Q}.lora_B.weight", None),
    "peft": (f"base_model.model.{TO_Q}.lora_A.weight", f"base_model.model.{TO_Q}.lora_B.weight", None),
    "older": (f"unet.{TO_Q}.lora.down.weight", f"unet.{TO_Q}.lora.up.weight", None),
    "processors": (
        f"{TO_Q.replace('.to_q', '.processor.to_q')}_lora.down.weight",
        f"{TO_Q.replace('.to_q', '.processor.to_q')}_lora.up.weight",
        None,
    ),
    "kohya": (
        f"lora_unet_{TO_Q.replace('.', '_')}.lora_down.weight",
        f"lora_unet_{TO_Q.replace('.', '_')}.lora_up.weight",
        f"lora_unet_{TO_Q.replace('.', '_')}.alpha",
    ),
    "kohya of XL": (
        "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q.lora_down.weight",
        "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q.lora_up.weight",
        "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q.alpha",
    ),
}


def layer(network, name):
    return network.get_submodule(name).weight


@pytest.mark.parametrize("layout", LAYOUTS)
def test_lora_is_added_to_the_weights(sd, tmp_path, layout):
    """W + scale (alpha / r) B A, alpha = r where none is stated; no other layer changes."""
    down, up, alpha = LAYOUTS[layout]
    a, b = lora_tensors()
    file = tmp_path / "style.safetensors"
    save_file({down: a, up: b} | ({alpha: torch.tensor(4.0)} if alpha else {}), file)
    plain, merged = load_prior(sd, prompt=PROMPT), load_prior(sd, prompt=PROMPT, lora=file, lora_scale=0.5)
    weights = [dict(p.prior.net.model.named_parameters()) for p in (plain, merged)]
    changed = {k for k in weights[0] if not torch.equal(weights[0][k], weights[1][k])}
    assert changed == {f"{TO_Q}.weight"}
    factor = 0.5 * (4 / 2 if alpha else 1)
    torch.testing.assert_close(weights[1][f"{TO_Q}.weight"], weights[0][f"{TO_Q}.weight"] + factor * b @ a)
    assert merged.fingerprint() != plain.fingerprint()
    assert merged.card["lora"]["file"] == "style.safetensors" and len(merged.card["lora"]["sha256"]) == 64
    assert load_prior(sd, prompt=PROMPT, lora=file, lora_scale=0).fingerprint() == plain.fingerprint()


def test_alpha_of_diffusers_metadata_and_convolutions(sd, tmp_path):
    a, b = lora_tensors()
    names = {
        f"unet.{PROJECTION}.lora_A.weight": a[..., None, None],
        f"unet.{PROJECTION}.lora_B.weight": b[..., None, None],
    }
    metadata = {"lora_adapter_metadata": json.dumps({"unet.r": 2, "unet.lora_alpha": 6})}
    save_file(names, tmp_path / "c.safetensors", metadata=metadata)
    before, after = (
        load_prior(sd, prompt=PROMPT, **way).prior.net.model for way in ({}, {"lora": tmp_path / "c.safetensors"})
    )
    change = layer(after, PROJECTION) - layer(before, PROJECTION)
    torch.testing.assert_close(change, 3 * (b @ a).reshape(change.shape), atol=1e-5, rtol=1e-4)


def test_tensors_that_are_no_layer_of_a_lora_are_named(sd, tmp_path):
    a, b = lora_tensors()
    odd = {f"extra_{k}.weight": torch.ones(1) for k in range(5)}
    save_file({f"unet.{TO_Q}.lora_A.weight": a, f"unet.{TO_Q}.lora_B.weight": b} | odd, tmp_path / "odd.safetensors")
    said = load_prior(sd, prompt=PROMPT, lora=tmp_path / "odd.safetensors").card["unsure"]
    assert any("left out: extra_0.weight, extra_1.weight, extra_2.weight and 2 more" in doubt for doubt in said)


@pytest.mark.parametrize(
    "names",
    [
        ("text_encoder.{}.lora_A.weight", "text_encoder.{}.lora_B.weight"),
        ("text_encoder.{}.lora_linear_layer.down.weight", "text_encoder.{}.lora_linear_layer.up.weight"),
        ("lora_te_{_}.lora_down.weight", "lora_te_{_}.lora_up.weight"),
    ],
)
def test_lora_of_a_text_encoder_changes_the_embeddings(sd, tmp_path, names):
    a, b = lora_tensors()
    file = tmp_path / "words.safetensors"
    down, up = (n.replace("{_}", TEXT_Q.replace(".", "_")).replace("{}", TEXT_Q) for n in names)
    save_file({down: a, up: b}, file)
    merged = load_prior(sd, prompt=PROMPT, lora=file)
    assert merged.describe()["prompt_sha256"] != load_prior(sd, prompt=PROMPT).describe()["prompt_sha256"]
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(sd)
    with torch.no_grad():
        pipe.text_encoder.get_submodule(TEXT_Q.removeprefix("text_model.")).weight.add_(b @ a)
        theirs = pipe.encode_prompt(PROMPT, "cpu", 1, False)[0]
    torch.testing.assert_close(merged.prior.net.given_prompt_embeds, theirs, atol=1e-5, rtol=1e-4)


def test_lora_serves_models_without_a_text(tmp_path):
    from test_diffusers import pipeline

    net = pipeline(tmp_path / "plain", diffusers.DDPMScheduler())
    name = next(n for n, m in net.named_modules() if n.endswith("to_q"))
    width = net.get_submodule(name).weight.shape[0]
    a, b = lora_tensors(width=width)
    save_file({f"unet.{name}.lora_A.weight": a, f"unet.{name}.lora_B.weight": b}, tmp_path / "l.safetensors")
    merged = load_prior(tmp_path / "plain", lora=tmp_path / "l.safetensors")
    torch.testing.assert_close(layer(merged.net.model, name), layer(net, name) + b @ a, atol=1e-5, rtol=1e-4)


# Files as they come


def test_variants_and_shards(sd, tmp_path):
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(sd)
    pipe.to(dtype=torch.float16).save_pretrained(tmp_path / "half", variant="fp16")
    with pytest.raises(CheckpointError, match="give variant=fp16"):
        load_prior(tmp_path / "half", prompt=PROMPT)
    half = load_prior(tmp_path / "half", prompt=PROMPT, variant="fp16")
    x, t = torch.randn(1, 4, 8, 8), torch.tensor(500.0)
    assert next(half.prior.parameters()).dtype == torch.float16
    torch.testing.assert_close(half(x, t).mean, load_prior(sd, prompt=PROMPT)(x, t).mean, atol=0.03, rtol=0.03)
    shutil.copytree(sd, tmp_path / "parts")
    for part, network in (("unet", models.unet()), ("text_encoder", models.clip_encoder())):
        shutil.rmtree(tmp_path / "parts" / part)
        network.save_pretrained(tmp_path / "parts" / part, max_shard_size="20KB")
        assert len(list((tmp_path / "parts" / part).glob("*-of-*.safetensors"))) > 1
    parts = load_prior(tmp_path / "parts", prompt=PROMPT)
    assert parts.fingerprint() == load_prior(sd, prompt=PROMPT).fingerprint()
    for part in ("unet", "text_encoder"):
        lost = sorted((tmp_path / "parts" / part).glob("*-of-*.safetensors"))[1]
        whole = lost.read_bytes()
        lost.unlink()
        with pytest.raises(CheckpointError, match=f"{part}: the download is not complete: {lost.name} is missing"):
            load_prior(tmp_path / "parts", prompt=PROMPT)
        lost.write_bytes(whole)


# Bad input: one line, exit code 2


def fit(capsys, tmp_path, prior, *words):
    """The one line in which `deft fit` with these words ends."""
    line = refused(capsys, "fit", "--prior", prior, "--data", "fashion", "--out", tmp_path / "run", *words)
    assert not (tmp_path / "run").exists()
    return line


BAD = {
    "guidance below 1": (("--guidance-scale", "0.5"), "guidance_scale takes a number from 1"),
    "guidance that is no number": (("--guidance-scale", "much"), "guidance_scale takes a number from 1"),
    "guidance not finite": (("--guidance-scale", "inf"), "guidance_scale takes a number from 1"),
    "guidance from nothing to nothing": (("--guidance-scale", "3"), "they are the same: give prompt"),
    "a negative prompt without guidance": (("--prompt", "a", "--negative-prompt", "b"), "it works by guidance"),
    "a prompt of two lines": (("--prompt", "a\nb"), "prompt takes one line of text"),
    "no such file": (("--embeddings", "none.safetensors"), "no such file of embeddings"),
    "no such LoRA": (("--lora", "none.safetensors"), "no such file of a LoRA"),
    "a label": (("--prior-option", "label=3"), "takes a text and no class"),
    "said twice": (("--prompt", "a", "--prior-option", "prompt=b"), "prompt is given twice"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_words_are_one_line(sd, tmp_path, capsys, case):
    words, says = BAD[case]
    assert says in fit(capsys, tmp_path, sd, *words)


def test_a_prompt_for_a_prior_without_a_text(tmp_path, kept, capsys):
    from test_diffusers import pipeline

    pipeline(tmp_path / "plain", diffusers.DDPMScheduler())
    for name in ("fashion", tmp_path / "plain"):
        line = fit(capsys, tmp_path, name, "--prompt", "a cat")
        assert "has no text encoder" in line and "leave" in line
    with pytest.raises(InputError, match=r"class for none, .* or label is it"):
        load_prior(kept / "dit", label="none", guidance_scale=2.0)
    with pytest.raises(InputError, match="neither text- nor class-conditional"):
        load_prior(tmp_path / "plain", guidance_scale=2.0)
    with pytest.raises(InputError, match="has no text encoder"):
        embed_to_file(kept / "dit", tmp_path / "x.safetensors", "a")


def test_files_of_another_model(kept, sd, tmp_path):
    xl, file = kept / "stable_diffusion_xl", tmp_path / "e.safetensors"
    embed_to_file(sd, file, PROMPT)
    with pytest.raises(InputError, match="embeddings for Stable Diffusion, and this model is Stable Diffusion XL"):
        load_prior(xl, embeddings=file)
    save_file({"prompt_embeds": torch.zeros(1, 12, 24)}, tmp_path / "w.safetensors")
    with pytest.raises(InputError, match=r"embeddings of another model: prompt_embeds has 24 numbers .* takes 16"):
        load_prior(sd, embeddings=tmp_path / "w.safetensors")
    save_file({"prompt_embeds": torch.zeros(1, 12, 40)}, tmp_path / "p.safetensors")
    with pytest.raises(InputError, match="another model: pooled_prompt_embeds has none"):
        load_prior(xl, embeddings=tmp_path / "p.safetensors")
    save_file({"x": torch.zeros(3)}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="holds no embeddings of a prompt"):
        load_prior(sd, embeddings=tmp_path / "x.safetensors")
    save_file({"prompt_embeds": torch.zeros(2, 12, 16)}, tmp_path / "two.safetensors")
    with pytest.raises(CheckpointError, match="one prompt a file"):
        load_prior(sd, embeddings=tmp_path / "two.safetensors")
    (tmp_path / "d.safetensors").write_bytes(file.read_bytes()[:-40])
    with pytest.raises(CheckpointError, match=r"damaged|truncated"):
        load_prior(sd, embeddings=tmp_path / "d.safetensors")
    with pytest.raises(InputError, match="given with embeddings"):
        load_prior(sd, embeddings=file, prompt="a dog")
    assert load_prior(sd, embeddings=file, prompt=PROMPT).describe()["prompt"] == PROMPT
    bytes_ = bytearray(file.read_bytes())
    bytes_[-3] ^= 1
    (tmp_path / "flip.safetensors").write_bytes(bytes_)
    with pytest.raises(CheckpointError, match="is damaged"):
        load_prior(sd, embeddings=tmp_path / "flip.safetensors")
    a, b = lora_tensors(width=24)
    pair = (f"unet.{TO_Q}.lora_A.weight", f"unet.{TO_Q}.lora_B.weight")
    for name, tensors, says in (
        ("wide", {pair[0]: a, pair[1]: b}, "LoRA of another model: its layer .* is 24 x 24"),
        ("named", {"transformer.q.lora_A.weight": a, "transformer.q.lora_B.weight": b}, "is none of this"),
        ("half", {pair[0]: a}, "is not complete"),
        ("dora", {pair[0]: a, f"unet.{TO_Q}.dora_scale": b}, "belongs to DoRA"),
        ("none", {"x": a}, "holds no LoRA"),
        ("bias", {pair[0]: a, pair[1]: b, f"unet.{TO_Q}.lora_B.bias": b[:, 0].clone()}, "belongs to LoRA with biases"),
        ("rank", {pair[0]: a[:0], pair[1]: b[:, :0]}, "different ranks, or none"),
        ("complex", {pair[0]: a * 1j, pair[1]: b * 1j}, "complex"),
    ):
        save_file(tensors, tmp_path / f"{name}.safetensors")
        with pytest.raises(DeftError, match=says) as error:
            load_prior(sd, prompt=PROMPT, lora=tmp_path / f"{name}.safetensors")
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("alpha", "metadata", "options", "says"),
    [
        (torch.tensor(float("nan")), None, {}, "alpha of .* is nan"),
        (torch.tensor(float("inf")), None, {}, "alpha of .* is inf"),
        (torch.ones(2), None, {}, "more than one number for alpha"),
        (None, '{"unet.lora_alpha": NaN}', {}, "alpha of .* is nan"),
        (None, "[" * 100_000, {"lora_scale": 1e300}, r"too large for float32: lower lora_scale \(1e\+300\)"),
        (torch.tensor(1e8), None, {"dtype": "float16"}, "too large for float16"),
    ],
)
def test_lora_never_makes_weights_that_are_not_finite(sd, tmp_path, alpha, metadata, options, says):
    a, b = lora_tensors()
    tensors = {f"unet.{TO_Q}.lora_A.weight": a, f"unet.{TO_Q}.lora_B.weight": b}
    tensors |= {} if alpha is None else {f"unet.{TO_Q}.alpha": alpha}
    file = tmp_path / "l.safetensors"
    save_file(tensors, file, metadata=metadata and {"lora_adapter_metadata": metadata})
    with pytest.raises(DeftError, match=says) as error:
        load_prior(sd, prompt=PROMPT, lora=file, **options)
    assert "\n" not in str(error.value)


MISSING = {
    "tokenizer": "no tokenizer/: .*--embeddings FILE",
    "text_encoder": "no text_encoder/: .*--embeddings FILE",
    "vae": "no vae/config.json, which it lists: the download is not complete",
    "unet": "no unet/config.json",
}


@pytest.mark.parametrize("part", MISSING)
def test_a_folder_without_a_part(own, part, capsys):
    shutil.rmtree(own / part)
    assert re.search(MISSING[part], refused(capsys, "prior", "inspect", own, "--prompt", PROMPT))


def test_other_damage(own):
    edit(own / "model_index.json", text_encoder=["transformers", "PreTrainedModel"])
    with pytest.raises(InputError, match="text_encoder is a 'PreTrainedModel'; read are CLIPTextModel"):
        load_prior(own, prompt=PROMPT)
    edit(own / "model_index.json", text_encoder=["transformers", "CLIPTextModel"])
    (own / "tokenizer/tokenizer.json").unlink(missing_ok=True)
    for file in (own / "tokenizer").glob("*.json"):
        file.write_text("{")
    with pytest.raises(DeftError, match="tokenizer") as error:
        load_prior(own, prompt=PROMPT)
    assert "\n" not in str(error.value)


def test_a_text_encoder_runs_no_code(own):
    """Of a pickle in its folder nothing is run; a damaged or a too small file is one line."""

    class Evil:
        def __reduce__(self):
            return exec, (f"open({str(own / 'ran')!r}, 'w')",)

    weights = own / "text_encoder/model.safetensors"
    whole = weights.read_bytes()
    for damage in (whole[:100], whole[:-200], b"\0" * 50):
        weights.write_bytes(damage)
        with pytest.raises(CheckpointError, match="text_encoder") as error:
            load_prior(own, prompt=PROMPT)
        assert "\n" not in str(error.value)
    weights.unlink()
    torch.save({"evil": Evil()}, own / "text_encoder/pytorch_model.bin")
    with pytest.raises(CheckpointError, match="text encoder cannot be loaded") as error:
        load_prior(own, prompt=PROMPT)
    assert "\n" not in str(error.value) and not (own / "ran").exists()
    (own / "text_encoder/pytorch_model.bin").unlink()
    weights.write_bytes(whole)
    edit(own / "text_encoder/config.json", hidden_size=10**6, num_hidden_layers=10**4)
    with pytest.raises(CheckpointError, match="text encoder cannot be loaded"):
        load_prior(own, prompt=PROMPT)


CHANNELS = {
    5: "depth model",
    7: "upscaler",
    8: "editing model",
    9: "inpainting model.*--task inpaint",
    6: "further picture",
}


@pytest.mark.parametrize("channels", CHANNELS)
def test_networks_that_are_shown_a_picture(own, channels):
    shutil.rmtree(own / "unet")
    models.unet(in_channels=channels).save_pretrained(own / "unet")
    with pytest.raises(InputError, match=CHANNELS[channels]) as error:
        load_prior(own, prompt=PROMPT)
    assert f"takes {channels} channels and returns 4" in str(error.value) and "\n" not in str(error.value)


REFUSED = {
    "StableDiffusionControlNetPipeline": "through a ControlNet; take the text-to-image pipeline",
    "StableUnCLIPImg2ImgPipeline": "embedding of a picture",
    "StableDiffusionImageVariationPipeline": "shown a picture in place of a text",
    "StableDiffusionUpscalePipeline": "sr4",
    "StableDiffusionLatentUpscalePipeline": "sr4",
    "StableDiffusionInstructPix2PixPipeline": "the picture that it edits",
    "StableDiffusionDepth2ImgPipeline": "map of depths",
    "FluxFillPipeline": "--task inpaint",
    "FluxControlPipeline": "edges or depths",
    "LatentConsistencyModelPipeline": "distilled",
    "KandinskyV22Pipeline": "embedding of a picture",
}


@pytest.mark.parametrize("kind", REFUSED)
def test_pipelines_that_are_no_prior(own, kind):
    edit(own / "model_index.json", _class_name=kind)
    with pytest.raises(InputError, match=REFUSED[kind]) as error:
        load_prior(own, prompt=PROMPT)
    assert kind in str(error.value) and "; take " in str(error.value) and "\n" not in str(error.value)


NETWORKS = {
    "unCLIP": ({"class_embed_type": "projection", "projection_class_embeddings_input_dim": 8}, "unCLIP"),
    "consistency": ({"time_cond_proj_dim": 8}, "latent consistency"),
    "noise level": ({"num_class_embeds": 10}, "noise level"),
    "refiner": (
        {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 1320,
        },
        "refiner",
    ),
}


@pytest.mark.parametrize("case", NETWORKS)
def test_networks_that_want_more_than_a_text(own, case):
    options, says = NETWORKS[case]
    edit(own / "unet/config.json", **options)
    with pytest.raises(InputError, match=says) as error:
        load_prior(own, prompt=PROMPT)
    assert "\n" not in str(error.value)


def test_other_families_are_named(own):
    edit(own / "unet/config.json", _class_name="AuraFlowTransformer2DModel")
    with pytest.raises(
        InputError, match=r"of a AuraFlowTransformer2DModel, .*SD3Transformer2DModel.*FILE\.py:FUNCTION"
    ):
        load_prior(own, prompt=PROMPT)


def test_hub_ids_that_are_not_to_be_had(monkeypatch, capsys):
    import huggingface_hub

    class GatedRepoError(Exception):
        pass

    for error, says in (
        (GatedRepoError("401 Client Error.\nCannot access gated repo"), "is gated on the hub: accept its terms there"),
        (OSError("Repository Not Found\nfor url"), "could not be had from the hub"),
    ):

        def fails(*args, error=error, **options):
            raise error

        monkeypatch.setattr(huggingface_hub, "snapshot_download", fails)
        assert says in refused(capsys, "prior", "inspect", "somebody/some-model", "--prompt", "a")


# In Python, and behind a service


def test_load_prior_of_the_package(sd):
    prior = deft.load_prior(str(sd), prompt=PROMPT, guidance_scale=3.0)
    assert prior.loaded_with == (f"prompt={PROMPT}", "guidance_scale=3.0")
    assert deft.sample(prior, 2, steps=2).shape == (2, 4, 8, 8)
