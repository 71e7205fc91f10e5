"""Cedar policies: checked, compiled once, evaluated on every request."""
