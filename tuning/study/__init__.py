"""The papers' tables and the scaling studies as declared grids of runs."""
