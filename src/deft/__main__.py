"""python -m deft, the form that `accelerate launch -m deft` needs"""

from deft.cli import entry

if __name__ == "__main__":
    entry()
