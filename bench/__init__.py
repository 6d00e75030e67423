"""How fast the gateway is, against what the same machine could do at best: `python -m bench`.

Every figure is measured beside its baseline in the same run, turn by turn, so that a busy machine slows both.
The process under test is one, the load and the fast providers are another; all of it stays on loopback.
"""
