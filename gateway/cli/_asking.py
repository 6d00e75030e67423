"""Commands that ask a running gateway: where it is, who asks and why, and one request with its refusals in words."""

import re
from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import quote

import httpx
from cyclopts import Parameter

from gateway.cli._out import CommandFailed, Exit

__all__ = ["LOCAL", "Key", "Reason", "Url", "ask", "bearer", "in_path", "refused"]


def _is_address(_: object, url: str) -> None:
    """Raise ValueError for what is no address of a gateway."""
    if re.match(r"https?://[^/]", url) is None:
        raise ValueError(f"It must start with http:// or https://, like {LOCAL}.")


Url = Annotated[str, Parameter("--url", validator=_is_address, help="Where the gateway listens.")]
Key = Annotated[
    str | None, Parameter("--key", env_var="USAGE_GATEWAY_KEY", help="A key with the scope admin; events:read to look.")
]
Reason = Annotated[str, Parameter("--reason", help="Why; kept in the audit trail.")]
LOCAL = "http://127.0.0.1:8080"
PATIENCE = httpx.Timeout(30, read=600)
"""Seconds. The largest correction or erasure takes minutes on a busy machine, and giving up is no answer."""


def in_path(text: str) -> str:
    """Return text as one part of a path, also where it is made of dots, which a client would take for folders."""
    return quote(text, safe="").replace(".", "%2E")


def bearer(key: str | None) -> dict[str, str]:
    """Return the header that shows a key. Raises CommandFailed for one that no header can carry, and never shows it."""
    if key and not (key.isascii() and key.isprintable()):
        detail = "--key: holds a line end, or another character that no key has: look at where it comes from"
        raise CommandFailed(detail, Exit.USAGE)
    return {"authorization": f"Bearer {key}"} if key else {}


def ask(url: str, key: str | None, method: str, path: str, body: Mapping[str, Any] | None = None) -> httpx.Response:
    """Return the answer to one request. Raises CommandFailed for every refusal, in its own words."""
    headers = bearer(key)
    try:
        answer = httpx.request(
            method, url.rstrip("/") + path, json=body, headers=headers, timeout=PATIENCE, trust_env=False
        )
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
        raise CommandFailed(
            f"{url}: no gateway answers there ({type(error).__name__}): start it, or name it with --url"
        ) from None
    except httpx.TransportError as error:
        raise CommandFailed(
            f"{url}: no whole answer came ({type(error).__name__}), and what was asked may be done: look before you ask"
            " again"
        ) from None
    if answer.is_error:
        raise refused(url, answer)
    return answer


def refused(url: str, answer: httpx.Response) -> CommandFailed:
    """Return what a refusal says, in its own words."""
    try:
        problem = answer.json()
        return CommandFailed(f"{problem['code']}: {problem['detail']}")
    except (ValueError, KeyError, TypeError):  # a proxy's own words, say
        return CommandFailed(f"{url}: {answer.status_code}, and not in a gateway's words: is it one?")
