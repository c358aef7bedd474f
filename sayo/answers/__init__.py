"""Extracting answers from responses (`extract`) and comparing them with the accepted ones (`compare`)."""
