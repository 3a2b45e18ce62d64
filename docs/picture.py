"""Makes a picture of a terminal: ANSI text on standard input, SVG on standard output.

    tmux capture-pane -e -p | .venv/bin/python docs/picture.py "scripts/demo" > docs/demo.svg

Nothing in the picture is loaded from elsewhere: rich's own template names a font on a web server, this one does not.
"""

from __future__ import annotations

import io
import re
import sys

from rich.console import Console
from rich.text import Text

WIDTH = 100


def main() -> int:
    title = sys.argv[1] if len(sys.argv) > 1 else "ai-supervisor"
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(Text.from_ansi(sys.stdin.read().rstrip("\n")))
    svg = console.export_svg(title=title)
    sys.stdout.write(re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL))
    return 0


if __name__ == "__main__":
    sys.exit(main())
