"""``python -m dispatcher`` is the ``dispatcher`` command."""

from __future__ import annotations

from dispatcher.cli.main import main

if __name__ == "__main__":
    main()
