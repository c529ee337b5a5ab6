"""``python -m tricorn``: the same as the command ``tricorn``."""

from tricorn.cli import main

if __name__ == "__main__":
    main()
