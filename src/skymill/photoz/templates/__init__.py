"""Galaxy spectra as data; see README.md in this folder for their source."""
