"""The work itself, with the standard library only: hash, compress and thumbnail files that are made beforehand.

Everything here is a pure function of the file, so that the proof can compute every result again.
"""

from __future__ import annotations

import hashlib
import random
import zlib
from pathlib import Path

__all__ = ["KINDS", "do", "kind_of", "make_files"]

KINDS = ("checksum", "compress", "thumbnail", "receipt")
_FILES = 120
_SIDE = 64
_SMALL = 16
_WORDS = b"order parcel lamp ink paper copper blue seven eleven river stone quiet evening ship ".split()


def make_files(folder: Path, seed: int) -> list[str]:
    """Make the input files: texts and pictures (PPM); returns their names."""
    dice = random.Random(seed)
    names = []
    for number in range(_FILES):
        kind = KINDS[number % len(KINDS)]
        name = f"{kind}-{number:03}.{'ppm' if kind == 'thumbnail' else 'txt'}"
        data = _picture(dice) if kind == "thumbnail" else b" ".join(dice.choices(_WORDS, k=1500))
        (folder / name).write_bytes(data)
        names.append(name)
    return names


def kind_of(name: str) -> str:
    """Which kind of task works on the file."""
    return name.partition("-")[0]


def do(kind: str, data: bytes) -> bytes:
    """What the task makes of the file's content."""
    match kind:
        case "checksum":
            return hashlib.sha256(data).hexdigest().encode()
        case "compress":
            return zlib.compress(data, 6)
        case "thumbnail":
            return _thumbnail(data)
        case _:
            words = data.split()
            return f"{len(words)} words, {len(set(words))} different, {zlib.crc32(data):08x}".encode()


def _picture(dice: random.Random) -> bytes:
    """A binary PPM: a gradient with noise."""
    start, noise = dice.randrange(128), dice.randbytes(_SIDE * _SIDE * 3)
    pixels = bytes(start + (i // 3 % _SIDE) + (byte & 31) for i, byte in enumerate(noise))
    return b"P6 %d %d 255\n" % (_SIDE, _SIDE) + pixels


def _thumbnail(picture: bytes) -> bytes:
    """The mean of each square of pixels, in grey."""
    header, _, pixels = picture.partition(b"\n")
    side = int(header.split()[1])
    step = side // _SMALL
    small = bytearray()
    for y in range(_SMALL):
        rows = [pixels[3 * side * (y * step + dy) :][: 3 * side] for dy in range(step)]
        for x in range(_SMALL):
            square = b"".join(row[3 * x * step : 3 * (x + 1) * step] for row in rows)
            small.append(sum(square) // len(square))
    return b"P5 %d %d 255\n" % (_SMALL, _SMALL) + bytes(small)
