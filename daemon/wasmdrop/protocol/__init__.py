"""The protocol: the meaning of the files that producers and consumers see."""
