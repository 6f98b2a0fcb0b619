"""Configurations: files, names and options become one, and its parts are built.

files, options, names of what is shipped -> composition.py -> one mapping -> building.py -> objects
"""
