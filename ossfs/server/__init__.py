"""An OSS service in a directory. Shares no code with the client side."""
