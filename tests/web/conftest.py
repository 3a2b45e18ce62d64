"""These tests need Chromium, so they are a target of their own: scripts/test-web."""

from __future__ import annotations

import os

collect_ignore_glob = [] if os.environ.get("AI_SUPERVISOR_TEST_WEB") else ["test_*.py"]
