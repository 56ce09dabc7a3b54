"""Pages: a report or a search as one HTML file that needs nothing else, and drawings as SVG."""
