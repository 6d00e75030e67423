"""Who is asking, and whether they may: bearer keys with scopes and tenants."""

import re

from starlette.requests import Request

from canonical_schema import ErrorCode
from gateway.catalogue import DEFAULT_TENANT
from gateway.configuration.keys import Keyring, Scope
from gateway.errors import RequestRefused

__all__ = ["tenant_of"]


def tenant_of(request: Request, keys: Keyring, scope: Scope) -> str:
    """Return the tenant that the caller's key carries.

    Without any key configured (then the service listens on loopback only) everyone is the default tenant.
    Raises RequestRefused: 401 without a key that is known, 403 where it may not do this.
    """
    if not keys:
        return DEFAULT_TENANT
    match = re.fullmatch(r"(?i:bearer) +(\S+)", request.headers.get("authorization", ""))
    key = None if match is None else keys.find(match[1])
    if key is None:
        detail = "send `Authorization: Bearer ugw_...` with a key whose SHA-256 stands under auth.keys"
        headers = {"www-authenticate": 'Bearer realm="usage-gateway"'}
        raise RequestRefused(401, ErrorCode.UNAUTHORIZED, detail, headers=headers)
    request.scope["gateway.key"] = key.name
    if not key.allows(scope):
        raise RequestRefused(403, ErrorCode.FORBIDDEN, f"this key lacks the scope {scope}: give it under auth.keys")
    return key.tenant
