"""Where packs of units run: this machine, or a cluster."""
