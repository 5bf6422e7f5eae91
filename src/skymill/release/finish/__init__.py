"""After the bricks: masks of neighbours, summaries, sweeps, matches, checks, publication."""
