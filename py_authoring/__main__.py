"""`python -m py_authoring` is `py-authoring`."""

from py_authoring.cli import main

main()
