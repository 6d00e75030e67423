"""What an operator says, read from a YAML file and checked as a whole before the first event."""

from gateway.configuration._model import Configuration, Destination, Meter

__all__ = ["Configuration", "Destination", "Meter"]
