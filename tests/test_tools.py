"""What holds for every program of stages/tools."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROGRAMS = [path for path in (ROOT / "stages/tools").glob("*.py") if '"__main__":' in path.read_text()]


@pytest.mark.parametrize("folder", [".", "stages/tools"])
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.stem)
def test_a_program_that_is_run_as_a_file_says_how_it_is_run(program: Path, folder: str) -> None:
    file = program.relative_to(ROOT / folder)

    result = subprocess.run([sys.executable, file], cwd=ROOT / folder, capture_output=True, text=True)

    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == (
        f"error: run this at the top of the repository, as `python -m stages.tools.{program.stem}`\n"
    )
