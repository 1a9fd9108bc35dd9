"""The other ways to run Python functions in processes, each in the way its own documentation does it.

One module a peer, imported only where the peer is installed. Each has a class `Contender`.
"""
