"""``python -m graphc``: the command line, for launchers that start a module."""

from graphc.cli import main

if __name__ == "__main__":
    main()
