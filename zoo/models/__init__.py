"""Networks and the deployable models made of them."""
