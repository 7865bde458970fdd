"""What is wrong with a folder of images and masks, also with one that cannot be opened for training."""
