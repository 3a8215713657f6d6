"""What stands around a hypernetwork: checkpoints, doctor, regulariser, views, wrappers."""
