"""What the door to hypnettorch is built from."""
