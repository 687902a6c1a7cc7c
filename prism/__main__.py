"""``python -m prism`` is the ``prism`` command."""

from prism.cli.main import main

if __name__ == "__main__":
    main()
