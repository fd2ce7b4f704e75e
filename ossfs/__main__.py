"""`python -m ossfs`: the same as the command `ossfs`.

Threading: see cli.py.
"""

from ossfs.cli import main

if __name__ == "__main__":
    main()
