"""``mx.kv`` (``mx.kvstore``): stores that add gradients of several devices up, and may update parameters."""

from bucketmod.kvstore.base import KVStoreBase, TestStore
from bucketmod.kvstore.kvstore import KVStore, create
from bucketmod.kvstore.kvstore_server import KVStoreServer

__all__ = ["KVStore", "KVStoreBase", "KVStoreServer", "TestStore", "create"]
