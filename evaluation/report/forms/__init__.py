"""Forms of a report, each made from its rows and tables."""
