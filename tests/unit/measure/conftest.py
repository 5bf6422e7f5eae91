import galsim
import numpy as np
import pytest


class GalsimPsf:
    """Stand-in for a measured PSF."""

    stamp_size = 31

    def __init__(self):
        self.profile = galsim.Moffat(beta=3.0, fwhm=3.5).shear(g1=0.05, g2=0.02)

    def draw(self, *, x, y, size=None, offset_x=None, offset_y=None):
        size = size or self.stamp_size
        dx = np.zeros(len(x)) if offset_x is None else offset_x
        dy = np.zeros(len(x)) if offset_y is None else offset_y
        return np.stack(
            [
                self.profile.shift(a, b).drawImage(nx=size, ny=size, scale=1.0).array
                for a, b in zip(dx, dy, strict=True)
            ]
        )


@pytest.fixture
def galsim_psf():
    return GalsimPsf()
