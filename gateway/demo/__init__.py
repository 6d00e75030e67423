"""The demo: an AI product's usage, four simulated vendors with a bad day each, and what the gateway makes of it."""

from gateway.demo.report import report
from gateway.demo.story import merged, needs_attention, settled
from gateway.demo.world import BATCH, batches, configuration, vendors

__all__ = ["BATCH", "batches", "configuration", "merged", "needs_attention", "report", "settled", "vendors"]
