"""What the door to hyper-nn is built from."""
