"""Says how a program of this folder is run, where it was run as a file: `python stages/tools/predict.py`.

Python then looks for modules in this folder and not in the working directory, and takes this one for the package
`stages`, which every program imports.
"""

import sys
from pathlib import Path

if __name__ == "stages":
    sys.exit(f"error: run this at the top of the repository, as `python -m stages.tools.{Path(sys.argv[0]).stem}`")
