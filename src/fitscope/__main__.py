"""``python -m fitscope``: the command line, where the script is not on the path."""

from fitscope.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
