"""Raw inputs: towers that a service calls with strings, lists and numbers as it has them."""
