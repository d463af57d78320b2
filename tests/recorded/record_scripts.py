"""Records what the scripts of tests/scripts print under MXNet 1.9.1 (Python 3.9).

Run: python tests/recorded/record_scripts.py. Writes scripts.json: run -> name -> number.
"""

import json
import os
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
SCRIPTS = os.path.join(os.path.dirname(HERE), "scripts")
sys.path.insert(0, SCRIPTS)
from script_runs import RUNS, SAME, generated_text, read_all_numbers, read_numbers  # noqa: E402


def main():
    found = {}
    for name, (script, calls) in [*RUNS.items(), *SAME.items()]:
        with tempfile.TemporaryDirectory() as folder:
            text = os.path.join(folder, "text.txt")
            with open(text, "w") as file:
                file.write(generated_text())
            printed = ""
            for call in calls:
                arguments = call.format(text=text, prefix=os.path.join(folder, "model")).split()
                command = [sys.executable, os.path.join(SCRIPTS, script), *arguments]
                run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=folder, check=True)
                printed += run.stdout.decode()
        found[name] = read_numbers(printed) if name in RUNS else read_all_numbers(printed)
        print(name, len(found[name]), "numbers")
    with open(os.path.join(HERE, "scripts.json"), "w") as file:
        json.dump(found, file, indent=1, sort_keys=True)
        file.write("\n")


if __name__ == "__main__":
    main()
