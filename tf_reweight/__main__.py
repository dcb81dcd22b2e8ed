"""`python -m tf_reweight` is the command `tf-reweight`."""

import sys

from tf_reweight.cli.main import console

if __name__ == "__main__":
    sys.exit(console())
