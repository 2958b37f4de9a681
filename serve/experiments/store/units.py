"""How experiments and units are written down: these so that they can be counted, and not read.

Who was assigned is a user's name or address as often as not. Its keyed hash counts as well; the key
is the experiment's salt, which is in the registry and not in the database, so that neither holds
who took part, and one person's hashes in two experiments do not lead to each other. Whoever has
both can still try out names: it is pseudonymous, not anonymous.
"""

from __future__ import annotations

import hashlib
import hmac

_HEX_DIGITS = 32
_LONGEST = 200


def key_of(adapter: str, experiment: str) -> str:
    """Return what an experiment is called in the store: `support/ab-1`, one among all adapters."""
    return f"{adapter}/{experiment}"


def names_of(key: str) -> tuple[str, str]:
    """Return adapter and experiment of such a key."""
    adapter, _, experiment = key.partition("/")
    return adapter, experiment


def stored(unit: str, salt: str, *, hashed: bool = True) -> str:
    """Return what is kept of a unit: 128 bits of HMAC-SHA256(salt, unit), in hex.

    The same on every server of an experiment, and for as long as it lives: `salt` is
    `Phase.salt`. With `hashed=False` the unit itself, unless it is too long or no text.
    """
    if not hashed and len(unit) <= _LONGEST and unit.isprintable():
        return unit
    given = b"unit:" + unit.encode("utf-8", "surrogatepass")
    return hmac.new(salt.encode(), given, hashlib.sha256).hexdigest()[:_HEX_DIGITS]
