"""Where bundles come from and go to: the Hub, a shared folder, a tar file; each is checked before use."""
