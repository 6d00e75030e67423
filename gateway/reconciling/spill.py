"""A place on disk for more than memory should hold: records are parted by their keys, and read back part by part."""

import tempfile
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

__all__ = ["Spill"]

R = TypeVar("R", bound=msgspec.Struct)

PARTS = 128
"""A million records are some eight thousand a part."""
BUFFER = 32 * 1024


class Spill(Generic[R]):
    """Records of one kind. Those of one key are in one part, whatever spill they are in. Gone when closed."""

    def __init__(self, kind: type[R]) -> None:
        self._encode = msgspec.msgpack.Encoder(decimal_format="string").encode
        self._decoder = msgspec.msgpack.Decoder(kind)
        self._folder = tempfile.TemporaryDirectory(prefix="usage-gateway-")
        self._buffers = [bytearray() for _ in range(PARTS)]
        self.count = 0

    def put(self, key: str, record: R) -> None:
        """Put a record away."""
        part = blake2b(key.encode(), digest_size=1).digest()[0] % PARTS
        body = self._encode(record)
        buffer = self._buffers[part]
        buffer += len(body).to_bytes(4, "big") + body
        self.count += 1
        if len(buffer) > BUFFER:
            self._flush(part)

    def part(self, number: int) -> Iterator[R]:
        """Give the records of one part, in the order in which they were put."""
        self._flush(number)
        path = self._path(number)
        body = path.read_bytes() if path.exists() else b""
        at = 0
        while at < len(body):
            size = int.from_bytes(body[at : at + 4], "big")
            yield self._decoder.decode(memoryview(body)[at + 4 : at + 4 + size])
            at += 4 + size

    def close(self) -> None:
        """Let go of the disk."""
        self._folder.cleanup()

    def _flush(self, part: int) -> None:
        if self._buffers[part]:
            with self._path(part).open("ab") as file:
                file.write(self._buffers[part])
            self._buffers[part].clear()

    def _path(self, part: int) -> Path:
        return Path(self._folder.name) / str(part)
