"""Reference catalogues, astrometry, photometry, joint calibration, extinction."""
