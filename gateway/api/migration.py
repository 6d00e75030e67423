"""The endpoints by which people move to another vendor: what would be refused there, and filling it in."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, model_validator
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from adapters._models import Instant
from canonical_schema import ErrorCode, Event
from gateway.api.access import tenant_of
from gateway.api.asked import Asked, Reason, answer, body_of, key_name, plain_body, query_of
from gateway.chain import LedgerReader, correction_id
from gateway.errors import RequestRefused
from gateway.intake import parse_in_slices, slices
from gateway.lanes.correcting import saying
from gateway.moving.backfill import Backfills
from gateway.moving.job import Job, Selection, new_id, shown
from gateway.moving.preflight import Preflight
from gateway.repair import Actor
from gateway.service import Gateway
from gateway.stored import stored
from gateway.times import from_micros, to_micros

__all__ = ["routes"]


class _Some(Asked):
    """Which events of the ledger."""

    customer: str | None = None
    meter: str | None = None
    since: Instant | None = Field(default=None, alias="from")
    until: Instant | None = Field(default=None, alias="to")

    @model_validator(mode="after")
    def _forwards(self) -> "_Some":
        if self.since is not None and self.until is not None and self.since >= self.until:
            raise ValueError("from must be before to")
        return self

    def wanted(self) -> Selection:
        """Return it as the gateway knows it."""
        return Selection(customer=self.customer, meter=self.meter, since=self.since, until=self.until)


_Rate = Annotated[float, Field(ge=0.001, allow_inf_nan=False, description="Events a second, at most.")]


class _Preflight(Asked):
    """`POST /v1/preflights`."""

    to: str
    filter: _Some = _Some()
    rate: _Rate | None = None


class _Backfill(Asked):
    """`POST /v1/backfills`."""

    to: str
    source: Literal["ledger", "file"]
    digest: str = Field(default="", max_length=128, description="Of a file: what tells it from any other.")
    filter: _Some = _Some()
    rate: _Rate | None = None
    too_old: Literal["fail", "skip"] = "fail"
    unproven: Literal["skip", "send"] = Field(
        default="skip", description="Of a file: events so old that nobody knows whether they were sent before."
    )
    reason: str = Reason()

    @model_validator(mode="after")
    def _of_one_source(self) -> "_Backfill":
        if self.source == "file" and (not self.digest or self.filter != _Some()):
            raise ValueError("a file needs a digest, and takes no filter")
        if self.source == "ledger" and self.digest:
            raise ValueError("a digest goes with source file")
        return self


class _Cancel(Asked):
    """`POST /v1/backfills/{id}/cancel`."""

    reason: str = Reason()


def routes(gateway: Gateway) -> list[Route]:
    """Return the endpoints, over one gateway."""
    api = _Migration(gateway)
    return [
        Route("/v1/preflights", api.preflight, methods=["POST"]),
        Route("/v1/backfills", api.backfills, methods=["GET", "POST"]),
        Route("/v1/backfills/{id}", api.backfill, methods=["GET"]),
        Route("/v1/backfills/{id}/events", api.events, methods=["POST"]),
        Route("/v1/backfills/{id}/cancel", api.cancel, methods=["POST"]),
    ]


class _Migration:
    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._backfills = Backfills(gateway)

    async def preflight(self, request: Request) -> Response:
        """Hold what is stored against a destination; nothing is sent and nothing changes."""
        tenant = tenant_of(request, self._gateway.keyring, "events:read")
        asked = await body_of(request, _Preflight)
        destination = self._gateway.catalogue.destinations.get(asked.to)
        if destination is None or not destination.serves(tenant):
            state = "is not configured" if destination is None else f"takes no events of tenant {tenant}"
            raise RequestRefused(400, ErrorCode.INVALID_REQUEST, f"to: {asked.to[:64]!r} {state}")
        wanted, now = asked.filter.wanted(), self._gateway.clock.now()
        made = Preflight(self._gateway.catalogue, asked.to, now)
        async for view in stored(self._gateway.ledger, tenant):
            async for part in slices(len(view.snapshot.events)):
                some = view.snapshot.events[part.start : part.stop]
                await self._gateway.catalogue.learn([(tenant, (event.customer for event in some))])
                for index in part:
                    event, received = view.snapshot.events[index], from_micros(view.snapshot.received_at(index))
                    if index not in view.erased and wanted.takes(event, event.timestamp or received):
                        says = await self._says(tenant, event)
                        if says is not None:
                            made.add(tenant, says, received)
        return answer(made.report(asked.rate))

    async def _says(self, tenant: str, event: Event) -> Event | None:
        """Return an event as it would be filled in; `None` for one that a later correction stands for, or that is void.

        What was corrected is fed by its last correction alone, with all that it says now.
        """
        made = event.corrects
        of, number = (event.id, 0) if made is None else (made.of, made.number)
        ledger, following = self._gateway.ledger, correction_id(of, number + 1)
        later = await LedgerReader(ledger).event(tenant, following)
        if later is None and await ledger.find(tenant, following) is not None:  # what it says is not kept any more
            return None
        if later is not None and later[2].corrects is not None:
            return None
        if made is None:
            return event
        return saying(event, event.id, made.after) if made.after else None

    async def backfills(self, request: Request) -> Response:
        if request.method == "GET":
            tenant = tenant_of(request, self._gateway.keyring, "events:read")
            query_of(request, ())
            return answer({"data": [shown(job) for job in await self._backfills.jobs(tenant)]})
        tenant = tenant_of(request, self._gateway.keyring, "admin")
        asked = await body_of(request, _Backfill)
        job = Job(
            id=new_id(),
            to=asked.to,
            tenant=tenant,
            source=asked.source,
            digest=asked.digest,
            wanted=asked.filter.wanted(),
            rate=asked.rate,
            too_old=asked.too_old,
            unproven=asked.unproven,
            created=to_micros(self._gateway.clock.now()),
        )
        begun = await self._backfills.begin(Actor(tenant, key_name(request), asked.reason), job)
        return answer(shown(begun), 201 if begun.id == job.id else 200)

    async def backfill(self, request: Request) -> Response:
        tenant = tenant_of(request, self._gateway.keyring, "events:read")
        query_of(request, ())
        return answer(shown(await self._backfills.job(tenant, request.path_params["id"])))

    async def cancel(self, request: Request) -> Response:
        tenant = tenant_of(request, self._gateway.keyring, "admin")
        asked = await body_of(request, _Cancel)
        actor = Actor(tenant, key_name(request), asked.reason)
        return answer(shown(await self._backfills.cancel(actor, request.path_params["id"])))

    async def events(self, request: Request) -> Response:
        """Take the next events of a file, as `POST /v1/events` takes them; each needs a time of its own."""
        tenant = tenant_of(request, self._gateway.keyring, "admin")
        query = query_of(request, ("first", "last"))
        first, last = _whole(query, "first"), _true(query, "last")
        intake = self._gateway.configuration.intake
        plain = await plain_body(request, intake.max_bytes)
        media_type = request.headers.get("content-type", "application/x-ndjson")
        # Whoever was cut off before the end was told says so again, with nothing more to send.
        sent = await parse_in_slices(plain, media_type, intake.max_events) if plain or not last else []
        events = [event for event in sent if isinstance(event, Event) and event.timestamp is not None]
        if len(events) < len(sent):
            detail = f"{len(sent) - len(events)} of {len(sent)} are no events with a time of their own: leave them out"
            raise RequestRefused(400, ErrorCode.INVALID_EVENT, detail)
        return answer(shown(await self._backfills.take(tenant, request.path_params["id"], events, first, last=last)))


def _true(query: Mapping[str, str], name: str) -> bool:
    if (text := query.get(name, "false")) not in {"true", "false"}:
        raise RequestRefused(400, ErrorCode.INVALID_REQUEST, f"{name}: should be true or false")
    return text == "true"


def _whole(query: Mapping[str, str], name: str) -> int:
    text = query.get(name, "")
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        detail = f"{name}: how many events of the file were taken before these, as a whole number"
        raise RequestRefused(400, ErrorCode.INVALID_REQUEST, detail)
    return int(text)
