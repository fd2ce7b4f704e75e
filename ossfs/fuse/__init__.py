"""From FUSE requests to calls of fs, and back. No policy lives here."""
