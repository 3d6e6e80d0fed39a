"""Adapters for engines, each imported by its own name: nothing here asks for an engine that is not installed."""
