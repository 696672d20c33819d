"""Image decoding: from the bytes of files to pixels; a broken file is named."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable

import numpy
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from legw.apps.images.tree import Tree
from legw.errors import DataError, one_line, setting

Pixels = NDArray[numpy.uint8]


class BrokenImageError(DataError):
    """A file that is no image, or not all of one.

    Args:
        found: the file and its fault, without the remedy: where a broken image is left out there
            is none, and a process that decodes does not know who reads.
    """

    def __init__(self, found: str) -> None:
        super().__init__(f"{found}; replace it, or give {setting('skip_broken')}")
        self.found = found


def decoded(tree: Tree, name: str) -> Image.Image:
    """Return one image in RGB; grey, CMYK and palettes are converted.

    Raises:
        BrokenImageError: the file is no image, is cut off, or is too large to be one of a data set.
        DataError: it cannot be read.
    """
    content = tree.read(name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd metadata harm no pixels
            return Image.open(io.BytesIO(content)).convert("RGB")
    except UnidentifiedImageError:
        reason = "is no image that Pillow knows"
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        reason = f"is broken: {one_line(str(error))}"
    raise BrokenImageError(f"{tree.task}: {tree.path / name}: {reason}")


def stacked(
    tree: Tree, split: str, size: int, on_broken: Callable[[BrokenImageError], None]
) -> tuple[Pixels, NDArray[numpy.int64]]:
    """Decode all images of a split, which must have one size.

    Args:
        tree: folder of the images.
        split: the folder's part, train or val.
        size: height and width, in pixels.
        on_broken: called for each broken file; the file is left out if it returns.

    Returns:
        Pixels of shape (images, size, size, 3), and labels of shape (images,).

    Raises:
        DataError: an image has another size, or cannot be read.
    """
    names, labels = tree.splits[split].names, tree.splits[split].labels
    pixels = numpy.empty((len(names), size, size, 3), dtype=numpy.uint8)
    kept: list[int] = []
    for name, label in zip(names, labels, strict=True):
        try:
            image = decoded(tree, name)
        except BrokenImageError as broken:
            on_broken(broken)
            continue
        if image.size != (size, size):
            raise DataError(
                f"{tree.task}: {tree.path / name}: is {image.width}x{image.height}; "
                f"must be {size}x{size} pixels"
            )
        pixels[len(kept)] = numpy.asarray(image)
        kept.append(label)
    return pixels[: len(kept)], numpy.array(kept, dtype=numpy.int64)
