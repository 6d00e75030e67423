"""The service, floor by floor: who is asked never knows who asks.

    body -> intake -> catalogue -> ledger -> lane -> adapter -> transport -> settling -> merge -> answer

`service` keeps this way open. `intake` parses and freezes; `catalogue` says where an event goes and how it is named
there, by `configuration`, `routing`, `links` and `periods`; `ledger` records, and hands work out; `lanes` bring it to
providers, through `transport` alone; `merge` makes one answer of many. What people decide or ask afterwards stands
above: `repair`, `corrections`, `moving` to another vendor, `reconciling`, `erasing`. On top are `api`, which `app` puts
together, and `cli`. The `simulator` knows nothing of all this.
"""

__all__ = ["__version__"]

__version__ = "0.1.0"
