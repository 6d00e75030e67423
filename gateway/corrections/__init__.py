"""Corrections as people ask for them: an event voided or replaced, or many by filter; foreseen first, if wished.

A correction is an event of its own, with deliveries of its own, recorded in one step with its audit. All that
follows from it is the lanes' to finish, whenever the process ends.
"""
