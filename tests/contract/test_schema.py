"""What making the tables costs the daemon that makes them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

MIGRATE = """
import sys
from pathlib import Path
from supervisord_ai.store.schema import JOURNAL, connect, migrate
path = Path(sys.argv[1])
migrate(connect(path, JOURNAL), path, JOURNAL)
import numpy  # who wants it afterwards gets it
"""


def test_no_data_library_is_taken_along_where_one_is_installed(tmp_path: Path) -> None:
    (tmp_path / "pandas.py").write_text("print('pandas')")
    (tmp_path / "numpy.py").write_text("print('numpy')")
    environ = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.getcwd()])}
    asked = [sys.executable, "-c", MIGRATE, str(tmp_path / "j.db")]
    ran = subprocess.run(asked, env=environ, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "numpy\n", "")
