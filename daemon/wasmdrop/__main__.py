"""``python -m wasmdrop``."""

import sys

from wasmdrop.cli.main import main

sys.exit(main())
