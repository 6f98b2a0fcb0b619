"""`python -m lit_pursamere` does what `lit-pursamere` does."""

from lit_pursamere.cli.main import console

if __name__ == "__main__":
    console()
