"""Nothing lost, nothing twice, nothing torn: shown by killing, cutting the power, and checking."""
