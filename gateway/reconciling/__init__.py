"""Ledger and providers held against each other, by what is read back; it settles what was in doubt, too."""
