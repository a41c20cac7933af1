"""The commands of the package, one script each, and the recipes they can be given."""
