"""One module for each family of verbs; each parses options, calls one function of a package, and prints."""
