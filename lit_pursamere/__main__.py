"""`python -m lit_pursamere` does what `lit-pursamere` does."""

import sys

from lit_pursamere.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
