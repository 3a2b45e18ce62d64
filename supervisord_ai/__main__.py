"""`python -m supervisord_ai` and the `ai-supervisor` script."""

import sys

from supervisord_ai.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
