"""Offers of a place for values to peers, and the test whether a peer can access it.

If a peer finds in the place's directories what the coordinator has written there, a file of random bytes, it runs on
the same machine as the same user. Names and addresses prove nothing of the kind.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from hashlib import sha256
from typing import Final

from dtq.model.messages import ValuesOffer
from dtq.values.place import Place

#: Prefix of the names of the proof files, and their length in bytes.
_PREFIX: Final = "proof-"
_BYTES: Final = 32


class Proof:
    """The proof files.

    Args:
        place: the place; no other coordinator offers it now, so others' proof files are left over and removed.

    Raises:
        OSError: they cannot be made.

    Attributes:
        name: the name of each.
        digest: SHA-256 of its content.
    """

    def __init__(self, place: Place) -> None:
        self._place = place
        self.name = _PREFIX + secrets.token_hex(8)
        content = secrets.token_bytes(_BYTES)
        self.digest = sha256(content).digest()
        for directory in place.paths:
            for name in os.listdir(directory):
                if name.startswith(_PREFIX):
                    _remove(os.path.join(directory, name))
            path = os.path.join(directory, self.name)
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                os.write(file, content)
            finally:
                os.close(file)

    def remove(self) -> None:
        """Remove the files."""
        for directory in self._place.paths:
            _remove(os.path.join(directory, self.name))


def _remove(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)


def offer_of(place: Place, proof: Proof | None) -> ValuesOffer:
    """The offer to peers.

    Args:
        place: the place of values.
        proof: its proof files; None if peers must not access it.
    """
    if proof is None:
        return ValuesOffer(max_value=place.max_value, checked=place.checked)
    return ValuesOffer(
        max_value=place.max_value,
        checked=place.checked,
        directories=place.paths,
        first_bytes=place.first_bytes,
        sync_from=place.sync_from,
        spare=place.spare,
        proof=proof.name,
        digest=proof.digest,
    )


def reachable(offer: ValuesOffer) -> Place | None:
    """The place of an offer, if this process can read and write it; None otherwise."""
    if not offer.directories or not offer.proof or "/" in offer.proof:
        return None
    for directory in offer.directories:
        try:
            if not os.path.isabs(directory) or not _is_proved(os.path.join(directory, offer.proof), offer.digest):
                return None
        except OSError:
            return None
        if not os.access(directory, os.W_OK | os.X_OK, effective_ids=True):
            return None
    return Place(
        tuple(offer.directories),
        first_bytes=offer.first_bytes,
        checked=offer.checked,
        max_value=offer.max_value,
        sync_from=offer.sync_from,
        spare=offer.spare,
    )


def _is_proved(path: str, digest: bytes) -> bool:
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        # The coordinator could not read files that another user's process makes there.
        return os.fstat(file).st_uid == os.geteuid() and sha256(os.read(file, _BYTES + 1)).digest() == digest
    finally:
        os.close(file)
