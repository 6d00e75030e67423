"""How fast the gateway is, against what could be done at best: `python -m bench`.

Every figure is measured beside its baseline in the same run, turn by turn, so that other work slows both.
The process under test is one, the load and the fast providers are another; all of it stays on loopback.
"""
