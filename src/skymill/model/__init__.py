"""Forward models of stars and galaxies, convolved with the PSF."""
