"""Operators on pixels: background, detection, deblending, moments, apertures, fluxes."""
