"""One PipelineTask per file: unpack, call science, pack."""
