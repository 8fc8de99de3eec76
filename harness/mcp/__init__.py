"""The inspectors as tools of an MCP server: what an assistant may see of a cluster, and nothing that it could do."""
