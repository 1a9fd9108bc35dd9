"""``python -m dtq``: the command line, for where the script is not on the path."""

from dtq.cli import main

if __name__ == "__main__":
    main()
