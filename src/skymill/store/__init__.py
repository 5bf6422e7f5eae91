"""What lies on disk: storage classes, formatters, and the one accessor to lsst.images."""
