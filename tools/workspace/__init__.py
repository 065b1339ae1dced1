"""The host side of the workspace: one module for each noun of the field."""
