"""What host and guest call the things between them; both sides import this, and it imports nothing of ours."""

from __future__ import annotations

from pathlib import Path

PORTS = Path("/dev/virtio-ports")
LINK = "workspace.link"
"""The virtio port on which the guest says where it is, one JSON object a line."""
SHELL = "workspace.shell"
"""The virtio port on which a kept guest serves a shell."""
LOOKED = "looked_for_leaks"
"""The user property of a test after which leaks were looked for, and none was found."""
