"""python -m deft, the form that `accelerate launch -m deft` needs"""

import sys

from deft.cli import main

if __name__ == "__main__":
    sys.exit(main())
