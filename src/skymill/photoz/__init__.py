"""Photometric redshifts: templates, priors, likelihood, p(z), metrics."""
