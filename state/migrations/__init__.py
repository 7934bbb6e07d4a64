"""The migrations, shipped with the package.  A migration that was released never changes."""
