"""Where a Redis ledger is: one server, the master that sentinels name, or the masters of a cluster."""

import re
from dataclasses import dataclass, field
from typing import Literal, Self
from urllib.parse import unquote

__all__ = ["Address"]

Shape = Literal["single", "sentinel", "cluster"]
_SHAPES: dict[str, tuple[Shape, int]] = {
    "": ("single", 6379),
    "+sentinel": ("sentinel", 26379),
    "+cluster": ("cluster", 6379),
}
_URL = re.compile(
    r"redis(?P<tls>s?)(?P<shape>\+sentinel|\+cluster|)://"
    r"(?:(?P<user>[^:@/?#]*)(?::(?P<password>[^@/?#]*))?@)?"
    r"(?P<hosts>[^@/?#]+)(?P<path>(?:/[^/?#]*)*)"
)
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\[\]:,]+)(?::([0-9]{1,5}))?")
FORMS = (
    "write redis://host:6379/0, redis+sentinel://host:26379,host:26379/master-name/0 or"
    " redis+cluster://host:6379,host:6379; rediss for TLS, user:password@ before the hosts"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """A URL that was understood."""

    shape: Shape
    hosts: tuple[tuple[str, int], ...]
    tls: bool
    user: str | None
    password: str | None = field(repr=False)
    master: str | None
    """The name that the sentinels know the master by."""
    database: int

    @classmethod
    def read(cls, url: str) -> Self:
        """Return the address in a URL. Raises ValueError, without the password, for one that means nothing."""
        match = _URL.fullmatch(url)
        if match is None:
            raise ValueError(f"is no address of a Redis server: {FORMS}")
        shape, port = _SHAPES[match["shape"]]
        hosts: list[tuple[str, int]] = []
        for given in match["hosts"].split(","):
            host = _HOST.fullmatch(given)
            if host is None or int(host[2] or port) > 65535:
                raise ValueError(f"{given!r} is no host and port: {FORMS}")
            hosts.append((host[1].strip("[]"), int(host[2] or port)))
        if shape == "single" and len(hosts) > 1:
            raise ValueError(f"several hosts are sentinels or a cluster: {FORMS}")
        steps = [unquote(step) for step in match["path"].split("/")[1:] if step]
        master = None
        if shape == "sentinel":
            if not steps:
                raise ValueError(f"lacks the name of the master that the sentinels watch: {FORMS}")
            master = steps.pop(0)
        database = steps.pop(0) if steps and shape != "cluster" else "0"
        if steps or not re.fullmatch(r"[0-9]{1,5}", database):
            raise ValueError(f"has more after the hosts than there is: {FORMS}")
        return cls(
            shape=shape,
            hosts=tuple(hosts),
            tls=bool(match["tls"]),
            user=unquote(match["user"]) if match["user"] else None,
            password=None if match["password"] is None else unquote(match["password"]),
            master=master,
            database=int(database),
        )

    def __str__(self) -> str:
        """Say where it is, without user and password."""
        kind = {"single": "", "sentinel": "+sentinel", "cluster": "+cluster"}[self.shape]
        hosts = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts)
        path = "" if self.shape == "cluster" else f"/{self.database}"
        path = path if self.master is None else f"/{self.master}{path}"
        return f"redis{'s' if self.tls else ''}{kind}://{hosts}{path}"
