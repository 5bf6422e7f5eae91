"""A survey before its bricks: its folder, image lists, zero points, calibrations and cuts."""
