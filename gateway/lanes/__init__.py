"""From stored to delivered: one lane a destination, and all that a delivery goes through in it.

Taken from the ledger, prepared (rendered, or filled into stencils from a batch's columns), packed into lots, paced,
shipped, judged, written down.
"""
