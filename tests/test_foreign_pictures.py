"""Pictures, folders and arrays as other people make them: read right, asked about, or refused in a line that leads
out."""

from __future__ import annotations

import io
import os
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image, features

from deft.domains.image.masks import read_mask
from deft.domains.image.reading import ReadOptions, read_images, read_stack
from deft.domains.image.resample import crop_box, resized, resized_hidden
from deft.domains.image.writing import to_pixels
from deft.errors import InputError
from deft.io.arrays import read_arrays
from deft.io.settings import as_range
from toys import pictures, refused, run, save_pictures, toy_prior

GREY = ReadOptions((1, 16, 16))
U = pictures(4)  # uint8 [4, 16, 16]
X = torch.from_numpy(U).float()[:, None] / 127.5 - 1


def reading(**changes):
    return ReadOptions((1, 16, 16), **changes)


def saved(path, array=None, mode=None, **options):
    """A picture file of an array (the first of U)."""
    image = Image.fromarray(U[0] if array is None else array)
    (image if mode is None else image.convert(mode)).save(path, **options)
    return path


def error_of(source, how=GREY):
    with pytest.raises(InputError) as caught:
        read_images(source, how)
    line = str(caught.value)
    assert "\n" not in line and "Traceback" not in line
    return line


# ranges of arrays: (array, --range, what x is, or None for a question that names the likely range)


def floats(low, high, noise=0.0, seed=0):
    rng = np.random.default_rng(seed)
    x = low + (high - low) * U[:, None].astype(np.float64) / 255
    return (x + noise * rng.standard_normal(x.shape)).astype(np.float32)


WHOLE = {
    "0,1": (0, 1),
    "0,255": (0, 255),
    "0,4095": (0, 4095),
    "0,65535": (0, 65535),
    "-1,1": (-1, 1),
    "-0.5,0.5": (-0.5, 0.5),
    "-1000,1000": (-1000, 1000),
    "10,20": (10, 20),
}


@pytest.mark.parametrize("text", WHOLE)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4", "longdouble"])
def test_any_range_of_floats(tmp_path, text, dtype):
    low, high = WHOLE[text]
    np.save(
        tmp_path / "x.npy",
        floats(low, high).astype(dtype) if high < 60000 or dtype != "float16" else floats(low, 60000).astype(dtype),
    )
    if high > 60000 and dtype == "float16":
        pytest.skip("too large for 16 bits")
    for given in (text, (low, high)):
        found = read_images(tmp_path / "x.npy", reading(range=given))
        torch.testing.assert_close(found.x, X, atol=0.02 if dtype == "float16" else 1e-5, rtol=0)


@pytest.mark.parametrize("text", ["0,255", "0,4095", "-1000,1000"])
@pytest.mark.parametrize("dtype", ["uint16", "int16", "int32", "int64", ">i2", ">u4"])
def test_integers_with_a_range(tmp_path, text, dtype):
    low, high = WHOLE[text]
    if low < 0 and "u" in dtype:
        pytest.skip("no sign")
    values = np.round(floats(low, high)).astype(dtype)
    np.savez(tmp_path / "x.npz", x=values)
    found = read_images(tmp_path / "x.npz", reading(range=text))
    torch.testing.assert_close(found.x, X, atol=2.1 / (high - low), rtol=0)
    line = error_of(tmp_path / "x.npz")
    assert "--range" in line and "integer values" in line
    if low == 0:
        assert f"--range {text}" in line


def test_bool_and_one_bit_are_0_and_1(tmp_path):
    np.savez(tmp_path / "x.npz", x=U > 99)
    saved(tmp_path / "one.png", mode="1")
    for how in (GREY, reading(range="0,1")):
        assert read_images(tmp_path / "x.npz", how).x.unique().tolist() == [-1, 1]
        assert read_images(tmp_path / "one.png", how).x.unique().tolist() == [-1, 1]
    assert "leave it out" in error_of(tmp_path / "x.npz", reading(range="0,255"))


@pytest.mark.parametrize(
    ("name", "array", "guess"),
    [
        ("clean 0 to 1", floats(0, 1), "--range 0,1"),
        (
            "one small negative value",
            np.where(np.arange(1024).reshape(4, 1, 16, 16) == 7, -0.0005, floats(0, 1)),
            "--range 0,1",
        ),
        (
            "one large negative value",
            np.where(np.arange(1024).reshape(4, 1, 16, 16) == 7, -0.9, floats(0, 1)),
            "--range 0,1",
        ),
        ("noise 0.02", floats(0, 1, 0.02), "--range 0,1"),
        ("noise 0.1", floats(0, 1, 0.1), "--range 0,1"),
        ("black with noise 0.15", floats(0, 0.2, 0.15), "--range"),
        ("overshoot of a resize", floats(-0.05, 1.05), "--range 0,1"),
        ("mostly black", np.where(np.arange(1024).reshape(4, 1, 16, 16) % 9 == 0, floats(0, 1), -0.001), "--range 0,1"),
        ("0 to 255", floats(0, 255), "--range 0,255"),
        ("0 to 255 with noise", floats(0, 255, 3), "--range 0,255"),
        ("0 to 4095", floats(0, 4095), "--range 0,4095"),
        ("halves", floats(-0.5, 0.5), "--range=-0.5,0.5"),
        ("3 to 7", floats(3, 7), "--range 3,"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_floats_that_are_not_clearly_from_minus_1_are_asked_about(tmp_path, name, array, guess):
    np.savez(tmp_path / "x.npz", x=array)
    line = error_of(tmp_path / "x.npz")
    assert guess in line and "--range=-1,1 if they are right" in line


@pytest.mark.parametrize(
    "array",
    [
        floats(-1, 1),
        np.clip(floats(-1, 1, 0.02), -1, 1),
        np.where(floats(-1, 1) > 0.9, 1, floats(-1, -0.9)),
        floats(-1, 1) * (np.arange(1024).reshape(4, 1, 16, 16) % 50 == 0) + 0.0,
    ],
    ids=["clean", "noisy", "mostly background", "mostly a hole of zeros"],
)
def test_floats_from_minus_1_need_no_range(tmp_path, array):
    np.savez(tmp_path / "x.npz", x=array.astype(np.float32))
    torch.testing.assert_close(
        read_images(tmp_path / "x.npz", reading(constant=True)).x, torch.from_numpy(array).float()
    )


@pytest.mark.parametrize(("low", "high"), [(-0.03, 1.03), (-0.09, 1.09), (0.0, 1.05), (-0.05, 0.5)])
def test_a_little_outside_is_clipped_and_counted(tmp_path, low, high):
    array = floats(low, high)
    np.save(tmp_path / "x.npy", array)
    found = read_images(tmp_path / "x.npy", reading(range="0,1"))
    torch.testing.assert_close(found.x, (torch.from_numpy(array) * 2 - 1).clamp(-1, 1))
    outside = int(((array < -1e-6) | (array > 1 + 1e-6)).sum())
    assert any(f"clipped {outside:,} values" in note and "0,1" in note for note in found.notes)


@pytest.mark.parametrize(
    ("array", "given", "words"),
    [
        (floats(0, 255), "0,1", ["far outside --range 0,1", "--range 0,255"]),
        (floats(-1, 1), "0,1", ["far outside", "--range=-1,1"]),
        (U, "0,1", ["8-bit values, 0 to 255, need no --range"]),
        (floats(0, 4095).astype(np.uint16), "0,255", ["--range 0,4095"]),
        (np.where(np.arange(1024).reshape(4, 1, 16, 16) == 7, 9.0, floats(0, 1)), "0,1", ["number 0", "far outside"]),
        (floats(0, 1, 1e9), "0,1", ["far outside"]),
    ],
)
def test_far_outside_is_an_error(tmp_path, array, given, words):
    np.save(tmp_path / "x.npy", array)
    line = error_of(tmp_path / "x.npy", reading(range=given))
    assert all(word in line for word in words), line


def test_a_measurement_is_not_clipped():
    y = floats(0, 1, 0.05)[:1]
    x, _, _ = read_stack(y, "y", reading(range="0,1", slack=0.6))
    torch.testing.assert_close(x, torch.from_numpy(y) * 2 - 1)
    with pytest.raises(InputError, match="sigma_y"):
        read_stack(y, "y", reading(range="0,1", slack=0.01))


def test_8_bits_take_a_range_too(tmp_path):
    dim = (U // 17).astype(np.uint8)  # 4 bits
    np.save(tmp_path / "x.npy", dim)
    saved(tmp_path / "x.png", dim[0])
    for name in ("x.npy", "x.png"):
        assert "--range 0,15" in error_of(tmp_path / name)
        found = read_images(tmp_path / name, reading(range="0,15")).x
        torch.testing.assert_close(found, torch.from_numpy(dim[: len(found)]).float()[:, None] / 7.5 - 1)
        assert "fill little" not in "".join(read_images(tmp_path / name, reading(range="0,15")).notes)
    assert any("fill little" in note for note in read_images(tmp_path / "x.npy", reading(range="0,1000")).notes)


@pytest.mark.parametrize(("bits", "way"), [(8, "0,255"), (10, "0,1023"), (12, "0,4095"), (14, "0,16383")])
@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_16_bit_pictures_that_hold_fewer_are_asked_about(tmp_path, bits, way, suffix):
    top = 2**bits - 1
    for i in range(2):
        saved(tmp_path / f"{i}.{suffix}", (U[i].astype(np.float64) / 255 * top).round().astype(np.uint16))
    assert f"--range {way} for {bits} bits" in error_of(tmp_path)
    found = read_images(tmp_path, reading(range=way))
    torch.testing.assert_close(found.x, X[:2], atol=2 / top, rtol=0)
    dark = read_images(tmp_path, reading(range="0,65535"))
    assert float(dark.x.max()) < -0.4
    saved(tmp_path / f"bright.{suffix}", (U[2].astype(np.uint16) * 257))  # the rule looks at the whole folder
    assert float(read_images(tmp_path, GREY).x[-1].max()) > 0.5


def test_one_range_for_pictures_of_two_depths_is_refused(tmp_path):
    saved(tmp_path / "a.png")
    saved(tmp_path / "b.png", U[1].astype(np.uint16) * 257)
    assert len(read_images(tmp_path, GREY)) == 2
    assert "cannot be right for both" in error_of(tmp_path, reading(range="0,4095"))


@pytest.mark.parametrize(
    "text", ["", "1", "1,0", "0,0", "a,b", "0,1,2", "0,nan", "0,inf", "0;1", (1,), (2, 1), 7, "windows"]
)
def test_what_is_no_range(tmp_path, text):
    with pytest.raises(InputError, match="LOW,HIGH"):
        as_range(text)
    saved(tmp_path / "a.png")
    assert "LOW,HIGH" in error_of(tmp_path / "a.png", reading(range=text))


# formats, modes


FORMATS = ["png", "bmp", "tif", "gif", "ppm", "pgm", "jpg", "webp", "jp2", "avif", "TIFF", "Jpeg", "jfif", "dib"]


@pytest.mark.parametrize("suffix", FORMATS)
def test_formats(tmp_path, suffix):
    needs = {"webp": "webp", "jp2": "jpg_2000", "avif": "avif"}.get(suffix)
    if needs and not features.check(needs):
        pytest.skip(f"this Pillow has no {needs}")
    saved(tmp_path / f"a.{suffix}")
    for source in (tmp_path, tmp_path / f"a.{suffix}"):
        found = read_images(source, GREY)
        assert found.names == [f"a.{suffix}"] and not found.skipped
        assert (found.x - X[:1]).abs().mean() < 0.05


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp", "gif", "ppm", "webp"])
def test_colour_formats(tmp_path, suffix):
    colour = np.stack([U[0], U[1], U[2]], -1) // 64 * 64  # few colours, for a palette
    saved(tmp_path / f"a.{suffix}", colour, **({"lossless": True} if suffix == "webp" else {}))
    found = read_images(tmp_path / f"a.{suffix}", ReadOptions((3, 16, 16))).x
    torch.testing.assert_close(found[0], torch.from_numpy(colour).permute(2, 0, 1) / 127.5 - 1)
    assert "RGB, expected grey" in error_of(tmp_path / f"a.{suffix}")


@pytest.mark.parametrize(
    ("dtype", "given"), [("float32", "-1,1"), ("float32", "0,1"), ("int32", "-1000,1000"), ("uint16", None)]
)
def test_tiffs_of_other_numbers(tmp_path, dtype, given):
    low, high = WHOLE.get(given, (0, 65535))
    saved(tmp_path / "a.tif", floats(low, high)[0, 0].astype(dtype))
    torch.testing.assert_close(read_images(tmp_path / "a.tif", reading(range=given)).x, X[:1], atol=0.002, rtol=0)
    if given not in (None, "-1,1"):
        assert "--range" in error_of(tmp_path / "a.tif")


MODES = ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I", "F", "I;16", "PA"]


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_is_read_or_refused(tmp_path, mode):
    """In a TIFF (or PNG) of that mode; what is read is the picture, to a colour conversion's rounding."""
    image = Image.fromarray(U[0])
    if mode == "I;16":
        image = Image.fromarray(U[0].astype(np.uint16) * 257)
    elif mode in ("I", "F"):
        image = image.convert(mode)
    elif mode == "PA":
        image = image.convert("LA")
    else:
        image = image.convert("RGB").convert(mode) if mode not in ("1", "L", "LA", "P") else image.convert(mode)
    image.save(tmp_path / "a.tif")
    if mode == "LAB":
        assert "colour mode LAB" in error_of(tmp_path / "a.tif")
        return
    if mode == "CMYK":
        assert "--convert" in error_of(tmp_path / "a.tif")
    found = read_images(tmp_path / "a.tif", reading(convert=True, range="0,255" if mode in ("I", "F") else None)).x
    assert (found - X[:1]).abs().mean() < (1 if mode == "1" else 0.03)


def test_transparency_of_every_kind_is_asked_about(tmp_path):
    saved(tmp_path / "key.png", transparency=int(U[0, 0, 0]))
    pale = Image.fromarray(U[0]).convert("P")
    pale.save(tmp_path / "palette.png", transparency=int(np.asarray(pale)[0, 0]))
    for name in ("key.png", "palette.png"):
        assert "transparent" in error_of(tmp_path / name)
        assert float(read_images(tmp_path / name, reading(convert=True)).x[0, 0, 0, 0]) == -1
    saved(tmp_path / "deep.png", U[0].astype(np.uint16) * 257, transparency=5)
    assert "transparent" in error_of(tmp_path / "deep.png")


def png16(colour):
    """A PNG of 16 bits a channel, which Pillow does not write."""
    import struct
    import zlib

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in colour)
    head = struct.pack(">IIBBBBB", colour.shape[1], colour.shape[0], 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_16_bit_colour(tmp_path):
    colour = np.stack([U[0], U[1], U[2]], -1).astype(np.uint16)
    (tmp_path / "full.png").write_bytes(png16(colour * 257))
    found = read_images(tmp_path / "full.png", ReadOptions((3, 16, 16))).x
    torch.testing.assert_close(found[0], torch.from_numpy(colour.astype(np.float32)).permute(2, 0, 1) / 127.5 - 1)
    (tmp_path / "twelve.png").write_bytes(png16(colour * 16))
    for how in (ReadOptions((3, 16, 16)), ReadOptions((3, 16, 16), range="0,4095")):
        assert "16-bit colour" in error_of(tmp_path / "twelve.png", how)


def test_a_tiff_in_which_0_is_white_is_refused(tmp_path):
    saved(tmp_path / "a.tif", U[0].astype(np.uint16) * 257, tiffinfo={262: 0})
    if Image.open(tmp_path / "a.tif").tag_v2[262] == 0:
        assert "0 is white" in error_of(tmp_path / "a.tif")


def test_postscript_is_not_started(tmp_path, monkeypatch):
    from PIL import EpsImagePlugin

    def started(*_, **__):
        raise AssertionError("a program was started")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", started)
    Image.fromarray(U[0]).save(tmp_path / "a.eps")
    os.rename(tmp_path / "a.eps", tmp_path / "a.png")
    assert "not a picture of a format" in error_of(tmp_path / "a.png")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "tif", "png"])
def test_exif_orientation_is_applied_and_said(tmp_path, orientation, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    back = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    image = Image.fromarray(U[0])
    image = image.transpose(back[orientation]) if orientation > 1 else image
    image.save(tmp_path / f"a.{suffix}", exif=exif, **({"quality": 100} if suffix == "jpg" else {}))
    found = read_images(tmp_path / f"a.{suffix}", GREY)
    assert (found.x - X[:1]).abs().max() < 0.05
    assert any("EXIF" in note for note in found.notes) == (orientation > 1)


# files that are not what they seem


def broken(path):
    saved(path)
    path.write_bytes(path.read_bytes()[:-60])


BAD = {
    "empty.png": lambda p: p.write_bytes(b""),
    "text.png": lambda p: p.write_text("not a picture"),
    "html.jpg": lambda p: p.write_text("<html>404</html>"),
    "half.png": broken,
    "link.png": lambda p: p.symlink_to(".git/annex/objects/gone"),
    "circle.png": lambda p: p.symlink_to(p.name),
    "pipe.png": lambda p: os.mkfifo(p),
    "lfs.png": lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"),
    "short.dcm": lambda p: p.write_bytes(b"\0" * 128 + b"DICM"),
    "text.dcm": lambda p: p.write_text("hello"),
    "text.nii": lambda p: p.write_text("hello"),
    "text.nii.gz": lambda p: p.write_text("hello"),
    "half.gif": lambda p: p.write_bytes(b"GIF89a\x10\x00"),
    "half.tif": lambda p: p.write_bytes(b"II*\x00\x08\x00\x00\x00\xff\xff"),
    "half.webp": lambda p: p.write_bytes(b"RIFF\x10\x00\x00\x00WEBPVP8 "),
    "half.ppm": lambda p: p.write_bytes(b"P5 16 16 255\n123"),
    "large.pgm": lambda p: p.write_bytes(b"P5 20000 20000 255\n123"),
    "larger.pgm": lambda p: p.write_bytes(b"P5 10000 10000 255\n123"),
    "rgba.png": lambda p: Image.new("RGBA", (16, 16), (1, 2, 3, 4)).save(p),
    "other.png": lambda p: Image.fromarray(pictures(1, 32)[0]).save(p),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_named_and_can_be_left_out(tmp_path, name):
    save_pictures(tmp_path / "data", U)
    BAD[name](tmp_path / "data" / name)
    line = error_of(tmp_path / "data")
    assert "1 of 5 images" in line and name in line and "--skip-bad" in line
    found = read_images(tmp_path / "data", reading(skip_bad=True))
    assert len(found) == 4 and found.skipped == [name] and any(name in note for note in found.notes)
    if name not in ("link.png", "circle.png"):
        assert name in error_of(tmp_path / "data" / name)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("link.png", "a link to .git/annex/objects/gone"),
        ("pipe.png", "not a regular file"),
        ("lfs.png", "git lfs pull"),
        ("large.pgm", "400000000 pixels"),
        ("larger.pgm", "100000000 pixels"),
    ],
)
def test_why_a_file_is_bad(tmp_path, name, words):
    save_pictures(tmp_path, U)
    BAD[name](tmp_path / name)
    assert words in error_of(tmp_path)


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root reads everything")
def test_what_may_not_be_read(tmp_path):
    saved(tmp_path / "a.png").chmod(0)
    assert "Permission denied" in error_of(tmp_path)


@pytest.mark.parametrize("source", ["nowhere", "x" * 300 + ".png", "nul\0.png", "nowhere.npz:x", ""])
def test_sources_that_are_not_there(tmp_path, source):
    if source:
        assert "no such file or folder" in error_of(f"{tmp_path}/{source}")


# folders


def test_a_mixed_folder(tmp_path):
    """Everything is read, or named."""
    for i, suffix in enumerate(("png", "tif", "bmp", "gif", "webp")):
        saved(tmp_path / f"{i}.{suffix}", U[i % 4])
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "labels.csv").write_text("")
    (tmp_path / "README").write_text("")
    (tmp_path / ".DS_Store").write_text("")
    np.savez(tmp_path / "x.npz", x=U)
    save_pictures(tmp_path / "sub" / "deeper", U)
    save_pictures(tmp_path / "other", U[:1])
    save_pictures(tmp_path / ".hidden", U[:1])
    found = read_images(tmp_path, GREY)
    assert found.names == ["0.png", "1.tif", "2.bmp", "3.gif", "4.webp"]
    said = "; ".join(found.notes)
    for words in ("1 .txt", "1 .csv", "1 .npz", "1 without a suffix", "5 pictures in 2 subfolders: --recursive"):
        assert words in said, said
    assert (
        len(found.skipped) == 4 + 5
        and "sub/deeper/000.png" in found.skipped
        and "hidden" not in said
        and "DS_Store" not in said
    )
    deep = read_images(tmp_path, reading(recursive=True))
    assert len(deep) == 10 and "sub/deeper/003.png" in deep.names and "--recursive" not in "; ".join(deep.notes)
    assert deep.names == sorted(deep.names)


def test_folders_without_pictures(tmp_path):
    (tmp_path / "empty").mkdir()
    assert "it is empty" in error_of(tmp_path / "empty")
    save_pictures(tmp_path / "outer" / "inner", U)
    assert "4 pictures in 1 subfolder: --recursive takes them" in error_of(tmp_path / "outer")
    (tmp_path / "arrays").mkdir()
    np.savez(tmp_path / "arrays" / "x.npz", x=U)
    assert "1 .npz" in error_of(tmp_path / "arrays") and "x.npz" in error_of(tmp_path / "arrays")
    (tmp_path / "eps").mkdir()
    (tmp_path / "eps" / "a.eps").write_text("%!PS")
    assert "1 .eps" in error_of(tmp_path / "eps")


def test_links_in_a_circle_and_folders_called_png(tmp_path):
    save_pictures(tmp_path / "a.png", U)
    (tmp_path / "a.png" / "up").symlink_to("..")
    saved(tmp_path / "b.png")
    assert "4 pictures in 1 subfolder" in read_images(tmp_path, GREY).notes[0]
    assert len(read_images(tmp_path, reading(recursive=True))) == 5
    assert "for folders" in error_of(tmp_path / "b.png", reading(recursive=True))


@pytest.mark.parametrize(
    ("suffix", "options"),
    [("gif", {}), ("tif", {}), ("webp", {"lossless": True}), ("png", {}), ("apng", {"format": "PNG"})],
)
def test_later_frames_are_said_and_can_be_had(tmp_path, suffix, options):
    first, *rest = [Image.fromarray(u) for u in U]
    path = tmp_path / f"a.{suffix}"
    first.save(path, save_all=True, append_images=rest, **options)
    found = read_images(path, GREY)
    torch.testing.assert_close(found.x, X[:1], atol=0.02, rtol=0)
    assert any("frames 1 to 3" in note and ":all" in note for note in found.notes) and len(found.skipped) == 3
    if suffix == "tif":
        torch.testing.assert_close(read_images(f"{path}:all", GREY).x, X)
        torch.testing.assert_close(read_images(f"{path}:1:3", GREY).x, X[1:3])
        torch.testing.assert_close(read_images(f"{path}:2", GREY).x, X[2:3])
        for part in ("9", "x", "3:1", "-1"):
            assert "frame" in error_of(f"{path}:{part}")


# npz and npy


def zipped(path, **members):
    with zipfile.ZipFile(path, "w") as z:
        for name, content in members.items():
            z.writestr(name.replace("_", "."), content)


def header(descr, shape, magic=b"\x93NUMPY\x01\x00"):
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (118 - len(text)) + b"\n"
    return magic + len(text).to_bytes(2, "little") + text


NO_ARRAY = {
    "torch.npz": (lambda p: torch.save({"x": torch.zeros(2, 1, 16, 16)}, p), "torch.save"),
    "old-torch.npz": (lambda p: torch.save(torch.zeros(2), p, _use_new_zipfile_serialization=False), "a pickle"),
    "zip.npz": (lambda p: zipped(p, readme_txt="hello"), "members that are no arrays (readme.txt)"),
    "empty-zip.npz": (lambda p: zipped(p), "holds no array"),
    "mixed.npz": (lambda p: zipped(p, readme_txt="hello", x_npy=header("|u1", (1,)) + b"\0"), "no arrays"),
    "objects.npz": (lambda p: np.savez(p, x=np.array([{"a": 1}], dtype=object)), "Python objects"),
    "objects.npy": (lambda p: np.save(p, np.array([None, 1], dtype=object)), "Python objects"),
    "empty.npz": (lambda p: p.write_bytes(b""), "it is empty"),
    "text.npy": (lambda p: p.write_text("hello there"), "no NumPy file"),
    "png.npy": (lambda p: Image.fromarray(U[0]).save(p, format="PNG"), "a PNG picture"),
    "hdf5.npz": (lambda p: p.write_bytes(b"\x89HDF\r\n\x1a\n" + b"\0" * 99), "an HDF5 file"),
    "matlab.npy": (lambda p: p.write_bytes(b"MATLAB 5.0 MAT-file" + b"\0" * 99), "a MATLAB file"),
    "gzip.npz": (lambda p: p.write_bytes(b"\x1f\x8b" + b"\0" * 99), "a gzip file"),
    "half.npy": (lambda p: p.write_bytes(header("<f4", (9, 16, 16)) + b"1234"), "truncated or damaged"),
    "huge.npy": (lambda p: p.write_bytes(header("<f8", (10**7, 10**6)) + b"1234"), ""),
    "overflow.npy": (lambda p: p.write_bytes(header("<f8", (10**18, 10**18)) + b"1234"), ""),
    "huge-member.npz": (lambda p: zipped(p, x_npy=header("<f8", (10**7, 10**6)) + b"1234"), ""),
    "long-header.npy": (lambda p: p.write_bytes(b"\x93NUMPY\x02\x00\xff\xff\xff\x7f" + b"1234"), ""),
    "wrong-header.npy": (lambda p: p.write_bytes(b"\x93NUMPY\x01\x00\x10\x00" + b"{'a': 1}        "), ""),
    "version.npy": (lambda p: p.write_bytes(header("|u1", (1,), b"\x93NUMPY\x09\x00") + b"\0"), ""),
    "folder.npz": (lambda p: p.mkdir(), ""),
}


@pytest.mark.parametrize("name", NO_ARRAY)
def test_what_is_no_array_file(tmp_path, name):
    make, words = NO_ARRAY[name]
    make(tmp_path / name)
    line = error_of(tmp_path / name)
    assert words in line and name in line and len(line) < 600
    with pytest.raises(InputError, match=name.replace(".", r"\.")):
        read_arrays(tmp_path / name)


def test_an_archive_with_a_bad_checksum(tmp_path):
    np.savez(tmp_path / "x.npz", x=U)
    data = bytearray((tmp_path / "x.npz").read_bytes())
    data[len(data) // 2] ^= 255
    (tmp_path / "x.npz").write_bytes(data)
    assert "cannot read" in error_of(tmp_path / "x.npz")


@pytest.mark.parametrize(
    "arrays",
    [
        {"mask": U, "image": U},
        {"test_images": U, "train_images": U},
        {"x_train": U, "x_test": U, "y_train": np.zeros(4), "y_test": np.zeros(4)},
        {"x": U, "images": U},
        {"arr_0": U, "arr_1": U},
        {"clean": U, "noisy": floats(0, 1), "sigma": np.array(0.1)},
    ],
    ids=lambda a: "+".join(a),
)
def test_several_arrays_are_a_question_with_a_way_out(tmp_path, arrays):
    path = tmp_path / "x.npz"
    np.savez(path, **arrays)
    line = error_of(path)
    assert "say which" in line and f"{path}:" in line and "--array" in line
    for name in [n for n, a in arrays.items() if a.dtype == np.uint8]:
        assert name in line
        for found in (read_images(f"{path}:{name}", GREY), read_images(path, reading(array=name))):
            torch.testing.assert_close(found.x, torch.from_numpy(arrays[name]).float()[:, None] / 127.5 - 1)
    assert "unknown array" in error_of(f"{path}:nothing")
    assert "give one of them" in error_of(f"{path}:{next(iter(arrays))}", reading(array="other"))


@pytest.mark.parametrize(
    ("arrays", "name"),
    [
        ({"x": U, "mask": U}, "x"),
        ({"images": U, "weights": U}, "images"),
        ({"photos": U, "labels": np.arange(4)}, "photos"),
        ({"slices": U, "spacing": np.ones(2)}, "slices"),
    ],
)
def test_one_candidate_is_no_question(tmp_path, arrays, name):
    np.savez(tmp_path / "x.npz", **arrays)
    torch.testing.assert_close(read_images(tmp_path / "x.npz", GREY).x, X)


@pytest.mark.parametrize(
    ("labels", "kept", "words"),
    [
        (np.arange(4), [0, 1, 2, 3], ""),
        (np.arange(4.0), [0, 1, 2, 3], ""),
        (np.arange(4)[:, None], [0, 1, 2, 3], ""),
        (np.arange(4).astype(">i8"), [0, 1, 2, 3], ""),
        (np.array([True, False, True, False]), [1, 0, 1, 0], ""),
        (np.array(list("abcd")), None, "words"),
        (np.array([b"a"] * 4), None, "words"),
        (np.arange(3), "error", "expected (4,)"),
        (np.array(1), "error", "expected (4,)"),
        (np.array([0.5, 1, 2, 3]), "error", "whole numbers"),
        (np.array([np.nan, 1, 2, 3]), "error", "whole numbers"),
        (np.zeros((4, 10)), "error", "expected (4,)"),
        (np.zeros(4, complex), "error", "whole numbers"),
        (np.zeros(4, "datetime64[s]"), "error", "whole numbers"),
    ],
)
def test_labels(tmp_path, labels, kept, words):
    np.savez(tmp_path / "x.npz", x=U, labels=labels)
    if kept == "error":
        assert words in error_of(tmp_path / "x.npz")
        return
    found = read_images(tmp_path / "x.npz", GREY)
    assert (None if found.labels is None else found.labels.tolist()) == kept
    assert words in "; ".join(found.notes)


def test_labels_of_medical_sets(tmp_path):
    np.savez(
        tmp_path / "x.npz",
        train_images=U,
        train_labels=np.arange(4)[:, None],
        test_images=U[:2],
        test_labels=np.arange(2)[:, None] + 5,
    )
    found = read_images(f"{tmp_path}/x.npz:test_images", GREY)
    assert found.labels is not None and found.labels.tolist() == [5, 6]


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((4, 16, 16), complex), "complex"),
        (np.array(5.0), "shape ()"),
        (np.zeros(256), "shape (256,)"),
        (np.zeros((0, 16, 16)), "0 images"),
        (np.zeros((4, 0, 16)), "0 images"),
        (np.zeros((4, 256), np.uint8), "reshape(-1, 1, 16, 16)"),
        (np.zeros((4, 16, 16, 5), np.uint8), "no axis of 1 or 3"),
        (np.zeros((2, 2, 1, 16, 16)), "shape (2, 2, 1, 16, 16)"),
        (np.array([["a"]]), "<U1"),
        (np.zeros((4, 16, 16), "datetime64[s]"), "datetime64"),
        (np.zeros(4, [("r", "u1")]), "[('r', 'u1')] values"),
        (np.full((4, 16, 16), np.nan), "256 values are NaN"),
        (np.full((4, 16, 16), np.inf), "NaN or infinite"),
        (np.zeros((4, 16, 16)), "constant"),
        (np.full((4, 16, 16), 0.7), "constant"),
        (U[:, :8], "8x16 pixels"),
        (np.stack([U[0], U[1], U[2]], -1), "RGB"),
        (np.where(np.arange(1024).reshape(4, 16, 16) < 256, np.nan, floats(-1, 1)[:, 0]), "number 0"),
    ],
)
def test_arrays_that_are_refused(tmp_path, array, words):
    np.savez(tmp_path / "x.npz", x=array)
    line = error_of(
        tmp_path / "x.npz", reading(range="0,1") if array.dtype.kind == "f" and "constant" in words else GREY
    )
    assert words in line, line


@pytest.mark.parametrize("shape", [(16, 16), (1, 16, 16), (1, 1, 16, 16), (1, 16, 16, 1)])
def test_one_picture_of_any_rank(tmp_path, shape):
    np.save(tmp_path / "x.npy", U[0].reshape(shape))
    torch.testing.assert_close(read_images(tmp_path / "x.npy", GREY).x, X[:1])


def test_one_colour_picture_without_an_axis_of_pictures(tmp_path):
    colour = np.stack([U[0], U[1], U[2]])
    for name, array in {"first": colour, "last": colour.transpose(1, 2, 0)}.items():
        np.save(tmp_path / f"{name}.npy", array)
        found = read_images(tmp_path / f"{name}.npy", ReadOptions((3, 16, 16)))
        torch.testing.assert_close(found.x[0], torch.from_numpy(colour) / 127.5 - 1)
    assert len(read_images(tmp_path / "first.npy", GREY)) == 3  # three grey ones
    assert "one RGB picture, or three grey" in error_of(tmp_path / "first.npy", ReadOptions((3, 16, 16), convert=True))


# resizing


@pytest.mark.parametrize(
    ("size", "wanted"),
    [
        ((64, 128), (32, 32)),
        ((128, 64), (32, 32)),
        ((100, 67), (32, 32)),
        ((50, 50), (32, 24)),
        ((33, 32), (32, 32)),
        ((20, 30), (32, 32)),
    ],
)
def test_another_aspect_is_cropped_and_said(tmp_path, size, wanted):
    """A disc in the middle stays round."""
    row, column = np.mgrid[: size[0], : size[1]]
    disc = (row - (size[0] - 1) / 2) ** 2 + (column - (size[1] - 1) / 2) ** 2 < (0.35 * min(size)) ** 2
    saved(tmp_path / "disc.png", (disc * 255).astype(np.uint8))
    np.save(tmp_path / "disc.npy", (disc * 255).astype(np.uint8)[None])
    for name in ("disc.png", "disc.npy"):
        found = read_images(tmp_path / name, ReadOptions((1, *wanted), resize=True))
        seen = found.x[0, 0] > 0
        assert abs(int(seen.any(1).sum()) - int(seen.any(0).sum())) <= 1
        assert any("1 of 1 picture cropped to the prior's aspect" in note for note in found.notes) and found.sizes == [
            size
        ]
    if size[0] % 2 == size[1] % 2 == 0:
        assert not read_images(tmp_path / "disc.png", ReadOptions((1, size[0] // 2, size[1] // 2), resize=True)).notes


@pytest.mark.parametrize("n", [16, 20, 31, 32, 40, 64, 100])
def test_a_smaller_pixel_is_the_mean_of_what_it_covers(n):
    rng = np.random.default_rng(n)
    x = torch.from_numpy(rng.uniform(-1, 1, (1, n, n)).astype(np.float32))
    small = resized(x, (16, 16))
    torch.testing.assert_close(small.mean(), x.mean(), atol=1e-5, rtol=0)
    fine = x.repeat_interleave(16, 1).repeat_interleave(16, 2)  # each pixel in 16 x 16
    torch.testing.assert_close(small, torch.nn.functional.avg_pool2d(fine[None], n)[0], atol=3e-5, rtol=0)


@pytest.mark.parametrize(
    ("size", "wanted"),
    [
        ((64, 64), (16, 16)),
        ((50, 50), (16, 16)),
        ((31, 47), (16, 16)),
        ((16, 16), (16, 16)),
        ((10, 10), (16, 16)),
        ((256, 200), (32, 24)),
        ((7, 9), (16, 16)),
    ],
)
@pytest.mark.parametrize("damage", [1, 30])
def test_no_hidden_value_comes_into_a_seen_pixel(tmp_path, size, wanted, damage):
    """Whatever is in the hole, the seen pixels of picture and mask are the same; and no pixel is given up without
    need."""
    rng = np.random.default_rng(damage)
    picture = rng.integers(16, 240, size, dtype=np.uint8)
    hidden = np.zeros(size, bool)
    hidden[
        rng.integers(size[0] // 3, 2 * size[0] // 3 + 1, damage),
        rng.integers(size[1] // 3, 2 * size[1] // 3 + 1, damage),
    ] = True
    saved(tmp_path / "mask.png", np.where(hidden, 0, 255).astype(np.uint8))
    how, seen = ReadOptions((1, *wanted), resize=True), None
    read = []
    for fill in (0, 255):
        saved(tmp_path / "picture.png", np.where(hidden, fill, picture).astype(np.uint8))
        found = read_images(tmp_path / "picture.png", how)
        read.append(found.x)
        seen = read_mask(tmp_path / "mask.png", wanted, resize=True, picture=found.sizes[0]) > 0
    apart = (read[0] - read[1]).abs() > 1e-6
    assert not bool((apart & seen).any())
    if size[0] >= wanted[0]:
        assert bool((apart == ~seen).all())


def test_picture_and_mask_are_cropped_alike_or_refused(tmp_path):
    hidden = np.zeros((64, 128), bool)
    hidden[20:30, 60:70] = True
    saved(tmp_path / "mask.png", np.where(hidden, 0, 255).astype(np.uint8))
    mask = read_mask(tmp_path / "mask.png", (32, 32), resize=True, picture=(64, 128))
    assert torch.equal(mask[0, 0] == 0, torch.from_numpy(hidden[:, 32:96].reshape(32, 2, 32, 2).any((1, 3))))
    assert torch.equal(read_mask(tmp_path / "mask.png", (32, 32), resize=True, picture=(128, 256)), mask)
    for other in ((64, 64), (128, 64), (32, 32)):
        with pytest.raises(InputError, match="as large as the picture"):
            read_mask(tmp_path / "mask.png", (32, 32), resize=True, picture=other)
    saved(tmp_path / "small.png", np.where(hidden[::2, 32:96:2], 0, 255).astype(np.uint8))
    with pytest.raises(InputError, match="as large as the picture"):  # made for the result of another crop, perhaps
        read_mask(tmp_path / "small.png", (32, 32), resize=True, picture=(64, 128))
    assert crop_box((64, 128), (32, 32)) == (0, 32, 64, 64)
    assert not bool(resized_hidden(torch.zeros(8, 8, dtype=torch.bool), (4, 4)).any())


# masks


HOLE = np.zeros((16, 16), bool)
HOLE[4:9, 5:11] = True
SEEN = torch.from_numpy(~HOLE).float()[None, None]


@pytest.mark.parametrize(
    ("suffix", "values"),
    [
        ("png", (~HOLE).astype(np.uint8)),
        ("png", (~HOLE).astype(np.uint8) * 255),
        ("png", (~HOLE).astype(np.uint16) * 65535),
        ("png", (~HOLE).astype(np.uint16)),
        ("png", ~HOLE),
        ("png", np.where(HOLE, 3, 250).astype(np.uint8)),
        ("tif", (~HOLE).astype(np.float32)),
        ("tif", (~HOLE).astype(np.float32) * 255),
        ("bmp", (~HOLE).astype(np.uint8) * 255),
        ("png", np.repeat(((~HOLE) * 255).astype(np.uint8)[..., None], 3, 2)),
        ("png", np.stack([np.full((16, 16), 255)] * 3 + [(~HOLE) * 255], 2).astype(np.uint8)),
        ("npy", ~HOLE),
        ("npy", (~HOLE).astype(np.uint8) * 255),
        ("npy", (~HOLE).astype(np.int64)),
        ("npy", (~HOLE).astype(">f8")),
        ("npy", (~HOLE)[None, None].astype(np.float32)),
        ("npy", (~HOLE)[..., None].astype(np.uint8)),
        ("npy", (~HOLE).astype(np.longdouble)),
        ("npy", (~HOLE).astype(np.float32) * 255),
    ],
)
def test_masks_of_every_kind(tmp_path, suffix, values):
    path = tmp_path / f"m.{suffix}"
    if suffix == "npy":
        np.save(path, values)
    else:
        saved(path, values)
    assert torch.equal(read_mask(path, (16, 16)), SEEN)
    assert torch.equal(read_mask(path, (16, 16), hole="white"), 1 - SEEN)


@pytest.mark.parametrize("quality", [75, 90])
def test_masks_as_jpeg(tmp_path, quality):
    values = np.where(np.kron(HOLE, np.ones((8, 8))) > 0, 0, 255).astype(np.uint8)
    saved(tmp_path / "m.jpg", values, quality=quality)
    assert torch.equal(read_mask(tmp_path / "m.jpg", (128, 128)), torch.from_numpy(values > 0).float()[None, None])


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.zeros((16, 16), np.uint8), "hides everything"),
        (np.ones((16, 16), np.uint8), "hides nothing"),
        (np.full((16, 16), 255, np.uint8), "hides nothing"),
        (np.zeros((16, 16)), "hides everything"),
        (np.where(HOLE, 0, 2).astype(np.uint8), "from 0 to 2"),
        (np.where(HOLE, 0, 17).astype(np.int64), "from 0 to 17"),
        (np.where(HOLE, -1.0, 1.0), "from -1 to 1"),
        (np.where(HOLE, 0.0, np.nan), "NaN"),
        (np.where(HOLE, 0.5, 1.0), "grey"),
        (U[0], "grey"),
        (np.zeros((3, 16, 16)), "shape (3, 16, 16)"),
        (np.zeros(0), "shape (0,)"),
        (HOLE.astype(complex), "complex"),
        (HOLE.astype(str), "<U"),
        (HOLE[:8], "8x16, expected 16x16"),
        (np.array(1.0), "shape ()"),
        (np.where(HOLE, 0, 70000), "70000"),
    ],
)
def test_masks_that_are_refused(tmp_path, values, words):
    np.save(tmp_path / "m.npy", values)
    with pytest.raises(InputError) as caught:
        read_mask(tmp_path / "m.npy", (16, 16))
    assert words in str(caught.value), caught.value


def test_masks_that_resizing_fills_or_empties(tmp_path):
    stripes = np.tile(np.array([0, 255], np.uint8), (64, 32))
    saved(tmp_path / "stripes.png", stripes)
    with pytest.raises(InputError, match="made of seen ones alone"):
        read_mask(tmp_path / "stripes.png", (16, 16), resize=True)
    corner = np.full((32, 64), 255, np.uint8)
    corner[:, :4] = 0
    saved(tmp_path / "corner.png", corner)
    with pytest.raises(InputError, match="outside the part"):
        read_mask(tmp_path / "corner.png", (16, 16), resize=True)
    np.savez(tmp_path / "two.npz", seen=~HOLE, hole=HOLE)
    with pytest.raises(InputError, match="say which is the mask"):
        read_mask(tmp_path / "two.npz", (16, 16))
    assert torch.equal(read_mask(f"{tmp_path}/two.npz:seen", (16, 16)), SEEN)


# DICOM


def dicom(path, stored, **tags):
    """A file of one or more frames [H, W] or [F, H, W] (colour: [H, W, 3])."""
    pydicom = pytest.importorskip("pydicom")
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = (
        ExplicitVRLittleEndian,
        CTImageStorage,
        generate_uid(),
    )
    d = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    colour = stored.ndim == 3 and stored.shape[-1] == 3
    d.SOPClassUID, d.SOPInstanceUID, d.Modality = CTImageStorage, meta.MediaStorageSOPInstanceUID, "CT"
    d.Rows, d.Columns = stored.shape[:2] if colour else stored.shape[-2:]
    d.SamplesPerPixel, d.PhotometricInterpretation = (3, "RGB") if colour else (1, "MONOCHROME2")
    if colour:
        d.PlanarConfiguration = 0
    elif stored.ndim == 3:
        d.NumberOfFrames = len(stored)
    d.BitsAllocated = d.BitsStored = 8 * stored.dtype.itemsize
    d.HighBit, d.PixelRepresentation = d.BitsStored - 1, int(stored.dtype.kind == "i")
    d.PixelData = stored.tobytes()
    for key, value in tags.items():
        setattr(d, key, value)
    d.save_as(
        path,
        **(
            {"enforce_file_format": True}
            if int(pydicom.__version__.split(".")[0]) >= 3
            else {"write_like_original": False}
        ),
    )
    return path


HU = np.round(U.astype(np.float64) / 255 * 2000 - 1000)  # [4, 16, 16] from -1000 to 1000
TAGS = {"RescaleSlope": 2, "RescaleIntercept": -1000}


def test_dicom_in_hounsfield_units(tmp_path):
    for i in range(4):
        dicom(tmp_path / f"{i}.dcm", ((HU[i] + 1000) / 2).astype(np.uint16), **TAGS)
    line = error_of(tmp_path)
    assert "measured values" in line and "--range" in line
    found = read_images(tmp_path, reading(range="-1000,1000"))
    torch.testing.assert_close(found.x, X, atol=0.002, rtol=0)
    narrow = read_images(tmp_path, reading(range="-160,240"))
    torch.testing.assert_close(
        narrow.x[:, 0], torch.from_numpy((HU + 160) / 200 - 1).float().clamp(-1, 1), atol=0.02, rtol=0
    )
    assert any("clipped" in note for note in narrow.notes)
    assert "window" in error_of(tmp_path, reading(range="window"))


@pytest.mark.parametrize(
    ("kind", "limits"), [(None, (-160.5 + 0.5 - 0.0, 239.0)), ("LINEAR_EXACT", (-160.0, 240.0)), ("SIGMOID", None)]
)
def test_dicom_by_its_own_window(tmp_path, kind, limits):
    tags = {**TAGS, "WindowCenter": [40, 400], "WindowWidth": [400, 2000], **({"VOILUTFunction": kind} if kind else {})}
    dicom(tmp_path / "a.dcm", ((HU[0] + 1000) / 2).astype(np.uint16), **tags)
    if limits is None:
        assert "no window" in error_of(tmp_path / "a.dcm", reading(range="window"))
        return
    assert "--range window" in error_of(tmp_path / "a.dcm")
    found = read_images(tmp_path / "a.dcm", reading(range="window"))
    low, high = limits
    expected = (torch.from_numpy(HU[0]) - low) / (high - low) * 2 - 1
    torch.testing.assert_close(found.x[0, 0], expected.float().clamp(-1, 1), atol=0.02, rtol=0)
    assert any("own window" in note for note in found.notes)


@pytest.mark.parametrize("dtype", ["int16", "uint16", "int32", "int8"])
def test_dicom_of_other_integers(tmp_path, dtype):
    low, high = (0, 4000) if dtype == "uint16" else (-100, 100) if dtype == "int8" else (-1000, 3000)
    stored = np.round(low + (high - low) * U[0].astype(np.float64) / 255).astype(dtype)
    dicom(tmp_path / "a.dcm", stored)
    found = read_images(tmp_path / "a.dcm", reading(range=(low, high)))
    torch.testing.assert_close(found.x, X[:1], atol=0.02, rtol=0)


def test_dicom_with_low_values_white_and_in_8_bits_and_in_colour(tmp_path):
    dicom(tmp_path / "a.dcm", U[0])
    torch.testing.assert_close(read_images(tmp_path / "a.dcm", GREY).x, X[:1])
    dicom(tmp_path / "b.dcm", U[0], PhotometricInterpretation="MONOCHROME1")
    found = read_images(tmp_path / "b.dcm", GREY)
    torch.testing.assert_close(found.x, -X[:1])
    assert any("MONOCHROME1" in note for note in found.notes)
    dicom(tmp_path / "c.dcm", np.stack([U[0], U[1], U[2]], -1))
    torch.testing.assert_close(read_images(tmp_path / "c.dcm", ReadOptions((3, 16, 16))).x[0], X[:3, 0])
    for name, tags in {
        "d": {"PhotometricInterpretation": "PALETTE COLOR"},
        "e": {"PhotometricInterpretation": "YBR_FULL"},
    }.items():
        dicom(tmp_path / f"{name}.dcm", U[0], **tags)
        assert "colour, expected MONOCHROME" in error_of(tmp_path / f"{name}.dcm")


def test_dicom_frames_and_files_without_a_suffix(tmp_path):
    dicom(tmp_path / "IM0001", (HU[:3] + 1000).astype(np.int16), RescaleSlope=1, RescaleIntercept=-1000)
    dicom(tmp_path / "1.2.840.113", (HU[3] + 1000).astype(np.int16), RescaleSlope=1, RescaleIntercept=-1000)
    dicom(tmp_path / "DICOMDIR", (HU[3] + 1000).astype(np.int16))
    found = read_images(tmp_path, reading(range="-1000,1000"))
    assert found.names == ["1.2.840.113", "IM0001[0]", "IM0001[1]", "IM0001[2]"] and found.skipped == ["DICOMDIR"]
    torch.testing.assert_close(found.x, X[[3, 0, 1, 2]], atol=0.002, rtol=0)
    assert any("all 3 frames" in note for note in found.notes)


@pytest.mark.parametrize(
    "change",
    [
        {"PixelData": b"12"},
        {"Rows": 99},
        {"RescaleSlope": "0", "RescaleIntercept": "1e400"},
        {"BitsAllocated": 7},
        {"SamplesPerPixel": 2},
        {"PhotometricInterpretation": ""},
    ],
)
def test_dicom_that_contradicts_itself(tmp_path, change):
    try:
        dicom(tmp_path / "a.dcm", U[0].astype(np.uint16), **change)
    except (ValueError, OverflowError):
        pytest.skip("pydicom does not write it")
    line = error_of(tmp_path / "a.dcm")
    assert "a.dcm" in line


def test_dicom_without_a_picture(tmp_path):
    pydicom = pytest.importorskip("pydicom")
    path = dicom(tmp_path / "a.dcm", U[0])
    found = pydicom.dcmread(path)
    del found.PixelData
    found.save_as(path)
    assert "without a picture" in error_of(path)


@pytest.mark.parametrize(
    ("module", "name", "extra"), [("pydicom", "a.dcm", "[dicom]"), ("nibabel", "a.nii.gz", "[nifti]")]
)
def test_missing_libraries_are_named(tmp_path, monkeypatch, module, name, extra):
    import sys

    monkeypatch.setitem(sys.modules, module, None)
    (tmp_path / name).write_bytes(b"123")
    line = error_of(tmp_path / name)
    assert f"pip install 'deft-diffusion{extra}'" in line


# NIfTI


def nifti(path, volume, affine=None, **header_fields):
    nibabel = pytest.importorskip("nibabel")
    image = nibabel.Nifti1Image(volume, np.eye(4) if affine is None else affine)
    for key, value in header_fields.items():
        image.header[key] = value
    nibabel.save(image, path)
    return path


VOLUME = np.random.default_rng(0).integers(0, 1000, (16, 16, 5)).astype(np.int16)  # x, y, z: right, front, up


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize(
    "codes",
    [((1, 1), (2, 1), (3, 1)), ((1, -1), (2, -1), (3, 1)), ((3, 1), (1, 1), (2, -1)), ((2, 1), (1, 1), (3, -1))],
    ids=["RAS", "LPS", "SRP", "ARI"],
)
def test_nifti_slices_are_the_same_however_the_axes_are_stored(tmp_path, name, codes):
    axes = [axis - 1 for axis, _ in codes]
    stored, affine = VOLUME.transpose(axes), np.zeros((4, 4))
    affine[3, 3] = 1
    for i, (axis, sign) in enumerate(codes):
        affine[axis - 1, i] = sign
        stored = stored if sign > 0 else np.flip(stored, i)
    path = nifti(tmp_path / name, np.ascontiguousarray(stored), affine)
    assert "measured values" in error_of(path)
    found = read_images(path, reading(range="0,1000"))
    # front up, right on the right
    expected = torch.from_numpy(VOLUME.transpose(2, 1, 0)[:, ::-1].copy()).float() / 500 - 1
    torch.testing.assert_close(found.x[:, 0], expected)
    assert found.names == [f"{name}[z:{i}]" for i in range(5)] and any(
        "5 slices along z (axial)" in note for note in found.notes
    )
    torch.testing.assert_close(read_images(f"{path}:z:1:3", reading(range="0,1000")).x, found.x[1:3])
    torch.testing.assert_close(read_images(f"{path}:z:4", reading(range="0,1000")).x, found.x[4:])
    side = read_images(f"{path}:x:3", ReadOptions((1, 5, 16), range="0,1000")).x[0, 0]
    torch.testing.assert_close(side, torch.from_numpy(VOLUME[3].T[::-1].copy()).float() / 500 - 1)


def test_nifti_values_blanks_and_windows(tmp_path):
    volume = VOLUME.copy()
    volume[..., 0] = 0
    path = nifti(tmp_path / "a.nii.gz", volume, cal_min=100, cal_max=900)
    found = read_images(path, reading(range="window"))
    assert len(found) == 4 and found.skipped == ["a.nii.gz[z:0]"] and any("1 blank" in note for note in found.notes)
    expected = (torch.from_numpy(volume[..., 1].T[::-1].copy()).float() - 100) / 400 - 1
    torch.testing.assert_close(found.x[0, 0], expected.clamp(-1, 1))
    nibabel = pytest.importorskip("nibabel")
    image = nibabel.Nifti1Image(VOLUME, np.eye(4))
    image.header.set_slope_inter(2.0, -50.0)
    image.to_filename(tmp_path / "b.nii")
    scaled = read_images(tmp_path / "b.nii", reading(range="0,1000"))
    torch.testing.assert_close(
        scaled.x[:, 0],
        ((torch.from_numpy(VOLUME.transpose(2, 1, 0)[:, ::-1].copy()).float() * 2 - 50) / 500 - 1).clamp(-1, 1),
        atol=1e-5,
        rtol=0,
    )
    nifti(tmp_path / "c.nii", VOLUME, np.diag([1.0, 3.0, 1.0, 1.0]))
    assert any("taken as square" in note for note in read_images(tmp_path / "c.nii", reading(range="0,1000")).notes)


@pytest.mark.parametrize(
    ("volume", "part", "words"),
    [
        (np.zeros((4, 4, 4, 3), np.int16), None, "split it first"),
        (np.zeros((4, 4), np.int16), None, "three axes"),
        (np.zeros((4, 4, 4), np.complex64), None, "real numbers"),
        (np.zeros((4, 4, 4), np.int16), None, "blank"),
        (VOLUME, "t", "names no slices"),
        (VOLUME, "z:9", "slice z 9 of 5"),
        (VOLUME, "z:a", "names no slice"),
        (np.full((4, 4, 4), np.nan, np.float32), None, "NaN"),
    ],
)
def test_nifti_that_is_refused(tmp_path, volume, part, words):
    path = nifti(tmp_path / "a.nii.gz", volume)
    assert words in error_of(path if part is None else f"{path}:{part}")


def test_nifti_of_one_volume_in_four_axes(tmp_path):
    path = nifti(tmp_path / "a.nii.gz", VOLUME[..., None])
    assert len(read_images(path, reading(range="0,1000"))) == 5


def test_a_folder_of_volumes_and_scans(tmp_path):
    nifti(tmp_path / "a.nii.gz", VOLUME)
    nifti(tmp_path / "b.nii", VOLUME)
    assert len(read_images(tmp_path, reading(range="0,1000"))) == 10
    assert len(read_images(tmp_path, reading(range="0,1000", array="z:2:4"))) == 4
    dicom(tmp_path / "c.dcm", VOLUME[..., 0])
    assert len(read_images(tmp_path, reading(range="0,1000"))) == 11
    assert "names no part" in error_of(tmp_path, reading(range="0,1000", array="z:2:4"))


# the command line


@pytest.fixture
def shop(tmp_path):
    toy_prior(tmp_path / "prior.safetensors")
    return tmp_path


def measure(shop, data, *more):
    return ("measure", "--task", "denoise", "--data", data, "--out", shop / "y.npz", "--overwrite", *more)


def measured(shop):
    return torch.from_numpy(np.load(shop / "y.npz")["truth"])


def test_commands_say_what_was_left_out(shop, capsys):
    save_pictures(shop / "data" / "sub", U)
    saved(shop / "data" / "a.png")
    (shop / "data" / "notes.txt").write_text("")
    code, out, _ = run(capsys, *measure(shop, shop / "data"))
    assert (
        code == 0
        and "left out: 1 .txt" in out
        and "4 pictures in 1 subfolder: --recursive" in out
        and len(measured(shop)) == 1
    )
    code, out, err = run(capsys, *measure(shop, shop / "data", "--recursive", "--json"))
    assert code == 0 and len(measured(shop)) == 5 and "left out: 1 .txt" in err and "left out" not in out


def test_commands_take_parts_and_ranges(shop, capsys):
    np.savez(shop / "x.npz", mask=U > 99, image=U.astype(np.uint16) * 16)
    line = refused(capsys, *measure(shop, shop / "x.npz"))
    assert "--array mask" in line
    for how in ((f"{shop}/x.npz:image",), (shop / "x.npz", "--array", "image")):
        assert run(capsys, *measure(shop, *how, "--range", "0,4080"))[0] == 0
        torch.testing.assert_close(measured(shop), X)
    assert "LOW,HIGH" in refused(capsys, *measure(shop, shop / "x.npz", "--range", "1"))
    np.save(shop / "f.npy", floats(-1, 1))
    assert run(capsys, *measure(shop, shop / "f.npy", "--range", "-1,1"))[0] == 0
    assert "--resize" in refused(capsys, *measure(shop, shop / "f.npy", "--resize"))
    assert "need no --range" in refused(capsys, *measure(shop, "fashion:test", "--range", "0,1"))


def test_a_picture_and_its_mask_from_elsewhere(shop, capsys):
    """16 bits that hold 12, of another size and aspect, a 0/1 mask as large: cropped alike, and said."""
    deep = (np.kron(np.hstack([U[1], U[0], U[1]]), np.ones((2, 2))) * 16).astype(np.uint16)
    saved(shop / "photo.png", deep)
    mask = np.ones((32, 96), np.uint8)
    mask[8:14, 40:52] = 0
    saved(shop / "mask.png", mask)
    line = (
        "sample",
        "--prior",
        shop / "prior.safetensors",
        "--method",
        "pigdm",
        "--task",
        "inpaint",
        "--measurement",
        shop / "photo.png",
        "--mask",
        shop / "mask.png",
        "-n",
        2,
        "--steps",
        2,
        "--overwrite",
        "--out",
        shop / "out",
    )
    assert "--range 0,4095 for 12 bits" in refused(capsys, *line, "--resize")
    code, out, _ = run(capsys, *line, "--resize", "--range", "0,4080")
    assert code == 0 and "cropped to the prior's aspect" in out and "fill little" not in out
    saved(shop / "mask.png", mask[:, 32:64])
    assert "as large as the picture" in refused(capsys, *line, "--resize", "--range", "0,4080")
    (shop / "folder").mkdir()
    assert "expected one picture" in refused(
        capsys,
        *(
            "sample",
            "--prior",
            shop / "prior.safetensors",
            "--task",
            "denoise",
            "--measurement",
            shop / "folder",
            "--out",
            shop / "o2",
        ),
    )


@pytest.mark.parametrize(
    "option", [("--recursive",), ("--array", "x"), ("--range", "0,1"), ("--resize",), ("--skip-bad",)]
)
def test_options_that_would_not_be_used_are_refused(shop, capsys, option):
    np.savez(shop / "pairs.npz", x=floats(-1, 1), y=floats(-1, 1))
    fit = (
        "fit",
        "--prior",
        shop / "prior.safetensors",
        "--task",
        "denoise",
        "--steps",
        1,
        "--batch",
        2,
        "--size",
        0.4,
        "--out",
        shop / "run",
    )
    assert "leave them out" in refused(capsys, *fit, *option)
    if option[0] in ("--recursive", "--array", "--skip-bad"):
        assert "leave --skip-bad, --array and --recursive out" in refused(
            capsys, *fit, "--pairs", shop / "pairs.npz", *option
        )
    if option[0] in ("--recursive", "--array", "--range"):
        assert "leave them out" in refused(capsys, *measure(shop, "fashion:test", *option))


def test_held_out_images_are_read_as_the_others_are_where_that_can_be(shop, capsys):
    np.savez(shop / "x.npz", mask=U > 99, image=floats(0, 1))
    save_pictures(shop / "held", U)
    fit = (
        "fit",
        "--prior",
        shop / "prior.safetensors",
        "--task",
        "denoise",
        "--steps",
        1,
        "--batch",
        2,
        "--size",
        0.4,
        "--prior-samples",
        0,
        "--out",
        shop / "run",
    )
    code, out, err = run(
        capsys,
        *fit,
        "--data",
        shop / "x.npz",
        "--array",
        "image",
        "--range",
        "0,1",
        "--held-out",
        f"{shop}/x.npz:image",
    )
    assert code == 0, err
    code, out, err = run(
        capsys, *fit, "--overwrite", "--data", f"{shop}/held", "--recursive", "--held-out", shop / "held" / "000.png"
    )
    assert code == 0, out + err


def test_comparisons_name_parts_and_say_what_they_leave_out(tmp_path, capsys):
    from deft.bench.data import check_places, describe, samples_of
    from deft.kinds.domain import find_domain

    domain = find_domain("image")
    np.savez(tmp_path / "x.npz", mask=U > 99, image=U, labels=np.array(list("abcd")))
    source = f"{tmp_path}/x.npz:image"
    check_places(domain, source, "here")
    found = describe(domain, source, ("test",), (1, 16, 16))
    assert "are words: not used" in capsys.readouterr().err
    assert len(samples_of(domain, found, "test", (1, 16, 16))) == 1
    np.savez(tmp_path / "y.npz", x=floats(0, 1))
    with pytest.raises(InputError, match="as they are, without options"):
        describe(domain, f"{tmp_path}/y.npz", ("test",), (1, 16, 16))


def test_what_is_written_is_read_again(tmp_path):
    """PNGs that the library writes, in memory and on disk."""
    pixels = to_pixels(X)
    buffer = io.BytesIO()
    Image.fromarray(pixels[0, ..., 0]).save(buffer, format="PNG")
    (tmp_path / "a.png").write_bytes(buffer.getvalue())
    torch.testing.assert_close(read_images(tmp_path / "a.png", GREY).x, X[:1])
