"""Defaults that faces show in their signatures. Client, lowest: imports nothing."""

from __future__ import annotations

from typing import Final

#: How long the first connection may take, and a call while the coordinator is away, in seconds.
TIMEOUT_S: Final = 10.0
#: How long a value is kept when this client has left, in seconds, where nothing else is said.
TTL_S: Final = 3600.0
