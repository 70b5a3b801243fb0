"""`python -m lightdet_tools …` is `lightdet …`, with the code of the current folder."""

from lightdet_tools.cli import main

if __name__ == "__main__":  # not in the processes that a training starts
    main()
