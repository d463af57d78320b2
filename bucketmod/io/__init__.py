"""``mx.io``: batches and the iterators that make them."""

from bucketmod.io.batch import DataBatch, DataDesc, DataIter
from bucketmod.io.csv_iter import CSVIter
from bucketmod.io.mnist_iter import MNISTIter
from bucketmod.io.ndarray_iter import NDArrayIter
from bucketmod.io.prefetching_iter import PrefetchingIter
from bucketmod.io.refused import (
    ImageDetRecordIter,
    ImageRecordInt8Iter,
    ImageRecordIter,
    ImageRecordIter_v1,
    ImageRecordUInt8Iter,
    ImageRecordUInt8Iter_v1,
    LibSVMIter,
    MXDataIter,
)
from bucketmod.io.resize_iter import ResizeIter

__all__ = [
    "CSVIter",
    "DataBatch",
    "DataDesc",
    "DataIter",
    "ImageDetRecordIter",
    "ImageRecordInt8Iter",
    "ImageRecordIter",
    "ImageRecordIter_v1",
    "ImageRecordUInt8Iter",
    "ImageRecordUInt8Iter_v1",
    "LibSVMIter",
    "MNISTIter",
    "MXDataIter",
    "NDArrayIter",
    "PrefetchingIter",
    "ResizeIter",
]
