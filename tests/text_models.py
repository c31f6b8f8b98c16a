"""Text-conditional pipelines of diffusers with the structure of the published ones, at reduced width, with random
weights, and with tokenizers of a few entries: what the tests of text-conditional priors load.
"""

from __future__ import annotations

import json
import string

import diffusers
import torch
import transformers

FEW = {"sample_size": 8, "layers_per_block": 1, "norm_num_groups": 8}
LETTERS = string.ascii_lowercase
PROMPT, NEGATIVE = "a cat on a hat", "blur"


def clip_tokenizer(folder, length=12):
    """A byte-pair vocabulary of letters and one word, in the files of a published CLIP."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = [*LETTERS, *(c + "</w>" for c in LETTERS), "ca", "cat</w>", "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({c: i for i, c in enumerate(entries)}))
    (folder / "merges.txt").write_text("#version: 0.2\nc a\nca t</w>\n")
    end = "<|endoftext|>"
    config = {"bos_token": "<|startoftext|>", "eos_token": end, "unk_token": end, "pad_token": end}
    config |= {"tokenizer_class": "CLIPTokenizer", "model_max_length": length}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return transformers.CLIPTokenizer.from_pretrained(folder)


def unigram_tokenizer(folder, kind="T5Tokenizer"):
    """A unigram vocabulary of letters, in the files of a published T5 (or Gemma)."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    folder.mkdir(parents=True, exist_ok=True)
    entries = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("<bos>", 0.0), ("▁", -2.0), ("▁cat", -1.0)]
    made = Tokenizer(models.Unigram(entries + [(c, -3.0) for c in LETTERS], unk_id=2, byte_fallback=False))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    shape = {"T5Tokenizer": "$A </s>"}.get(kind, "<bos> $A")
    made.post_processor = processors.TemplateProcessing(single=shape, special_tokens=[("</s>", 1), ("<bos>", 3)])
    made.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": kind, "model_max_length": 512, "eos_token": "</s>", "unk_token": "<unk>"}
    config |= {"pad_token": "<pad>", "bos_token": "<bos>"}
    if kind == "T5Tokenizer":
        config |= {"extra_ids": 0}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return getattr(transformers, kind).from_pretrained(folder)


def clip_encoder(width=16, projected=False, length=12, seed=0):
    torch.manual_seed(seed)
    config = transformers.CLIPTextConfig(
        vocab_size=56, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=length, bos_token_id=54, eos_token_id=55, pad_token_id=55, projection_dim=width,
    )  # fmt: skip
    kind = transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel
    return kind(config).eval()


def t5_encoder(width=16, seed=1):
    torch.manual_seed(seed)
    config = transformers.T5Config(
        vocab_size=40, d_model=width, d_kv=8, d_ff=32, num_layers=2, num_heads=2, feed_forward_proj="gated-gelu"
    )
    return transformers.T5EncoderModel(config).eval()


def gemma_encoder(width=16, seed=2):
    torch.manual_seed(seed)
    config = transformers.Gemma2Config(
        vocab_size=40, hidden_size=width, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, pad_token_id=0, eos_token_id=1, bos_token_id=3,
    )  # fmt: skip
    return transformers.Gemma2Model(config).eval()


def autoencoder(latents=4, seed=3, **options):
    torch.manual_seed(seed)
    return diffusers.AutoencoderKL(
        in_channels=3, out_channels=3, latent_channels=latents, block_out_channels=(8, 8), layers_per_block=1,
        norm_num_groups=4, mid_block_add_attention=False, down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, **options,
    ).eval()  # fmt: skip


def unet(seed=4, **options):
    torch.manual_seed(seed)
    usual = FEW | {
        "in_channels": 4, "out_channels": 4, "block_out_channels": (16, 32), "cross_attention_dim": 16,
        "attention_head_dim": 2, "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    }  # fmt: skip
    return diffusers.UNet2DConditionModel(**(usual | options)).eval()


def scheduler(**options):
    """As Stable Diffusion's."""
    usual = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "clip_sample": False}
    return diffusers.DDIMScheduler(**(usual | {"set_alpha_to_one": False, "steps_offset": 1} | options))


def stable_diffusion(folder, **options):
    """1.x: eps, one CLIP. 2.x: give prediction_type v_prediction and use_linear_projection."""
    made = diffusers.StableDiffusionPipeline(
        vae=autoencoder(), text_encoder=clip_encoder(), tokenizer=clip_tokenizer(folder / "tokenizer"),
        unet=unet(**options.pop("unet", {})), scheduler=scheduler(**options), safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    made.save_pretrained(folder)
    return made


def stable_diffusion_xl(folder, zeros=True):
    """Two CLIPs side by side (16 and 24 wide), the second's pooled state, and six numbers of sizes."""
    net = unet(
        cross_attention_dim=40, use_linear_projection=True, addition_embed_type="text_time",
        addition_time_embed_dim=8, projection_class_embeddings_input_dim=24 + 6 * 8,
        transformer_layers_per_block=(2, 1),
    )  # fmt: skip
    made = diffusers.StableDiffusionXLPipeline(
        vae=autoencoder(scaling_factor=0.13025, force_upcast=True), text_encoder=clip_encoder(),
        text_encoder_2=clip_encoder(24, projected=True, seed=5), tokenizer=clip_tokenizer(folder / "tokenizer"),
        tokenizer_2=clip_tokenizer(folder / "tokenizer_2"), unet=net,
        scheduler=diffusers.EulerDiscreteScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012),
        force_zeros_for_empty_prompt=zeros, add_watermarker=False,
    )  # fmt: skip
    made.save_pretrained(folder)
    return made


def pixart(folder, sigma=False):
    torch.manual_seed(6)
    net = diffusers.PixArtTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=2, sample_size=8,
        cross_attention_dim=16, caption_channels=16, norm_num_groups=8, use_additional_conditions=False,
    ).eval()  # fmt: skip
    kind = diffusers.PixArtSigmaPipeline if sigma else diffusers.PixArtAlphaPipeline
    made = kind(
        tokenizer=unigram_tokenizer(folder / "tokenizer"), text_encoder=t5_encoder(), vae=autoencoder(),
        transformer=net, scheduler=diffusers.DDIMScheduler(clip_sample=False),
    )  # fmt: skip
    made.save_pretrained(folder)
    return made


def stable_diffusion_3(folder, t5=True):
    torch.manual_seed(7)
    net = diffusers.SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=16, num_layers=2, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=48, caption_projection_dim=16, pooled_projection_dim=40, out_channels=16,
        pos_embed_max_size=8,
    ).eval()  # fmt: skip
    made = diffusers.StableDiffusion3Pipeline(
        transformer=net, scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=autoencoder(16, scaling_factor=1.5305, shift_factor=0.0609), text_encoder=clip_encoder(projected=True),
        tokenizer=clip_tokenizer(folder / "tokenizer"), text_encoder_2=clip_encoder(24, projected=True, seed=5),
        tokenizer_2=clip_tokenizer(folder / "tokenizer_2"), text_encoder_3=t5_encoder(48) if t5 else None,
        tokenizer_3=unigram_tokenizer(folder / "tokenizer_3") if t5 else None,
    )  # fmt: skip
    made.save_pretrained(folder)
    return made


def flux(folder, guidance_embeds=True):
    torch.manual_seed(8)
    net = diffusers.FluxTransformer2DModel(
        patch_size=1, in_channels=64, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, pooled_projection_dim=16, guidance_embeds=guidance_embeds, axes_dims_rope=(4, 4, 8),
    ).eval()  # fmt: skip
    made = diffusers.FluxPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=autoencoder(16, scaling_factor=0.3611, shift_factor=0.1159), text_encoder=clip_encoder(),
        tokenizer=clip_tokenizer(folder / "tokenizer"), text_encoder_2=t5_encoder(32),
        tokenizer_2=unigram_tokenizer(folder / "tokenizer_2"), transformer=net,
    )  # fmt: skip
    made.save_pretrained(folder)
    return made


def deep_autoencoder():
    torch.manual_seed(9)
    return diffusers.AutoencoderDC(
        in_channels=3, latent_channels=4, attention_head_dim=8, encoder_block_types=("ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock"), encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8), encoder_layers_per_block=(1, 1), decoder_layers_per_block=(1, 1),
        encoder_qkv_multiscales=((), (5,)), decoder_qkv_multiscales=((), (5,)), scaling_factor=0.41407,
        upsample_block_type="interpolate", downsample_block_type="Conv",
        decoder_norm_types="rms_norm", decoder_act_fns="silu",
    ).eval()  # fmt: skip


def sana(folder):
    torch.manual_seed(10)
    net = diffusers.SanaTransformer2DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=8, num_layers=2,
        num_cross_attention_heads=2, cross_attention_head_dim=8, cross_attention_dim=16, caption_channels=16,
        sample_size=8, patch_size=1,
    ).eval()  # fmt: skip
    made = diffusers.SanaPipeline(
        tokenizer=unigram_tokenizer(folder / "tokenizer", "GemmaTokenizer"), text_encoder=gemma_encoder(),
        vae=deep_autoencoder(), transformer=net, scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
    )  # fmt: skip
    made.save_pretrained(folder)
    return made


def dit(folder):
    torch.manual_seed(11)
    net = diffusers.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=2, sample_size=8,
        num_embeds_ada_norm=1000, norm_num_groups=8,
    ).eval()  # fmt: skip
    made = diffusers.DiTPipeline(net, autoencoder(), diffusers.DDIMScheduler(clip_sample=False))
    made.save_pretrained(folder)
    return made
