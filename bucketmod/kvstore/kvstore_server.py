"""The server of stores that span machines, which this package does not run."""

from __future__ import annotations

from typing import Any


class KVStoreServer:
    """NotImplementedError: servers belong to training on several machines."""

    def __init__(self, kvstore: Any) -> None:
        raise NotImplementedError("KVStoreServer: training on several machines (dist kvstores)")
