"""The main job, end to end: train two versions, serve them, see which is better, promote it."""
