"""A cluster or survey as one typed YAML file, and the ordered, resumable steps that it takes."""
