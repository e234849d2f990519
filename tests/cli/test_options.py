"""Options that commands share."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

NO_HOME = """
from pathlib import Path
def no_home():
    raise RuntimeError("Could not determine home directory.")
Path.home = no_home
from hwsparse.cli import options
print(options.CACHE)
"""


def test_a_user_without_a_home_keeps_measurements_where_the_command_runs() -> None:
    environment = {key: value for key, value in os.environ.items() if key != "XDG_CACHE_HOME"}
    done = subprocess.run([sys.executable, "-c", NO_HOME], env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout == "hwsparse-cache\n", done.stderr


def test_onnxruntime_reports_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "ORT_DISABLE_TELEMETRY"}
    environment |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", "import hwsparse.model"], env=environment, check=True, timeout=60)
    assert not list(tmp_path.rglob("*"))
