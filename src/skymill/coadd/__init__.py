"""Sky map, warp, PSF match, stack, artifact rejection."""
