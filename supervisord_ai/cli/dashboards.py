"""`dashboards export`: the dashboards for Grafana and the alert rules for Prometheus, written into a folder."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from supervisord_ai.cli.exits import Exit
from supervisord_ai.control.dashboards import files
from supervisord_ai.errors import UsageError


def run(args: Namespace) -> int:
    """Write the files; those of these names that are there are written anew."""
    folder = Path(args.folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files().items():
            (folder / name).write_text(text)
            print(folder / name)
    except OSError as exc:
        raise UsageError(f"{folder}: {exc.strerror}") from exc
    print("import the .json files in Grafana (Dashboards, New, Import), and name alerts.rules.yml in Prometheus' rule_files")
    return Exit.GOOD
