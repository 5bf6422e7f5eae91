"""Shear calibration, response, null tests."""
