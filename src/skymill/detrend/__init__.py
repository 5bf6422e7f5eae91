"""Raw frames to flat electrons, and the calibration frames that this needs."""
