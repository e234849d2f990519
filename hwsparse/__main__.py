"""`python -m hwsparse` is the command `hwsparse`."""

from hwsparse.cli import main

main()
