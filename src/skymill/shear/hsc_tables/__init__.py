"""The HSC-Y1 shear calibration tables as data; see README.md in this folder for their source."""
