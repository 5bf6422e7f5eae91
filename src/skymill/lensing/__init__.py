"""Mass profiles, aperture-mass maps, peaks, cluster masses, the red sequence."""
