"""Single statements by several clients: scripts, tables, clients, and what may be loaded at all."""
