#!/usr/bin/env python3
"""Compiles the buckets of a model ahead of time.

    python scripts/precompile_buckets.py MODEL --buckets 10,20,30 [--target cpu] [--mode train,infer] [--jobs N]
                                         [--tune]

MODEL is file.py:function or package.module:function; the function returns a bucketmod.precompile.Plan (sym_gen, keys,
shapes of data and labels for a key). Exit code 1 when any bucket failed; the others are compiled all the same.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import sys
from typing import Any

from bucketmod.precompile import as_json, load_plan, precompile, print_table


def parse_keys(text: str) -> list[Any]:
    """Comma-separated numbers or words; tuples in brackets: ``10,20`` or ``(10,20),(30,40)``."""
    try:
        value = ast.literal_eval(f"[{text}]")
    except (ValueError, SyntaxError):
        value = [part.strip() for part in text.split(",") if part.strip()]
    return value


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", metavar="MODEL", help="file.py:function or package.module:function")
    parser.add_argument("--buckets", type=parse_keys, help="bucket keys; default: all of the plan")
    parser.add_argument("--target", default="cpu", help="cpu, cpu:x86-64-v3, cpu:x86-64-v4, cpu:x86-64-v4-amx")
    parser.add_argument("--mode", default="train,infer", help="train, infer or both")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="compiler processes at a time")
    parser.add_argument("--tune", action="store_true",
                        help="measure on this machine how each matrix product is best cut (one artifact at a time)")
    parser.add_argument("--cache", help="directory of the artifact cache")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    options = parser.parse_args(argv)
    try:
        plan = load_plan(options.model)
        rows = precompile(plan, options.buckets, options.target, options.mode.split(","), options.jobs, options.cache,
                          show_progress=not options.json, tune=options.tune)  # fmt: skip
    except ValueError as error:
        print(f"precompile_buckets: {error}", file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps(as_json(rows), indent=1, default=str))
    else:
        print_table(rows)
    return 1 if any(row.error for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
