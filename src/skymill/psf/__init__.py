"""Star choice, PSF models, PSF fit."""
