"""deft prior embed"""

from __future__ import annotations

from pathlib import Path

import click

from deft.cli import common
from deft.cli.common import Output, json_option
from deft.errors import InputError
from deft.prior.embed import embed_to_file


@click.command()
@click.argument("model", metavar="MODEL", type=common.SOURCE)
@click.option("--prompt", metavar="TEXT", default="", help="The text.  [default: none]")
@click.option("--negative-prompt", metavar="TEXT", default="", help="The text that guidance leads away from.")
@click.option("--lora", metavar="FILE", help="LoRA weights, of which those of the text encoders are merged.")
@click.option("--variant", metavar="NAME", help="Of the files' names (fp16).")
@click.option("--out", type=common.FilePath(), required=True, help="The file to write, FILE.safetensors.")
@click.option("--overwrite", is_flag=True, help="Write over a file that is there.")
@json_option
def embed(
    model: str,
    prompt: str,
    negative_prompt: str,
    lora: str | None,
    variant: str | None,
    out: Path,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Write the embeddings of a prompt to a file, for --embeddings.

    \b
    deft prior embed sd/ --prompt "a photograph of a harbour" --out harbour.safetensors
    deft fit --prior sd/ --embeddings harbour.safetensors --data photos/ --out run

    MODEL is a text-conditional pipeline of diffusers. Of it the tokenizers and text encoders are read, no network. The
    file holds the negative prompt as well, so that it serves with guidance and without.
    """
    output = Output(as_json)
    if out.suffix != ".safetensors":
        raise InputError(f"--out is a file of embeddings, NAME.safetensors, got {out}")
    if out.exists() and not overwrite:
        raise InputError(f"{out} is there already: give another --out, or --overwrite")
    about = embed_to_file(model, out, prompt, negative_prompt, lora=lora, variant=variant)
    for note in about.pop("notes"):
        output.say(f"note: {note}")
    output.say(
        f"wrote {out}: {about['family']}, {about['tokens']} tokens, sha256 {about['sha256'][:12]}…; next: deft fit"
        f" --prior {model} --embeddings {out}"
    )
    output.result({"out": str(out), **about})
