"""Choice of the images to label next, and their pre-annotations."""
