"""Cedar policies: checked, compiled once, asked on every request."""
