#!/bin/sh
# Runs in the guest, as root, below a systemd unit with Delegate=yes.
export PYTHONPATH=/payload/site PYTHONDONTWRITEBYTECODE=1
exec python3 -u /payload/cap.py
