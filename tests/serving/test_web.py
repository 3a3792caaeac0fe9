"""Without the packages of the extra: one line says what is missing."""

import subprocess
import sys

CODE = """
import sys
sys.modules["starlette.applications"] = None
import cress_svcd.serving.app, cress_svcd.serving.server
from cress_svcd.cli.main import main
sys.exit(main(["serve", "model.pt"]))
"""


def test_a_missing_package_is_named_with_its_remedy():
    result = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("cress-svcd serve: error: the package ")
    assert line.endswith(" is not there: pip install 'cress_svcd[serve]'")
