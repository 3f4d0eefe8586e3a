"""A data set of real photographs, from Debian's package tuxpaint-stamps-default."""
