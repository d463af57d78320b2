"""Rows of a table by number, and the gradient of the table: rows added up by number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tvm import te, tirx
from tvm.tirx.script import builder as T

from bucketmod.compiler.kernels import emission as emit
from bucketmod.compiler.kernels import streams
from bucketmod.compiler.kernels.kernel import Kernel, TensorShape
from bucketmod.runtime.gradient_rows import ALL_ROWS, COUNT, LIST, TRUSTED, table_size

if TYPE_CHECKING:
    from bucketmod.compiler.target import CpuFeatures

Expr = Any


def _row(index: Expr, rows: int, dtype: str) -> Expr:
    """``index`` as a row number: numbers out of range mean the nearest row, as in MXNet on a CPU, and NaN the last one.

    It is brought into range before the conversion, which is undefined for what an integer cannot hold.
    """
    low, high = tirx.const(0, dtype), tirx.const(rows - 1, dtype)
    return tirx.Cast("int32", tirx.max(tirx.min(index, high), low))


@dataclass(frozen=True)
class Embedding(Kernel):
    """y[count, dim] = weight[vocab, dim] at the rows ids[count]. ``index_dtype``: float32, int32 or int64."""

    vocab: int
    dim: int
    count: int
    index_dtype: str = "float32"

    @property
    def name(self) -> str:
        return "embedding"

    @property
    def outputs(self) -> list[TensorShape]:
        return [((self.count, self.dim), "float32")]

    def portable(self) -> Any:
        """The only form: copies of rows are scheduled as well as they could be written."""
        ids = te.placeholder((self.count,), self.index_dtype, name="ids")
        weight = te.placeholder((self.vocab, self.dim), name="weight")
        rows = te.compute(
            (self.count, self.dim), lambda i, j: weight[_row(ids[i], self.vocab, self.index_dtype), j], name="rows"
        )
        return te.create_prim_func([ids, weight, rows])


@dataclass(frozen=True)
class EmbeddingGrad(Kernel):
    """dweight[vocab, dim] from ids[count] and dy[count, dim]: rows with the same number are added in their order.

    ``by_rows``: a third input is the table of :mod:`bucketmod.runtime.gradient_rows` for dweight, which still holds the
    gradient of another batch; the table is brought up to date.
    """

    vocab: int
    dim: int
    count: int
    index_dtype: str = "float32"
    by_rows: bool = False

    @property
    def name(self) -> str:
        return "embedding_grad"

    @property
    def outputs(self) -> list[TensorShape]:
        return [((self.vocab, self.dim), "float32")]

    def portable(self) -> Any:
        """Every row looks at all numbers: slow, but a plain reduction, which any target can schedule. It leaves a table
        as it is: one that says that all rows may hold anything stays true."""
        ids = te.placeholder((self.count,), self.index_dtype, name="ids")
        dy = te.placeholder((self.count, self.dim), name="dy")
        i = te.reduce_axis((0, self.count), name="i")

        def total(v: Expr, j: Expr) -> Expr:
            mine = _row(ids[i], self.vocab, self.index_dtype) == v
            return te.sum(tirx.Select(mine, dy[i, j], tirx.const(0.0, "float32")), axis=i)

        table = [te.placeholder((table_size(self.vocab),), "int32", name="table")] if self.by_rows else []
        return te.create_prim_func([ids, dy, *table, te.compute((self.vocab, self.dim), total, name="dweight")])

    def tuned(self, cpu: CpuFeatures) -> Any:
        """Each task owns a block of columns, so that no two threads add to one place and the order stays."""
        vectors = -(-self.dim // cpu.lanes)
        block = max(2, -(-vectors // 8)) * cpu.lanes
        whole, rest = divmod(self.dim, block)
        zeros = self.vocab * self.dim * streams.NS_PER_FLOAT
        cost = 3 * self.count * self.dim * streams.NS_PER_FLOAT

        def body(ids: Expr, dy: Expr, *rest_of_arguments: Expr) -> None:
            *tables, dweight = rest_of_arguments
            if tables:
                self._clear_listed(tables[0], dweight, zeros, cpu.lanes)
                self._list_rows(tables[0], ids)
            else:
                with streams.tasks(self.vocab, zeros) as row:
                    self._clear(dweight, row, cpu.lanes)
            with streams.tasks(whole + (rest > 0), cost) as task:
                if whole:
                    with T.If(task < whole), T.Then():
                        self._add_columns(ids, dy, dweight, task * block, block, cpu.lanes)
                if rest:
                    with T.If(task == whole), T.Then():
                        self._add_columns(ids, dy, dweight, whole * block, rest, cpu.lanes)

        arguments = [
            ("ids", ((self.count,), self.index_dtype)),
            ("dy", ((self.count, self.dim), "float32")),
            *([("table", ((table_size(self.vocab),), "int32"))] if self.by_rows else []),
            ("dweight", ((self.vocab, self.dim), "float32")),
        ]
        return emit.build_function(self.name, arguments, body)

    def _clear_listed(self, table: Expr, dweight: Expr, zeros: float, lanes: int) -> None:
        """The rows that are listed, or all."""
        several = min(self.count, self.vocab) * self.dim * streams.NS_PER_FLOAT > streams.WORTH_THREADS_NS
        with T.If(table[COUNT] < 0):
            with T.Then(), streams.tasks(self.vocab, zeros) as row:
                self._clear(dweight, row, lanes)
                T.buffer_store(table, 0, [LIST + self.vocab + row])
            with T.Else(), (T.parallel if several else T.serial)(table[COUNT]) as place:
                row = T.bind(table[LIST + place])
                self._clear(dweight, row, lanes)
                T.buffer_store(table, 0, [LIST + self.vocab + row])

    def _list_rows(self, table: Expr, ids: Expr) -> None:
        with T.If(table[TRUSTED] == 0):
            with T.Then():
                T.buffer_store(table, ALL_ROWS, [COUNT])
            with T.Else():
                T.buffer_store(table, 0, [COUNT])
                with T.serial(self.count) as i:
                    row = T.bind(_row(ids[i], self.vocab, self.index_dtype))
                    with T.If(table[LIST + self.vocab + row] == 0), T.Then():
                        T.buffer_store(table, 1, [LIST + self.vocab + row])
                        T.buffer_store(table, row, [LIST + table[COUNT]])
                        T.buffer_store(table, table[COUNT] + 1, [COUNT])

    def _clear(self, dweight: Expr, row: Expr, lanes: int) -> None:
        def clear(_slot: int, first: Expr, width: int) -> None:
            for offset, piece in emit.pieces(width, lanes):
                zero = emit.splat(0.0, piece) if piece > 1 else T.float32(0)
                emit.store(dweight, zero, row, first + offset, lanes=piece)

        streams.walk(self.dim, lanes, clear)

    def _add_columns(self, ids: Expr, dy: Expr, dweight: Expr, first: Expr, width: int, lanes: int) -> None:
        with T.serial(self.count) as i:
            row = T.bind(_row(ids[i], self.vocab, self.index_dtype))
            for offset, piece in emit.pieces(width, lanes):
                added = emit.load(dy, i, first + offset, lanes=piece)
                total = emit.load(dweight, row, first + offset, lanes=piece)
                emit.store(dweight, total + added, row, first + offset, lanes=piece)
