"""``python tools/provision``: what tools/services runs."""

import sys
from pathlib import Path

# Run as a folder, this is not yet the package that its modules are in.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from provision.cli import main  # noqa: E402

sys.exit(main(sys.argv[1:]))
