"""``python -m dtq``: the command line, for environments whose PATH lacks the script."""

from dtq.cli import main

if __name__ == "__main__":
    main()
