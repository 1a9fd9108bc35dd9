"""Thumbnails of a directory of pictures, with the client and with the command line.

    python docs/examples/thumbnails.py [DIRECTORY]

Needs dtq and Pillow (pip install pillow). Without a directory it paints some pictures first, on the cluster as well.
The thumbnails are put beside the pictures, in the directory ``thumbnails``.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageOps, ImageStat

from dtq import task
from dtq.testing import Cluster

SIZE = 160
PICTURES = 12


@task(max_retries=1, timeout=60)
def thumbnail(path: str, size: int = SIZE) -> str:
    """Make one thumbnail; where it is."""
    source = Path(path)
    target = source.parent / "thumbnails" / f"{source.stem}.jpg"
    target.parent.mkdir(exist_ok=True)
    with Image.open(source) as picture:
        ImageOps.exif_transpose(picture).convert("RGB").resize((size, size), Image.Resampling.LANCZOS).save(target)
    return str(target)


def paint(number: int, directory: str) -> str:
    """Paint one picture; where it is."""
    x, y, width = -0.7436, 0.1318, 2.4 * 0.7**number
    grey = Image.effect_mandelbrot((640, 480), (x - width, y - width, x + width, y + width), 60 + 4 * number)
    path = Path(directory) / f"picture-{number:02}.png"
    ImageOps.colorize(grey, "midnightblue", "gold", "orangered").save(path)
    return str(path)


def brightness(path: str) -> float:
    """How bright a picture is on average, from 0 to 255."""
    with Image.open(path) as picture:
        return ImageStat.Stat(picture.convert("L")).mean[0]


def main() -> None:
    # A cluster of its own, so that this can be run as it is. Where `dtq up` runs, Client() finds it by itself.
    with tempfile.TemporaryDirectory() as scratch, Cluster() as cluster, cluster.client() as queue:
        if len(sys.argv) > 1:
            pictures = sorted(str(path) for path in Path(sys.argv[1]).glob("*.[jp][pn]g"))
        else:
            pictures = list(queue.map(paint, range(PICTURES), [scratch] * PICTURES))

        # From Python: one batch, whose results come back in order.
        made = list(queue.map(thumbnail, pictures, progress=True))
        light = {Path(path).name: brightness(path) for path in made}
        print(f"the darkest is {min(light, key=light.__getitem__)}, the brightest {max(light, key=light.__getitem__)}")

        # The same from a shell: $ ls *.png | dtq submit thumbnails:thumbnail --each - --wait
        done = subprocess.run(
            [sys.executable, "-m", "dtq", "submit", "thumbnails:thumbnail", "--each", "-", "--wait"],
            input="\n".join(pictures),
            env={**os.environ, **cluster.environment},
            capture_output=True,
            text=True,
            check=True,
        )
        print(f"{len(made)} thumbnails from Python, {len(done.stdout.splitlines())} from the command line")


if __name__ == "__main__":
    from thumbnails import main  # by its name: the workers import `thumbnail` from there

    main()
