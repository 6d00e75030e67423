"""The network and a mounted httpx transport lead to the same answer: what is tested on one holds on the other."""

import asyncio
import gzip
import zlib
from collections.abc import Callable, Sequence
from datetime import timedelta

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters import Fault, FaultKind, Reply, Request
from gateway.transport import MAX_REPLY, Transport
from tests.gateway.sockets import NEVER_LEFT, NO_ANSWER, Serve, adapter, answered, scripted, serving

# Nothing but zlib's own: httpx tells a bare deflate stream by its first two bytes, if they come together.
CODINGS: dict[str, Sequence[Callable[[bytes], bytes]]] = {
    "": [bytes],
    "identity": [bytes],
    "gzip": [gzip.compress, bytes],
    "GZIP": [gzip.compress],
    "deflate": [zlib.compress],
    "deflate, gzip": [lambda body: gzip.compress(zlib.compress(body))],
    "unheard-of": [bytes],
}
VALUES = st.text(st.characters(codec="latin-1", categories=["L", "N", "P", "S"]), min_size=1, max_size=8)


@st.composite
def answers(draw: st.DrawFn) -> list[bytes]:
    """What a server may write, in pieces: any status, headers, coding and framing, whole or cut off."""
    coding = draw(st.sampled_from(sorted(CODINGS)))
    body = draw(st.one_of(st.just(b""), st.sampled_from([b"[]", b'{"ok": 1.50}', b"\xff{"]), st.binary(max_size=99)))
    body = draw(st.sampled_from(CODINGS[coding]))(body)
    body = body[: draw(st.sampled_from([len(body)] * 3 + [len(body) // 2]))]
    names = st.sampled_from(["Retry-After", "retry-after", "X-Request-Id", "Set-Cookie", "Content-Type"])
    lines = [
        f"{name}: {value}".encode("latin-1") for name, value in draw(st.lists(st.tuples(names, VALUES), max_size=4))
    ]
    lines += [b"Content-Encoding: " + coding.encode()] if coding else []
    framing = draw(st.sampled_from(["length", "chunked", "close"]))
    if framing == "length":
        lines.append(b"Content-Length: %d" % len(body))
    elif framing == "chunked":
        lines.append(b"Transfer-Encoding: chunked")
        cut = draw(st.integers(0, len(body)))
        body = b"".join(b"%x\r\n%b\r\n" % (len(some), some) for some in (body[:cut], body[cut:]) if some) + b"0\r\n\r\n"
    status = draw(st.sampled_from([200, 201, 207, 302, 400, 401, 409, 429, 500, 503]))
    whole = b"\r\n".join([b"HTTP/1.1 %d Said" % status, *lines, b"", body])
    end = draw(st.sampled_from([len(whole)] * 4 + list(range(0, len(whole), 7))))
    middle = draw(st.integers(0, end))
    return [piece for piece in (whole[:middle], whole[middle:end]) if piece]


async def by_both(url: str, request: Request | None = None, *, seconds: float = 5.0) -> list[Reply | Fault]:
    """Send a request over the network, and over httpx's own transport in its place."""
    one, found = adapter("wingback", url), list[Reply | Fault]()
    for mount in (None, httpx.AsyncHTTPTransport(trust_env=False)):
        transport = Transport(one, timeout=timedelta(seconds=seconds), connections=4, mount=mount)
        try:
            found.append(await transport.send(request or one.request([b'{"a":1}'])))
        finally:
            await transport.close()
    return found


def judged(found: Reply | Fault) -> Reply | tuple[FaultKind, bool]:
    return found if isinstance(found, Reply) else (found.kind, found.timeout)


@settings(max_examples=100)
@given(answers())
def test_whatever_a_server_writes_both_ends_make_the_same_of_it(pieces: list[bytes]) -> None:
    async def ask() -> list[Reply | Fault]:
        async with serving(scripted(*pieces)) as url:
            return await by_both(url)

    network, mounted = map(judged, asyncio.run(ask()))
    assert network == mounted


@pytest.mark.parametrize(
    ("serve", "kind", "late"),
    [
        (scripted(read=False), NO_ANSWER, False),
        (scripted(), NO_ANSWER, False),
        (scripted(then="reset"), NO_ANSWER, False),
        (scripted(then="hang"), NO_ANSWER, True),
        (scripted(answered("200 OK", "Content-Length: 9", body=b"[1"), then="hang"), NO_ANSWER, True),
        (scripted(answered("200 OK", "Content-Length: 9", body=b"[1"), then="reset"), NO_ANSWER, False),
        (scripted(answered("200 OK", "Transfer-Encoding: chunked", body=b"nonsense\r\n")), NO_ANSWER, False),
        (scripted(b"\x16\x03\x01 this is no HTTP\r\n\r\n"), NO_ANSWER, False),
        (scripted(answered("200 OK", "Content-Encoding: gzip", body=b"no gzip at all")), NO_ANSWER, False),
        (scripted(answered("200 OK", body=b" " * (MAX_REPLY + 1))), NO_ANSWER, False),
        (scripted(answered("200 OK", "Content-Encoding: gzip", body=gzip.compress(b" " * 2**25))), NO_ANSWER, False),
    ],
    ids=[
        "closed-unread",
        "closed",
        "reset",
        "hangs",
        "half-hangs",
        "half-reset",
        "bad-chunk",
        "garbage",
        "no-gzip",
        "too-large",
        "swells",
    ],
)
async def test_what_breaks_is_the_same_fault_on_both_ends(serve: Serve, kind: FaultKind, late: bool) -> None:
    async with serving(serve) as url:
        assert [(kind, late)] * 2 == list(map(judged, await by_both(url, seconds=0.3 if late else 20)))


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:{}", "https://127.0.0.1:{}", "http://nowhere..invalid", "http://[::"]
)
async def test_what_never_left_did_so_on_neither_end(url: str) -> None:
    async with serving(scripted(b"this speaks no TLS", read=False)) as served:
        port = served.rpartition(":")[2]
        where = url.format(port if url.startswith("https:") else 1)
        request = Request(method="POST", url=where, headers={}, body=b"{}")
        assert [(NEVER_LEFT, False)] * 2 == list(map(judged, await by_both(served, request)))


async def test_a_header_that_is_no_ascii_leaves_on_neither_end() -> None:
    async with serving(scripted(answered("200 OK"))) as url:
        request = Request(method="POST", url=url, headers={"x-api-key": "k\u00e9y"}, body=b"{}")
        assert [(NEVER_LEFT, False)] * 2 == list(map(judged, await by_both(url, request)))


@pytest.mark.parametrize("body", [b"", b'{"a":1}', bytes(range(256)) * 1000])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "GET"])
@pytest.mark.parametrize("path", ["", "/v1/x", "/a b/%2f/\u00e9?q=a+b%20c&at=2026-01-01T00:00:00Z", "/x?a=%41&b=#no"])
async def test_a_server_hears_the_same_request_from_both(path: str, method: str, body: bytes) -> None:
    heard: list[tuple[bytes, dict[bytes, bytes], bytes]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
        said = {name.lower(): value for name, _, value in (line.partition(b": ") for line in lines[1:] if line)}
        heard.append((lines[0], said, await reader.readexactly(int(said.get(b"content-length", b"0")))))
        writer.write(answered("204 No Content"))

    async with serving(serve) as url:
        headers = {"x-key": "k", "content-type": "application/json", "accept": "application/json"}
        await by_both(url, Request(method=method, url=url + path, headers=headers, body=body))
    (target, network, sent), (other, mounted, same) = heard
    assert (target, sent) == (other, same)
    own = {b"connection", b"content-length"}  # of the connection; and of no body, which is said or left out
    assert {name: value for name, value in mounted.items() if name not in own} == {
        name: value for name, value in network.items() if name not in own
    }
