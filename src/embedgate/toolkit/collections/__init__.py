"""Collections: texts with their vectors, searched by meaning and by words; stores behind one port; filters."""
