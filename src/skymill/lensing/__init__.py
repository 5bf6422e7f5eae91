"""Gravitational lensing by clusters.

`maps` of the mass and their peaks, `masses` of halos, `members` on the red sequence; here what they
share: shear catalogues (`catalogue`), `cosmology` and the halo (`nfw`).
"""
