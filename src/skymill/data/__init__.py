"""The shared words: errors, masks, flags, tables, units, protocols. Imports nothing of ours."""
