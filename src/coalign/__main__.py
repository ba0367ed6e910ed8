"""`python -m coalign`: the command line."""

from coalign.cli.main import main

if __name__ == "__main__":
    main()
