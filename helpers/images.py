"""Anything that is a picture, as an array of pixels, as a file and from one; and numbers of any kind as an array."""

import io
import warnings
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

OPENED = ("JPEG", "PNG", "WEBP")  # and nothing else: Pillow would hand some other kinds to programs of the system
MAX_PIXELS = 50_000_000  # of a file: more than most cameras, far less than would fill the memory


def as_picture(x: Any) -> np.ndarray:
    """The picture as a uint8 array of shape (height, width, 3).

    x: one of
        a PIL image, 8 or 16 bits a channel; what is transparent becomes white;
        a NumPy array of shape (height, width, 3), uint8, or float with values in [0, 1];
        a torch tensor of shape (3, height, width), float, in the range of the VAE, -1 (black) to 1 (white). Values
        beyond are clipped, because noisy pictures have them, up to 10.

    Raises TypeError for anything else, ValueError for another shape, dtype or range.
    """
    if isinstance(x, Image.Image):
        if x.mode.startswith("I;16"):  # Pillow itself clips these, so that nearly all becomes white
            x = Image.fromarray(np.rint(np.asarray(x) / 257).astype(np.uint8))
        if x.mode in ("I", "F"):
            raise ValueError(
                f"A picture in Pillow's mode {x.mode!r} does not say what white is: "
                "scale its values to 0 to 255 and convert it to 'L' or 'RGB'"
            )
        rgba = x.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return np.asarray(Image.alpha_composite(white, rgba).convert("RGB"))
    if isinstance(x, np.ndarray):
        if x.ndim != 3 or x.shape[2] != 3 or not x.size:
            raise ValueError(f"A picture as an array has the shape (height, width, 3), not {x.shape}")
        if x.dtype == np.uint8:
            return x
        if not np.issubdtype(x.dtype, np.floating):
            raise ValueError(f"A picture as an array holds uint8, or floats from 0 to 1, not {x.dtype}")
        if not (np.isfinite(x).all() and x.min() >= 0 and x.max() <= 1):
            raise ValueError(f"A picture as a float array holds 0 to 1, not {x.min():.3g} to {x.max():.3g}")
        return np.rint(x * 255).astype(np.uint8)
    if isinstance(x, torch.Tensor):
        if x.ndim != 3 or x.shape[0] != 3 or not x.numel():
            hint = "; show a batch one by one" if x.ndim == 4 else ""
            raise ValueError(f"A picture as a tensor has the shape (3, height, width), not {tuple(x.shape)}{hint}")
        if not x.is_floating_point():
            raise ValueError(f"A picture as a tensor holds floats from -1 to 1, not {x.dtype}")
        x = x.detach().float().cpu()
        if not (torch.isfinite(x).all() and x.abs().max() <= 10):
            raise ValueError(f"A picture as a tensor holds about -1 to 1, not {x.min():.3g} to {x.max():.3g}")
        values = (x.clamp(-1, 1) + 1) * 127.5
        return values.round().to(torch.uint8).permute(1, 2, 0).numpy()  # (height, width, 3)
    raise TypeError(f"A picture is a PIL image, a NumPy array or a torch tensor, not {type(x).__name__}")


def as_numbers(x: Any) -> np.ndarray:
    """A tensor, on any device and in any dtype, or anything that NumPy reads, as an array of floats."""
    return x.detach().float().cpu().numpy() if isinstance(x, torch.Tensor) else np.asarray(x, dtype=float)


def picture_file(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """A picture as the bytes of a file. kind, options: as Pillow's `save` takes them."""
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def read_picture(data: bytes, name: str = "The file") -> Image.Image:
    """The picture in the bytes of a JPEG, PNG or WebP file, turned as its camera says; the first of an animation.

    Returns it in mode RGB. ValueError if it is of another kind, damaged, or of more than 50 million pixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of big and of odd pictures; the check below is stricter
            image = Image.open(io.BytesIO(data), formats=OPENED)
            pixels = image.width * image.height
            if pixels <= MAX_PIXELS:
                return Image.fromarray(as_picture(ImageOps.exif_transpose(image)))
    # Everything in here comes from the file, and Pillow answers a damaged one with errors of a dozen kinds.
    except Image.DecompressionBombError as error:
        raise ValueError(f"{name} has too many pixels: choose a picture of at most 50 million") from error
    except Exception as error:
        raise ValueError(f"{name} cannot be read as a picture: choose a JPEG, PNG or WebP file") from error
    raise ValueError(f"{name} has {image.width} x {image.height} pixels: choose a picture of at most 50 million")
