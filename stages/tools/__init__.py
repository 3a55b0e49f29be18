"""Programs beside the pipeline, each run as `python -m stages.tools.NAME`; no stage needs them."""
