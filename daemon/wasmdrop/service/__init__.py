"""The service: builds the parts, starts and stops them."""
