"""Doors: what lets requests in from outside; each knows one protocol and no rule of the books."""
