"""The registry: all of its verbs, and their invariants, over any `RegistryBackend`.

A version that lint refuses is never published; a published one never changes; an alias moves
only as a whole and remembers where it was. Knows nothing of files (`adapters.backends`),
training or serving.
"""

from __future__ import annotations

from adapters.verbs.aliases import Aliases
from adapters.verbs.experiments import Experiments
from adapters.verbs.publishing import Publishing


class Registry(Publishing, Aliases, Experiments):
    """Versions, aliases and experiments of many adapters, read and written."""
