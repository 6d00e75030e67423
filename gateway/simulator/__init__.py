"""Simulated billing vendors, made from their adapters' declarations: in process, under httpx, or on a real socket."""

from gateway.simulator.app import create_app
from gateway.simulator.faults import FAULTS
from gateway.simulator.provider import Call, SimulatedProvider
from gateway.simulator.server import running, serve_in_thread
from gateway.simulator.world import Charge, StoredRow

__all__ = ["FAULTS", "Call", "Charge", "SimulatedProvider", "StoredRow", "create_app", "running", "serve_in_thread"]
