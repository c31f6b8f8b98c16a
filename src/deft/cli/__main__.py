"""python -m deft.cli"""

from deft.cli import entry

entry()
