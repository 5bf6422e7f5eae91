"""The demonstration: simulate a lensed field, run the campaign on it, compare with the truth."""
