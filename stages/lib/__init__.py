"""What the stages share: packages with one job each, which never import a stage."""
