"""U2PL (Wang et al., CVPR 2022)."""
