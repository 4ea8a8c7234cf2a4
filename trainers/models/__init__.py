"""Models that ship with Counterpoint: exported encoders in folders of this package, each under a name."""
