"""A compile worker: ``python -m bucketmod.compiler.worker [IDLE]``.

Reads one job a line from standard input (JSON: program, mode, wrt, target, folder, tune; mode "update" makes the
optimizer kernels and reads only target and folder) and answers one line each:
``{"ok": true, "seconds": s}`` with the artifact written into ``folder``, or ``{"ok": false, "error": text}``. It lives
in a process of its own, so that neither TVM's compiler nor onnxruntime is ever loaded by the user's process, and a
crash in them ends a job and not a training run. After IDLE seconds without a job it ends by itself.
"""

from __future__ import annotations

import gc
import json
import os
import select
import sys
import time
import traceback
from pathlib import Path
from typing import Any, TextIO


def run_job(job: dict[str, Any]) -> dict[str, Any]:
    """Compiles one program, or the optimizer kernels, and writes the artifact.

    Errors of the user's making come back as one readable text.
    """
    from bucketmod.compiler.errors import CompileError

    started = time.perf_counter()
    try:
        from bucketmod.compiler.artifact_writer import write_artifact

        compiled = _compile(job)
        write_artifact(compiled.manifest, compiled.files, Path(job["folder"]))
    except (CompileError, NotImplementedError, ImportError, ValueError) as error:
        return {"ok": False, "error": str(error) or type(error).__name__, "kind": type(error).__name__}
    except Exception as error:  # a defect of ours or of TVM: keep the trace, it is what a report needs
        detail = traceback.format_exc(limit=-8)
        return {"ok": False, "error": f"{type(error).__name__}: {error}\n{detail}", "kind": "internal"}
    return {"ok": True, "seconds": time.perf_counter() - started}


def _compile(job: dict[str, Any]) -> Any:
    if job["mode"] == "update":
        from bucketmod.compiler.updates import compile_updates

        return compile_updates(job["target"])
    from bucketmod.compiler.pipeline import compile_program
    from bucketmod.compiler.program import Program

    program = Program.from_bytes(Path(job["program"]).read_bytes())
    return compile_program(program, job["mode"], job["wrt"], job["target"], job["tune"])


def serve(jobs: TextIO, answers: TextIO, idle: float | None = None) -> None:
    """Answers jobs, each of which comes when the one before is answered, until there are no more; or for ``idle``
    seconds."""
    while select.select([jobs], [], [], idle)[0] and (line := jobs.readline()):
        answers.write(json.dumps(run_job(json.loads(line))) + "\n")
        answers.flush()


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever libraries print goes to standard error, not between the answers
    # A job makes millions of small objects and drops them without cycles: looking for some took a tenth of its time.
    gc.set_threshold(500_000, 20, 20)
    serve(sys.stdin, answers, float(sys.argv[1]) if len(sys.argv) > 1 else None)


if __name__ == "__main__":
    main()
