"""What models exist and where their files are; knows nothing of engines or requests."""
