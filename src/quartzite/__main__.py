"""Run the command line as `python -m quartzite`."""

from quartzite.cli.main import main

if __name__ == "__main__":
    main()
