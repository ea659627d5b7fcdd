"""Dense and cross-layer connections along the channels."""
