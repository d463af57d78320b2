"""``mx.io``: batches and the iterators that make them."""

from bucketmod.io.batch import DataBatch, DataDesc, DataIter
from bucketmod.io.ndarray_iter import NDArrayIter
from bucketmod.io.resize_iter import ResizeIter

__all__ = ["DataBatch", "DataDesc", "DataIter", "NDArrayIter", "ResizeIter"]
