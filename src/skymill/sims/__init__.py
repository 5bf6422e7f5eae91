"""The truth universe: stars, galaxies, lenses, raw frames with known answers."""
