"""`python -m zfcuda` is `zfcuda`."""

import sys

from zfcuda.cli import main

sys.exit(main())
