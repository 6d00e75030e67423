"""How the ledger gets at a Redis server: over TLS, as a user, in a database of its own; and how it is turned away."""

import asyncio
import contextlib
import re
import shutil
import ssl
import subprocess
import sys
from collections.abc import AsyncGenerator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from gateway.configuration.file import loads
from gateway.errors import ConfigurationError, LedgerUnavailable
from gateway.ledger import Change, ClaimKind, Code, Ledger, Plan
from gateway.ledger.redis import RedisLedger
from gateway.opening import ledger_of
from tests.gateway.ledger.conftest import TENANT, events, rendered
from tests.redis_servers import Cluster, Server
from tests.waiting import until

PLAN = Plan(live=("a",))
PASSWORD = "hunter2-and-more"
GUIDE = Path(__file__).parents[3] / "docs" / "operating-redis.md"


def rights(*, cluster: bool = False) -> list[str]:
    """Return what the guide says that the user needs."""
    found = re.search(r"The user needs `([^`]+)`, and `([^`]+)` on a cluster", GUIDE.read_text("utf-8"))
    assert found is not None
    return found[1].split() + ([found[2]] if cluster else [])


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    one = Server(tmp_path_factory.mktemp("server"))
    one.command("ACL", "SETUSER", "gateway", "on", f">{PASSWORD}", *rights())
    yield one
    one.kill()


@pytest.fixture
def server(shared: Server) -> Server:
    """A server with a user for the gateway, empty."""
    shared.command("FLUSHALL")
    return shared


class Papers(NamedTuple):
    """An authority, a server's certificate for 127.0.0.1 and a client's, and another authority."""

    authority: Path
    server: tuple[Path, Path]
    client: tuple[Path, Path]
    stranger: Path


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Papers:
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl to make certificates with")
    folder = tmp_path_factory.mktemp("papers")

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    fresh = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    for name in ("authority", "stranger"):
        openssl("req", "-x509", *fresh, "-keyout", f"{name}.key", "-out", f"{name}.pem", "-subj", f"/CN={name}")
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1\n", "ascii")
    for name in ("server", "client"):
        openssl("req", *fresh, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        signing = ["-CA", "authority.pem", "-CAkey", "authority.key", "-CAcreateserial", "-extfile", "names"]
        openssl("x509", "-req", "-in", f"{name}.csr", *signing, "-out", f"{name}.pem")
    pairs = [(folder / f"{name}.pem", folder / f"{name}.key") for name in ("server", "client")]
    return Papers(folder / "authority.pem", pairs[0], pairs[1], folder / "stranger.pem")


@contextlib.asynccontextmanager
async def over_tls(server: Server, papers: Papers) -> AsyncGenerator[int]:
    """Speak TLS in front of a server, and ask whoever comes for a certificate; give the port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*papers.server)
    context.load_verify_locations(papers.authority)
    context.verify_mode = ssl.CERT_REQUIRED

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while piece := await reader.read(65536):
                writer.write(piece)
                await writer.drain()
        writer.close()

    async def between(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner = await asyncio.open_connection("127.0.0.1", server.port)
        await asyncio.gather(pipe(reader, inner[1]), pipe(inner[0], writer))

    listener = await asyncio.start_server(between, "127.0.0.1", 0, ssl=context)
    try:
        yield listener.sockets[0].getsockname()[1]
    finally:
        listener.close()


def configured(url: str, **members: Any) -> str:
    named = {name: str(value) for name, value in members.items()}
    return yaml.safe_dump({"ledger": {"url": url, **named}, "listen": {"port": 0}, "meters": {"calls": {}}})


def ledger_at(url: str, **members: Any) -> Ledger:
    return ledger_of(loads(configured(url, **members), {}).ledger, timedelta(seconds=5))


async def went(ledger: Ledger) -> None:
    """Do with a ledger what a gateway does every day."""
    await ledger.open()
    try:
        claims = await ledger.record(TENANT, 1000, events("e1", "e2"), [PLAN] * 2)
        assert [ClaimKind.NEW] * 2 == [claim.kind for claim in claims]
        works = await ledger.take("a", 5000, 10)
        numbers = await ledger.intend([rendered(work) for work in works], 5000)
        changes = [
            Change(work=number, batch=one.batch, destination="a", members=one.members, code=Code.ACCEPTED, group=None)
            for number, one in zip(numbers, works, strict=True)
        ]
        await ledger.settle(changes, [])
        assert {"a": {"accepted": 2}} == {name: dict(found) for name, found in (await ledger.counts()).items()}
        await ledger.name({"a": "flexprice"})
        assert {} == dict(await ledger.depth())
        assert await ledger.find(TENANT, "e1") is not None
        assert isinstance(ledger, RedisLedger)
        assert "always" == ledger.durability, "the user may ask for the settings"
        assert [] == (await ledger.add_up())["problems"]
    finally:
        await ledger.close()


async def refused(ledger: Ledger) -> str:
    """Return why a ledger does not open; nowhere in that is the password."""
    with pytest.raises((ConfigurationError, LedgerUnavailable)) as caught:
        await ledger.open()
    said = str(caught.value)
    assert PASSWORD not in said
    assert PASSWORD not in repr(caught.value)
    return said


async def test_a_user_with_no_more_rights_than_documented_has_a_database_of_its_own(server: Server) -> None:
    await went(ledger_at(f"redis://gateway@127.0.0.1:{server.port}/3", password=PASSWORD))
    assert ["db3"] == re.findall(r"^db\d+", server.raw("INFO", "keyspace").decode(), re.MULTILINE)


@pytest.mark.parametrize("command", ["FLUSHALL", "FLUSHDB", "SWAPDB 0 1", "SHUTDOWN", "CONFIG SET save x"])
def test_the_documented_rights_are_not_enough_to_throw_the_ledger_away(server: Server, command: str) -> None:
    assert b"has no permissions" in server.command("ACL", "DRYRUN", "gateway", *command.split())


async def test_a_user_and_a_password_may_stand_in_the_url(server: Server) -> None:
    await went(ledger_at(f"redis://gateway:{PASSWORD}@127.0.0.1:{server.port}/0"))


async def test_everything_goes_over_tls_with_a_certificate_on_both_sides(server: Server, papers: Papers) -> None:
    async with over_tls(server, papers) as port:
        cert, key = papers.client
        await went(
            ledger_at(
                f"rediss://gateway@127.0.0.1:{port}/0",
                password=PASSWORD,
                ca_file=papers.authority,
                cert_file=cert,
                key_file=key,
            )
        )


async def test_a_cluster_is_spoken_to_over_tls_at_the_ports_that_it_announces(tmp_path: Path, papers: Papers) -> None:
    cluster = Cluster(tmp_path, replicas=False)
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(cluster.kill)
        ports = [await stack.enter_async_context(over_tls(server, papers)) for server in cluster.masters]
        for server, port in zip(cluster.masters, ports, strict=True):
            server.command("CONFIG", "SET", "cluster-announce-bus-port", server.port + 10_000)
            server.command("CONFIG", "SET", "cluster-announce-port", port)
        wanted = sorted(ports)
        await until(lambda: all(wanted == announced(server) for server in cluster.masters), "not all know all ports")
        cert, key = papers.client
        files = {"ca_file": papers.authority, "cert_file": cert, "key_file": key, "replicas": 0}
        await went(ledger_at(f"rediss+cluster://127.0.0.1:{ports[0]}", **files))
        said = await refused(
            ledger_at(f"rediss+cluster://127.0.0.1:{ports[0]}", **files | {"ca_file": papers.stranger})
        )
        assert "shows a certificate that is not trusted" in said


def announced(server: Server) -> list[int]:
    return sorted(port for _, _, (_, port, *_), *_ in server.command("CLUSTER", "SLOTS"))


async def test_who_is_not_to_be_trusted_is_told_nothing(server: Server, papers: Papers) -> None:
    async with over_tls(server, papers) as port:
        url = f"rediss://gateway@127.0.0.1:{port}/0"
        said = await refused(ledger_at(url, password=PASSWORD, ca_file=papers.stranger))
        assert f"127.0.0.1:{port} shows a certificate that is not trusted" in said
        assert "ledger.ca_file" in said
        said = await refused(ledger_at(url, password=PASSWORD, ca_file=papers.authority))
        assert "the Redis server" in said, "which asks for a certificate of ours"


def test_files_for_tls_that_are_not_there_or_something_else_are_named(papers: Papers) -> None:
    missing = papers.authority.with_name("none.pem")
    with pytest.raises(ConfigurationError, match=r"ledger\.ca_file: .*none\.pem cannot be used: .*No such file"):
        ledger_at("rediss://127.0.0.1/0", ca_file=missing)
    with pytest.raises(ConfigurationError, match=r"ledger\.cert_file: .*server\.pem with .*client\.key cannot be used"):
        ledger_at("rediss://127.0.0.1/0", cert_file=papers.server[0], key_file=papers.client[1])


@pytest.mark.parametrize("url", ["redis://gateway:{}wrong@127.0.0.1:{}/0", "redis://nobody:{}@127.0.0.1:{}/0"])
async def test_a_wrong_password_or_user_is_refused_at_the_start(server: Server, url: str) -> None:
    said = await refused(ledger_at(url.format(PASSWORD, server.port)))
    assert f"127.0.0.1:{server.port} refuses the user or the password" in said


async def test_a_user_who_may_not_what_is_needed_is_refused_at_the_start(server: Server) -> None:
    server.command("ACL", "SETUSER", "reader", "on", f">{PASSWORD}", "+@read", "+@connection", "+info", "~*")
    said = await refused(ledger_at(f"redis://reader:{PASSWORD}@127.0.0.1:{server.port}/0"))
    assert "evalsha" in said.lower()


async def test_the_command_says_it_and_ends(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(configured(f"redis://gateway@127.0.0.1:{server.port}/0", password=f"{PASSWORD}wrong"), "utf-8")
    command = (sys.executable, "-m", "gateway", "serve", "--config", str(file))
    ended = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    said = (await asyncio.wait_for(ended.communicate(), 60))[0].decode()
    assert ended.returncode
    assert "refuses the user or the password" in said
    assert PASSWORD not in said


async def test_a_cluster_says_that_it_refuses_the_password(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, replicas=False)
    try:
        hosts = ",".join(f"127.0.0.1:{server.port}" for server in cluster.masters)
        for server in cluster.masters:
            server.command("ACL", "SETUSER", "gateway", "on", f">{PASSWORD}", *rights(cluster=True))
        await went(ledger_at(f"redis+cluster://gateway:{PASSWORD}@{hosts}", replicas=0))
        said = await refused(ledger_at(f"redis+cluster://gateway:{PASSWORD}wrong@{hosts}", replicas=0))
        assert "refuses the user or the password" in said
    finally:
        cluster.kill()
