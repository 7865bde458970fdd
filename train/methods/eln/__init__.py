"""ELN (Kwon & Kwak, CVPR 2022)."""
