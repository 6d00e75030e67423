"""How the ledger's values stand in columns: packed, compressed, exact."""

import threading
from array import array
from collections.abc import Iterable, Sequence
from functools import lru_cache
from hashlib import blake2b

import msgspec
import zstandard

from canonical_schema import ErrorItem, Event
from gateway.ledger._events import StoredEvents
from gateway.ledger._ids import DIGEST
from gateway.ledger._model import AttemptRow, Part, Rendered, Sheet

__all__ = [
    "digests",
    "find_in_events",
    "pack_attempt",
    "pack_error",
    "pack_events",
    "pack_members",
    "pack_parts",
    "pack_times",
    "unpack_attempt",
    "unpack_error",
    "unpack_events",
    "unpack_members",
    "unpack_parts",
    "unpack_times",
]


class _Zstd(threading.local):
    """A compressor and a decompressor for each thread: neither may be shared."""

    def __init__(self) -> None:
        self.compress = zstandard.ZstdCompressor(level=1).compress
        self.decompress = zstandard.ZstdDecompressor().decompress


_zstd = _Zstd()

SMALL = 512
"""Bytes below which compressing takes more time than what it saves is worth: a single row, an attempt of a few."""


def _squeezed(packed: bytes) -> bytes:
    return packed if len(packed) < SMALL else _zstd.compress(packed)


def _unsqueezed(body: bytes) -> bytes:
    # No MessagePack of ours begins as a compressed frame does: that would be a number.
    return _zstd.decompress(body) if body.startswith(zstandard.FRAME_HEADER) else body


class _Sheet(msgspec.Struct):
    """A `Sheet`, as it is packed: a line each, or one by one; rows that are none are packed part by part."""

    keys: list[str] | str
    rows: list[bytes] | bytes


_parts_decoder = msgspec.msgpack.Decoder(list[list[Part]] | _Sheet)
_attempt_decoder = msgspec.msgpack.Decoder(AttemptRow)
_pack = msgspec.msgpack.Encoder().encode


@lru_cache(256)
def _begun(tenant: str) -> blake2b:
    return blake2b(f"{tenant}\0".encode(), digest_size=DIGEST)


def digests(tenant: str, ids: Iterable[str]) -> list[bytes]:
    """Return what ids are known by: tenant and id cannot be mistaken for another pair's."""
    begun = _begun(tenant).copy
    made: list[bytes] = []
    for one in ids:
        state = begun()  # half of what a new one with its arguments takes
        state.update(one.encode())
        made.append(state.digest())
    return made


def pack_members(members: Iterable[int]) -> bytes:
    """Return indexes as two bytes each."""
    return array("H", members).tobytes()


def unpack_members(packed: bytes) -> list[int]:
    """Return the indexes of `pack_members`."""
    return array("H", packed).tolist()


def pack_times(times: Iterable[int]) -> bytes:
    """Return instants as eight bytes each."""
    return array("q", times).tobytes()


def unpack_times(packed: bytes | None) -> Sequence[int]:
    """Return the instants of `pack_times`."""
    return array("q", packed or b"")


def pack_events(events: Sequence[Event]) -> bytes:
    """Return events as compressed lines."""
    return pack_text(StoredEvents.of(events).text)


def pack_text(text: bytes) -> bytes:
    """Return what `encode_events` wrote, compressed: the same as `pack_events` of the events."""
    return _zstd.compress(text)


def unpack_events(packed: bytes, size: int | None = None) -> StoredEvents:
    """Return the events of `pack_events`. `size`: how many there are, where that is known."""
    return StoredEvents(_zstd.decompress(packed), size)


def find_in_events(packed: bytes, customer: str) -> bool:
    """Return whether events of `pack_events` may be a customer's; `False` is certain."""
    return b'"customer":' + msgspec.json.encode(customer) in _zstd.decompress(packed)


def pack_parts(parts: Rendered | None) -> bytes | None:
    """Return rendered rows, compressed where they are many."""
    if isinstance(parts, Sheet):
        keys = "\n".join(parts.keys)
        plain = keys.count("\n") == max(0, len(parts) - 1) and len(parts) > 0
        return _squeezed(
            _pack({"keys": keys if plain else parts.keys, "rows": parts.rows if parts.lines is None else parts.lines})
        )
    return None if parts is None else _squeezed(_pack(parts))


def unpack_parts(packed: bytes | None) -> Rendered | None:
    """Return the rows of `pack_parts`."""
    if packed is None:
        return None
    parts = _parts_decoder.decode(_unsqueezed(packed))
    if not isinstance(parts, _Sheet):
        return parts
    keys = parts.keys.split("\n") if isinstance(parts.keys, str) else parts.keys
    return Sheet(keys, lines=parts.rows) if isinstance(parts.rows, bytes) else Sheet(keys, parts.rows)


def pack_attempt(attempt: AttemptRow) -> bytes:
    """Return an attempt, compressed where it is one of many."""
    return _squeezed(_pack(attempt))


def unpack_attempt(packed: bytes) -> AttemptRow:
    """Return the attempt of `pack_attempt`."""
    return _attempt_decoder.decode(_unsqueezed(packed))


def pack_error(error: ErrorItem | None) -> bytes | None:
    """Return an error as JSON."""
    return None if error is None else msgspec.json.encode(error)


def unpack_error(packed: bytes | None) -> ErrorItem | None:
    """Return the error of `pack_error`."""
    return None if packed is None else msgspec.json.decode(packed, type=ErrorItem)
