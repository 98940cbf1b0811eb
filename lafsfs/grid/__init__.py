"""Storage servers as a client sees them: the HTTP transport, one server, all servers, who gets what."""

import sys

# Else httpx loads its command line, and with it click, rich and pygments: longer than all the rest of it takes.
sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]
