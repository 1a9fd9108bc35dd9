"""Defaults in the signatures of faces. Client, lowest: imports nothing."""

from __future__ import annotations

from typing import Final

#: Longest time of the first connection, and of a call while the coordinator is away, in seconds.
TIMEOUT_S: Final = 10.0
#: Default time to live of a value after this client has left, in seconds.
TTL_S: Final = 3600.0
