"""``python -m nanopd``"""

import sys

from nanopd.cli import main

if __name__ == "__main__":
    sys.exit(main())
