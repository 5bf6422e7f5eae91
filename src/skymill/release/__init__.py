"""From a Butler to public files: bricks, catalogues, sweeps, depth maps, checksums."""
