"""Reading and writing images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from deft.domains.image.masks import read_mask
from deft.domains.image.reading import ReadOptions, read_images
from deft.domains.image.writing import Column, heat, picture_grid, save_picture, to_pixels, with_hole
from deft.errors import InputError
from deft.io.arrays import save_arrays
from deft.io.files import open_folder
from toys import pictures, save_pictures

GREY, COLOUR = ReadOptions((1, 16, 16)), ReadOptions((3, 16, 16))


def test_a_folder_in_order_of_names(tmp_path):
    images = pictures(3)
    save_pictures(tmp_path, images)
    (tmp_path / "notes.txt").write_text("not a picture")
    (tmp_path / ".hidden.png").write_bytes(b"")
    found = read_images(tmp_path, GREY)
    assert found.names == ["000.png", "001.png", "002.png"] and found.x.shape == (3, 1, 16, 16)
    assert torch.equal(found.x, torch.from_numpy(images).float()[:, None] / 127.5 - 1)


def test_jpeg(tmp_path):
    Image.fromarray(pictures(1)[0]).save(tmp_path / "a.JPG", quality=95)
    found = read_images(tmp_path, GREY)
    assert (found.x - (torch.from_numpy(pictures(1)).float()[:, None] / 127.5 - 1)).abs().max() < 0.1


def test_16_bits(tmp_path):
    values = np.linspace(0, 65535, 256).reshape(16, 16).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    x = read_images(tmp_path / "deep.png", GREY).x
    assert torch.allclose(x[0, 0], torch.from_numpy(values / 32767.5 - 1).float(), atol=1e-4)


@pytest.mark.parametrize("name", ["x", "images", "anything"])
@pytest.mark.parametrize("layout", ["NHW", "NHWC", "NCHW"])
def test_layouts_of_an_npz(tmp_path, name, layout):
    x = pictures(4)
    shaped = {"NHW": x, "NHWC": x[..., None], "NCHW": x[:, None]}[layout]
    np.savez(tmp_path / "x.npz", **{name: shaped}, labels=np.arange(4))
    found = read_images(tmp_path / "x.npz", GREY)
    assert torch.equal(found.x, torch.from_numpy(x).float()[:, None] / 127.5 - 1)
    assert found.labels is not None and found.labels.tolist() == [0, 1, 2, 3]


def test_colour_npz_both_ways(tmp_path):
    x = np.stack([pictures(2, seed=i) for i in range(3)], -1)
    np.savez(tmp_path / "last.npz", x=x)
    np.savez(tmp_path / "first.npz", x=x.transpose(0, 3, 1, 2))
    assert torch.equal(read_images(tmp_path / "last.npz", COLOUR).x, read_images(tmp_path / "first.npz", COLOUR).x)


def test_npy_and_floats(tmp_path):
    x = np.random.default_rng(0).uniform(-1, 1, (2, 16, 16)).astype(np.float64)
    np.save(tmp_path / "x.npy", x)
    assert np.allclose(read_images(tmp_path / "x.npy", GREY).x[:, 0].numpy(), x, atol=1e-6)
    np.savez(tmp_path / "y.npz", x=(x + 1) / 2)
    assert np.allclose(
        read_images(tmp_path / "y.npz", ReadOptions((1, 16, 16), range="0,1")).x[:, 0].numpy(), x, atol=1e-6
    )


def test_skipped_rows_take_their_labels_along(tmp_path):
    x = pictures(4).astype(np.float32) / 127.5 - 1
    x[1, 0, 0] = np.nan
    np.savez(tmp_path / "x.npz", x=x, labels=[5, 6, 7, 8])
    found = read_images(tmp_path / "x.npz", ReadOptions((1, 16, 16), skip_bad=True))
    assert found.labels is not None and found.labels.tolist() == [5, 7, 8] and found.skipped == ["number 1"]


@pytest.mark.parametrize(
    ("shape", "dtype"), [((4,), np.uint8), ((0, 16, 16), np.uint8), ((2, 16, 16), np.int64), ((2, 5, 16, 16), np.uint8)]
)
def test_arrays_that_are_no_images(tmp_path, shape, dtype):
    np.savez(tmp_path / "x.npz", x=np.zeros(shape, dtype))
    with pytest.raises(InputError, match=r"x\.npz"):
        read_images(tmp_path / "x.npz", GREY)


def test_pickles_are_not_loaded(tmp_path):
    np.savez(tmp_path / "x.npz", x=np.array([{"a": 1}], dtype=object))
    with pytest.raises(InputError, match="cannot read"):
        read_images(tmp_path / "x.npz", GREY)


def test_other_files_are_refused(tmp_path):
    (tmp_path / "x.txt").write_text("")
    with pytest.raises(InputError, match="none of"):
        read_images(tmp_path / "x.txt", GREY)


def test_channels(tmp_path):
    grey = Image.fromarray(pictures(1)[0])
    grey.convert("RGB").save(tmp_path / "grey-as-rgb.png")
    assert read_images(tmp_path / "grey-as-rgb.png", GREY).x.shape == (1, 1, 16, 16)
    grey.save(tmp_path / "grey.png")
    with pytest.raises(InputError, match="expected RGB"):
        read_images(tmp_path / "grey.png", COLOUR)
    assert read_images(tmp_path / "grey.png", ReadOptions((3, 16, 16), convert=True)).x.shape == (1, 3, 16, 16)


def test_transparency(tmp_path):
    picture = Image.fromarray(pictures(1)[0]).convert("RGBA")
    picture.save(tmp_path / "opaque.png")
    assert read_images(tmp_path / "opaque.png", COLOUR).x.shape == (1, 3, 16, 16)
    picture.putalpha(Image.fromarray(pictures(1, seed=5)[0]))
    picture.save(tmp_path / "veil.png")
    with pytest.raises(InputError, match="transparent"):
        read_images(tmp_path / "veil.png", COLOUR)
    read_images(tmp_path / "veil.png", ReadOptions((3, 16, 16), convert=True))


def test_photographs_are_the_right_way_up(tmp_path):
    upright = Image.fromarray(pictures(1)[0])
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter: shown rotated clockwise
    upright.rotate(90).save(tmp_path / "a.jpg", quality=100, exif=exif)
    x = read_images(tmp_path / "a.jpg", GREY).x
    assert (x[0, 0] - (torch.from_numpy(pictures(1)[0]).float() / 127.5 - 1)).abs().max() < 0.05


def test_palette(tmp_path):
    Image.fromarray(pictures(1)[0]).convert("P").save(tmp_path / "p.png")
    assert read_images(tmp_path / "p.png", GREY).x.shape == (1, 1, 16, 16)


def test_masks(tmp_path):
    values = np.full((16, 16), 255, np.uint8)
    values[2:5, 6:9] = 0
    Image.fromarray(values).save(tmp_path / "m.png")
    np.savez(tmp_path / "m.npz", mask=values > 0)
    Image.fromarray(255 - values).save(tmp_path / "flipped.png")
    mask = read_mask(tmp_path / "m.png", (1, 16, 16))
    assert mask.shape == (1, 1, 16, 16) and int((mask == 0).sum()) == 9 and float(mask[0, 0, 3, 7]) == 0
    np.save(tmp_path / "m.npy", values.astype(np.float32) / 255)
    for other in (
        read_mask(tmp_path / "flipped.png", (1, 16, 16), hole="white"),
        read_mask(tmp_path / "m.npy", (1, 16, 16)),
    ):
        assert torch.equal(mask, other)
    large = Image.fromarray(values).resize((32, 32), Image.Resampling.NEAREST)
    large.save(tmp_path / "large.png")
    assert torch.equal(read_mask(tmp_path / "large.png", (1, 16, 16), resize=True), mask)


def test_a_mask_may_be_a_jpeg(tmp_path):
    values = np.full((16, 16), 255, np.uint8)
    values[:, 8:] = 0
    Image.fromarray(values).save(tmp_path / "m.jpg", quality=90)
    assert float(read_mask(tmp_path / "m.jpg", (1, 16, 16)).mean()) == 0.5


# writing


def test_pixels_and_back(tmp_path):
    x = torch.from_numpy(pictures(1)).float() / 127.5 - 1
    save_picture(tmp_path / "a.png", x)
    assert torch.equal(read_images(tmp_path / "a.png", GREY).x[0], x)
    save_picture(tmp_path / "b.png", x.expand(3, -1, -1))
    assert Image.open(tmp_path / "b.png").mode == "RGB"
    assert to_pixels(torch.tensor([-7.0, 0.0, 7.0]).reshape(3, 1, 1, 1))[:, 0, 0, 0].tolist() == [0, 128, 255]


def test_arrays_are_written_whole(tmp_path):
    save_arrays(tmp_path / "a.npz", x=torch.arange(3), y=[1.5])
    with np.load(tmp_path / "a.npz") as data:
        assert data["x"].tolist() == [0, 1, 2] and data["y"].tolist() == [1.5]
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]


def test_heat_is_monotone_and_bounded():
    colours = heat(torch.linspace(0, 2, 64).reshape(1, 64), 1.0)
    assert colours.shape == (1, 64, 3)
    light = colours.astype(float) @ [0.3, 0.6, 0.1]
    assert (np.diff(light[0]) >= -0.5).all() and (colours[0, -1] == colours[0, 40]).all()


def test_hole_is_painted():
    hidden = torch.zeros(2, 1, 4, 4)
    hidden[:, :, 1, 1] = 1
    painted = with_hole(np.full((2, 4, 4, 3), 255, np.uint8), hidden)
    assert (painted[:, 1, 1] != 255).all() and (painted[:, 0, 0] == 255).all()


def test_grid_holds_its_pictures_and_its_text():
    pictures_ = np.zeros((3, 16, 16, 3), np.uint8)
    pictures_[..., 0] = np.arange(3)[:, None, None] * 100
    image = picture_grid(
        [Column("truth", pictures_), Column("ΠGDM", pictures_, "50 calls")],
        title="a title",
        rows=["one", "two", "three"],
        footer="f",
        cell=64,
    )
    seen = np.asarray(image)
    for i in range(3):  # each picture twice, enlarged 4 times
        assert int((seen == [i * 100, 0, 0]).all(-1).sum()) >= 2 * 64 * 64
    assert image.width < 500 and image.height < 400


def test_output_folder(tmp_path):
    new = open_folder(tmp_path / "a" / "b")
    assert new.is_dir() and not list(new.iterdir())
    (new / "report.json").write_text("{}")
    with pytest.raises(InputError, match="--overwrite"):
        open_folder(new)
    assert open_folder(new, overwrite=True) == new == open_folder(new, ours=lambda p: (p / "report.json").exists())


def test_a_line_below_is_whole_where_rows_have_captions(monkeypatch):
    """The captions push the line to the right: the picture is as much wider."""
    column = Column("", torch.zeros(1, 8, 8, 3, dtype=torch.uint8).numpy())
    long = "the meaning of colours " * 8
    plain, captioned = (picture_grid([column], footer=long, rows=rows, cell=16) for rows in ((), ("pullover",)))
    below = np.asarray(captioned.convert("L"))[-22:]
    assert captioned.width > plain.width and (below[:, -4:] == 255).all()
