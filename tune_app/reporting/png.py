"""Images as PNG, by the standard library alone. Format: PNG specification, third edition (W3C 2025), 11.2."""

from __future__ import annotations

import struct
import zlib

import numpy as np
from numpy.typing import NDArray

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREY, RGB, INDEXED = 0, 2, 3


def png(image: NDArray[np.uint8]) -> bytes:
    """image (H, W) grey or (H, W, 3) colours, uint8, as PNG; with a palette where there are at most 256 colours."""
    height, width = image.shape[:2]
    palette = b""
    if image.ndim == 3:
        image, kind, palette = _indexed(image)
    else:
        kind = GREY
    header = struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)
    rows = np.ascontiguousarray(image).reshape(height, -1)
    lines = np.concatenate([np.zeros((height, 1), np.uint8), rows], axis=1)  # filter 0 before each line
    parts = [_chunk(b"IHDR", header), _chunk(b"PLTE", palette) if palette else b""]
    parts += [_chunk(b"IDAT", zlib.compress(lines.tobytes(), 9)), _chunk(b"IEND", b"")]
    return SIGNATURE + b"".join(parts)


def _indexed(image: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], int, bytes]:
    """Indices (H, W), kind and palette; the image as it is where it has too many colours."""
    codes = image.astype(np.uint32) @ np.array([65536, 256, 1], np.uint32)
    colors, indices = np.unique(codes, return_inverse=True)
    if len(colors) > 256:
        return image, RGB, b""
    table = np.stack([colors >> 16, colors >> 8 & 255, colors & 255], axis=1).astype(np.uint8)
    return indices.reshape(codes.shape).astype(np.uint8), INDEXED, table.tobytes()


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
