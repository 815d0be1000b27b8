"""A program of this repository, started as its README says: through `accelerate launch`, here on a CPU."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def launch(module, *arguments, processes=1):
    """Run a module in this many processes; AssertionError with the end of what it says if it fails."""
    # `--cpu` alone starts several processes through MPI only; with `--multi_gpu` accelerate starts them itself.
    how = ["--cpu"] if processes == 1 else ["--multi_gpu"]
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        *how,
        "--num_processes",
        str(processes),
        "-m",
        module,
    ]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true"}
    result = subprocess.run([*command, *map(str, arguments)], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
