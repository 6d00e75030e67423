"""The rooms behind the Redis ledger: address, link, layout and the scripts that run in the server."""
