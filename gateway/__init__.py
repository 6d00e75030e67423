"""The service: intake, catalogue, ledger, lanes, transport, HTTP API, command line, simulators."""

__all__ = ["__version__"]

__version__ = "0.1.0"
