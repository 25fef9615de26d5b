"""The running cluster: a controller that feeds the central scheduler, launchers that start workers, the wire between them, and the wall clock."""
