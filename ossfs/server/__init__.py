"""An OSS service in a directory: the embedded server. Shares no code with the client side.

Threads: a server runs in threads of its own; `RunningServer` may be used from any thread.
"""

from __future__ import annotations

from ossfs.server.config import ServerConfig
from ossfs.server.runtime import RunningServer, ServerError, serve, start_server

__all__ = ["RunningServer", "ServerConfig", "ServerError", "serve", "start_server"]
