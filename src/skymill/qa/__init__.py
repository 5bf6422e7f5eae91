"""Numbers and figures from finished products; the only folder that imports matplotlib."""
