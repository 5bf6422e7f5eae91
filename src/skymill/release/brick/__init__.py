"""One brick: from the exposures that touch it to its catalogue, coadds and metrics."""
