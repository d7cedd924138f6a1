"""scripts/test_tools.sh among stubs of the system's commands."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.documents import PROJECT

SCRIPT = PROJECT / "scripts" / "test_tools.sh"
TOOLS = ("redis-server", "chromium", "ip")


def run_with(folder: Path, stubs: dict[str, str], **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs the script where only these commands are there. Args: stubs: by name, what each does."""
    for name, line in stubs.items():
        stub = folder / name
        stub.write_text(f"#!{shutil.which('bash')}\n{line}\n")
        stub.chmod(0o755)
    line = [str(shutil.which("bash")), str(SCRIPT)]
    return subprocess.run(line, env={"PATH": str(folder), **environment}, capture_output=True, text=True, check=False)


def test_nothing_is_done_where_all_is_there(tmp_path: Path) -> None:
    found = run_with(tmp_path, dict.fromkeys(TOOLS, ""))
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("stubs", "message"),
    [
        ({"id": "echo 1000", "apt-get": ""}, "not there, and not installed: that needs root and apt-get"),
        ({"id": "echo 0"}, "not there, and not installed: that needs root and apt-get"),
        ({"id": "echo 0", "apt-get": "exit 100"}, "could not be installed"),
    ],
    ids=["no root", "no apt-get", "no archive"],
)
def test_tools_that_can_not_be_installed_fail_the_run(stubs: dict[str, str], message: str, tmp_path: Path) -> None:
    stubs = {"ip": "", "chromium": "", **stubs}
    told = f"test-tools: redis-server {message}; SKIP_TEST_TOOLS=1 skips the tests that need them\n"
    assert ((found := run_with(tmp_path, stubs)).returncode, found.stderr) == (1, told)
    assert ((found := run_with(tmp_path, stubs, SKIP_TEST_TOOLS="1")).returncode, found.stderr) == (0, told)


def test_an_archive_that_is_out_of_date_is_read_anew(tmp_path: Path) -> None:
    line = f"[[ $1 == update ]] && : > {tmp_path}/updated; [[ -e {tmp_path}/updated ]]"
    found = run_with(tmp_path, {"id": "echo 0", "apt-get": line})
    assert (found.returncode, found.stderr) == (0, "")
